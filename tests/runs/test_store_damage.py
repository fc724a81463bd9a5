"""What is not the store that was asked for is refused, and a damaged one is repaired."""

import random

import h5py
import numpy as np
import pytest

from kdkit.errors import UserError
from kdkit.runs.records import Field
from kdkit.runs.store import describe_store, find_damage, open_store
from kdkit.runs.store_build import build_store, repair_store
from tests.runs.stores import (
    CHUNKS,
    HEADER,
    flip,
    forbidden,
    make_chunk,
    make_record,
    refused,
    same_bytes,
    same_record,
    stop_at,
    stored_offset,
)


def test_a_header_that_is_not_the_expected_one_is_refused_by_name(finished):
    open_store(finished, {"teacher": {"revision": "a1"}, "layers": (1, 2)})
    with refused("teacher.revision: got 'a1', expected 'b2'", "k: got 8, expected 9"):
        open_store(finished, {"teacher": {"name": "tiny", "revision": "b2"}, "k": 9})
    with refused("seed: got None, expected 0"):
        open_store(finished, {"seed": 0})


def test_files_that_are_no_stores_are_refused(tmp_path):
    (tmp_path / "text.h5").write_text("no HDF5\n" * 1000)
    (tmp_path / "empty.h5").touch()
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["header"] = np.zeros(3)
    for name, words in [("text", "signature"), ("empty", "HDF5"), ("foreign", "another HDF5 file"), ("no", "no such")]:
        with refused(f"{name}.h5", words):
            open_store(tmp_path / f"{name}.h5")


def test_another_format_is_refused(copy):
    with h5py.File(copy, "r+") as file:
        file.attrs["kdkit_store"] = 7
    with refused("format 2, got format 7"):
        open_store(copy)


def test_a_cut_file_is_refused_wherever_it_is_cut(copy):
    content = copy.read_bytes()
    for length in random.Random(0).sample(range(len(content)), 40):
        copy.write_bytes(content[:length])
        with refused("copy.h5"):
            open_store(copy)


def test_a_flipped_bit_is_either_detected_or_harmless(tmp_path):
    chunks = [["a", "b"], ["c", "d"], ["e"]]
    fields = [Field("ids", "uint16", 4), Field("mask", "bool")]
    values = {key: np.random.default_rng(ord(key)).integers(0, 99, (ord(key) % 40, 4)) for key in "abcde"}
    records = {key: {"ids": v.astype(np.uint16), "mask": v[:, 0] > 50} for key, v in values.items()}
    path = build_store(tmp_path / "a.h5", HEADER, fields, chunks, lambda i: [records[key] for key in chunks[i]])
    draw, outcomes = random.Random(0), []
    for _ in range(400):
        offset, bit = draw.randrange(path.stat().st_size), draw.randrange(8)
        flip(path, offset, bit)
        try:
            with open_store(path) as store:
                assert store.header == HEADER
                assert all(same_record(store.read(key), records[key]) for key in records)
            outcomes.append("harmless")
        except UserError as error:
            assert "\n" not in str(error)
            outcomes.append("detected")
        flip(path, offset, bit)
    assert outcomes.count("detected") > 200
    assert outcomes.count("harmless") > 0


def test_a_damaged_chunk_is_named_with_the_command_that_repairs_it(copy):
    flip(copy, stored_offset(copy, 4) + 5)
    assert find_damage(copy) == [4]
    with pytest.raises(UserError, match=rf"in chunk 4; repair it: python -m kdkit cache repair {copy}$"):
        open_store(copy)


def test_unverified_damage_is_named_when_it_is_read(copy):
    flip(copy, stored_offset(copy, 4) + 5)
    store = open_store(copy, verify=False)
    assert same_record(store.read(CHUNKS[3][0]), make_record(CHUNKS[3][0]))
    with refused("in chunk 4", "cache repair"):
        for key in CHUNKS[4]:
            store.read(key)


def test_repair_makes_the_damaged_chunks_alone_and_restores_every_byte(finished, copy):
    flip(copy, stored_offset(copy, 1) + 9)
    with h5py.File(copy, "r+") as file:
        del file["chunks/00005"]
    made = []
    assert repair_store(copy, stop_at(-1, made)) == [1, 5]
    assert made == [1, 5]
    assert same_bytes(copy, finished)
    assert list(copy.parent.iterdir()) == [copy]


def test_repair_copies_the_other_chunks_without_decoding_them(finished, copy):
    flip(copy, stored_offset(copy, 1) + 9)
    zeros = [{name: values * 0 for name, values in record.items()} for record in make_chunk(1)]
    zeros = [{name: values.astype(record[name].dtype) for name, values in record.items()} for record in zeros]
    repair_store(copy, lambda number: zeros)
    with h5py.File(finished) as before, h5py.File(copy) as after:
        for number in {0, 2, 3, 4, 5, 6}:
            name = f"chunks/{number:05d}"
            assert after[name].attrs["sha256"] == before[name].attrs["sha256"]
    assert find_damage(copy) == []


def test_a_whole_store_needs_no_repair(copy):
    before = copy.stat()
    assert repair_store(copy, forbidden) == []
    assert (copy.stat().st_ino, copy.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_an_interrupted_repair_leaves_the_store_and_goes_on(finished, copy):
    for number in (2, 5):
        flip(copy, stored_offset(copy, number) + 3)
    with pytest.raises(KeyboardInterrupt):
        repair_store(copy, stop_at(5))
    assert find_damage(copy) == [2, 5]
    made = []
    assert repair_store(copy, stop_at(-1, made)) == [2, 5]
    assert made == [5]
    assert same_bytes(copy, finished)


def test_a_damaged_header_cannot_be_repaired(copy):
    with h5py.File(copy) as file:
        offset = file["header"].id.get_offset()
    flip(copy, offset + 20)
    for function in (open_store, find_damage, describe_store, lambda path: repair_store(path, forbidden)):
        with refused("header"):
            function(copy)
