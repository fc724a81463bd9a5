"""Reading a store: whole, in any order, from several processes."""

import multiprocessing
import pickle
import random
from concurrent.futures import ProcessPoolExecutor

import h5py
import numpy as np
import pytest

from kdkit.runs import store as store_module
from kdkit.runs.records import Field
from kdkit.runs.store import describe_store, open_store
from kdkit.runs.store_build import build_store
from tests.runs.stores import CHUNKS, FORK, HEADER, KEYS, make_record, refused, same_record


def test_every_sample_is_read_back_as_it_was_made(finished):
    with open_store(finished) as store:
        assert store.keys == KEYS
        assert all(same_record(store.read(key), make_record(key)) for key in KEYS)


def test_samples_are_found_in_any_order(finished):
    store = open_store(finished)
    assert all(same_record(store.read(key), make_record(key)) for key in random.Random(0).choices(KEYS, k=200))


def test_samples_are_right_after_others_took_their_place_in_memory(finished, monkeypatch):
    monkeypatch.setattr(store_module, "RECENT_BYTES", 20_000)
    store = open_store(finished)
    assert all(same_record(store.read(key), make_record(key)) for key in random.Random(1).choices(KEYS, k=200))


def test_a_sample_without_rows_keeps_widths_and_types(finished):
    key = next(key for key in KEYS if len(make_record(key)["ids"]) == 0)
    record = open_store(finished).read(key)
    assert {name: (values.dtype.name, values.shape) for name, values in record.items()} == {
        "ids": ("uint16", (0, 8)),
        "logprobs": ("float16", (0, 8)),
        "num_bytes": ("int32", (0,)),
    }


def test_chunks_may_hold_no_rows_and_no_samples(tmp_path):
    empty = [{"x": np.empty((0, 3), np.float32)}]
    path = build_store(tmp_path / "a.h5", {}, [Field("x", "float32", 3)], [["a"], []], lambda i: empty[: 1 - i])
    assert open_store(path).read("a")["x"].shape == (0, 3)


def test_what_was_read_is_the_callers_to_change(finished):
    store = open_store(finished)
    for values in store.read(KEYS[1]).values():
        values[...] = 0
    assert same_record(store.read(KEYS[1]), make_record(KEYS[1]))


def test_a_closed_store_opens_again_when_it_is_read(finished):
    with open_store(finished) as store:
        store.read(KEYS[0])
    assert same_record(store.read(KEYS[-1]), make_record(KEYS[-1]))


def test_an_unknown_sample_is_refused(finished):
    with refused("'nobody'"):
        open_store(finished).read("nobody")


def test_missing_samples_are_counted(finished):
    store = open_store(finished)
    store.require(KEYS)
    with refused("44 samples", "none of 2", "'x'"):
        store.require([*KEYS, "x", "y"])


def test_a_pickled_store_reads(finished):
    store = open_store(finished)
    store.read(KEYS[0])
    assert same_record(pickle.loads(pickle.dumps(store)).read(KEYS[5]), make_record(KEYS[5]))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_read_a_store_that_is_open_here(finished, method):
    store = open_store(finished)
    store.read(KEYS[0])
    with ProcessPoolExecutor(2, multiprocessing.get_context(method)) as pool:
        records = list(pool.map(store.read, KEYS))
    assert all(same_record(record, make_record(key)) for record, key in zip(records, KEYS, strict=True))
    assert same_record(store.read(KEYS[7]), make_record(KEYS[7]))


def test_processes_forked_from_one_open_store_read_at_once(finished):
    store = open_store(finished)
    store.read(KEYS[0])

    def check_all(seed: int) -> None:
        order = random.Random(seed).sample(KEYS, len(KEYS))
        assert all(same_record(store.read(key), make_record(key)) for key in order * 3)

    workers = [FORK.Process(target=check_all, args=(seed,)) for seed in range(4)]
    for worker in workers:
        worker.start()
    check_all(9)
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4


def test_plain_h5py_reads_a_store(finished):
    with h5py.File(finished) as file:
        group = file["chunks/00002"]
        assert (group["ids"].compression, group["ids"].compression_opts, group["ids"].shuffle) == ("gzip", 4, True)
        record = make_record(CHUNKS[2][3])
        assert group["lengths"][3] == len(record["ids"])
        assert all(np.array_equal(group[name][3, : len(values)], values) for name, values in record.items())


def test_a_sample_is_read_without_decompressing_others(tmp_path, monkeypatch):
    inflate, sizes = store_module.zlib.decompress, []
    monkeypatch.setattr(
        store_module.zlib, "decompress", lambda packed: sizes.append(len(inflate(packed))) or inflate(packed)
    )
    record = {"x": np.arange(300, dtype=np.uint32)}
    path = build_store(tmp_path / "a.h5", {}, [Field("x", "uint32")], [list("abcdef")], lambda _: [record] * 6)
    assert same_record(open_store(path).read("d"), record)
    assert sizes == [1200]


def test_a_description_counts_what_is_there(finished):
    described = describe_store(finished)
    num_rows = sum(len(make_record(key)["ids"]) for key in KEYS)
    size = finished.stat().st_size
    expected = {
        "num_rows": num_rows,
        "num_samples": 42,
        "num_chunks": 7,
        "num_bytes": size,
        "header": HEADER,
        "format": 2,
    }
    assert expected.items() <= described.items()
    assert described["bytes_per_row"] == pytest.approx(size / num_rows)
    assert described["compression_ratio"] == pytest.approx(num_rows * 36 / size)
    assert "numpy" in described["software"]
