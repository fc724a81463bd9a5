import hashlib
import multiprocessing
import os
import pickle
import random
import resource
import shutil
import subprocess
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest

from kdkit.errors import UserError
from kdkit.runs import store as store_module
from kdkit.runs.records import Field
from kdkit.runs.store import describe_store, find_damage, open_store
from kdkit.runs.store_build import build_store, build_stores, repair_store

FIELDS = [Field("ids", "uint16", 8), Field("logprobs", "float16", 8), Field("num_bytes", "int32")]
HEADER = {"teacher": {"name": "tiny", "revision": "a1"}, "k": 8, "layers": [1, 2]}
KEYS = [hashlib.md5(b"%d" % i).hexdigest() for i in range(42)]
CHUNKS = [KEYS[i : i + 6] for i in range(0, 42, 6)]
FORK = multiprocessing.get_context("fork")


def make_record(key: str) -> dict[str, np.ndarray]:
    """Make the record of a sample out of its key alone; a fifth of the samples have no rows."""
    draw = np.random.default_rng(int(key[:8], 16))
    num_rows = 0 if draw.random() < 0.2 else int(draw.integers(1, 400))
    logprobs = -np.sort(draw.gamma(2.0, 2.0, (num_rows, 8)), axis=1)
    ids = draw.integers(0, 2**16, (num_rows, 8)).astype(np.uint16)
    return {
        "ids": ids,
        "logprobs": logprobs.astype(np.float16),
        "num_bytes": draw.integers(-9, 9, num_rows).astype(np.int32),
    }


def make_chunk(number: int) -> list[dict[str, np.ndarray]]:
    return [make_record(key) for key in CHUNKS[number]]


def forbidden(number: int) -> list[dict[str, np.ndarray]]:
    raise AssertionError(f"chunk {number} was made again")


def build(path: Path, make=make_chunk, **changes) -> Path:
    arguments = {"header": HEADER, "fields": FIELDS, "chunks": CHUNKS} | changes
    return build_store(path, make_chunk=make, **arguments)


def same_record(got: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> bool:
    return got.keys() == expected.keys() and all(
        values.dtype == expected[name].dtype and np.array_equal(values, expected[name]) for name, values in got.items()
    )


def same_bytes(path: Path, other: Path) -> bool:
    """Compare files; pytest would spend minutes on describing how they differ."""
    return path.read_bytes() == other.read_bytes()


@contextmanager
def refused(*words: str):
    """Expect a UserError of one line that holds these words."""
    with pytest.raises(UserError) as caught:
        yield
    message = str(caught.value)
    assert "\n" not in message
    assert all(part in message for part in (": expected ", ", got ", "; ", *words)), message


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A whole store, which no test may change."""
    return build(tmp_path_factory.mktemp("store") / "cache.h5")


@pytest.fixture
def copy(finished, tmp_path) -> Path:
    """A whole store to damage."""
    return Path(shutil.copy(finished, tmp_path / "copy.h5"))


def stored_offset(path: Path, number: int) -> int:
    """Return where in the file the compressed ids of a chunk begin."""
    with h5py.File(path) as file:
        return file[f"chunks/{number:05d}/ids"].id.get_chunk_info(0).byte_offset


def flip(path: Path, offset: int, bit: int = 0) -> None:
    with path.open("rb+") as file:
        file.seek(offset)
        value = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([value ^ (1 << bit)]))


# reading


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


# building


def test_equal_builds_give_equal_bytes(finished, tmp_path):
    modified = finished.stat().st_mtime
    time.sleep(max(0.0, modified + 1.1 - time.time()))  # a time stamp of whole seconds would differ
    assert same_bytes(build(tmp_path / "cache.h5"), finished)


def count_parts(path: Path) -> int:
    """Finished parts of a build that runs in another process, which may take the folder away meanwhile."""
    try:
        return sum(file.name.endswith(".h5") for file in os.scandir(f"{path}.parts"))
    except FileNotFoundError:
        return 0


def test_a_build_killed_at_any_point_goes_on_to_the_same_bytes(finished, tmp_path):
    draw, num_killed = random.Random(0), 0

    def slow(number: int) -> list[dict[str, np.ndarray]]:
        time.sleep(0.02)  # so that a busy machine too sees most builds before their end
        return make_chunk(number)

    for point in range(10):
        path = tmp_path / str(point) / "cache.h5"
        for num_parts in sorted(draw.sample(range(len(CHUNKS) + 1), 2)):
            process = FORK.Process(target=build, args=(path, slow))
            process.start()
            while process.is_alive() and count_parts(path) < num_parts:
                time.sleep(0.0005)
            time.sleep(draw.random() * 0.03)
            process.kill()
            process.join()
            num_killed += process.exitcode == -9
        assert same_bytes(build(path), finished)
        assert [file.name for file in path.parent.iterdir()] == ["cache.h5"]
    assert num_killed >= 10


def make_both(number: int, names: list[str]) -> dict[str, list[dict[str, np.ndarray]]]:
    """Make the records of a chunk for two stores, the second one's with a field of their numbers."""
    made = {"a": make_chunk(number), "b": [{"number": np.array([number], np.int32)} for _ in CHUNKS[number]]}
    return {name: made[name] for name in names}


def plans(folder: Path) -> dict[str, tuple[Path, dict, list[Field]]]:
    return {"a": (folder / "a.h5", HEADER, FIELDS), "b": (folder / "b.h5", HEADER, [Field("number", "int32")])}


def test_stores_built_together_equal_those_built_alone(finished, tmp_path):
    asked, reported = [], []

    def make(number, names):
        asked.append((number, names))
        return make_both(number, names)

    build_stores(plans(tmp_path), CHUNKS, make, lambda done, total: reported.append((done, total)))
    assert asked == [(number, ["a", "b"]) for number in range(len(CHUNKS))]
    assert reported == [(number, len(CHUNKS)) for number in range(1, len(CHUNKS) + 1)]
    assert same_bytes(tmp_path / "a.h5", finished)
    with open_store(tmp_path / "b.h5") as store:
        assert [store.read(keys[0])["number"].tolist() for keys in CHUNKS] == [[n] for n in range(len(CHUNKS))]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.h5", "b.h5"]


def test_stores_built_together_go_on_where_each_of_them_was(finished, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "a.h5", stop_at(3))
    asked = []

    def make(number, names):
        asked.append((number, "".join(names)))
        if number == 5 and len(asked) < 9:
            raise KeyboardInterrupt
        return make_both(number, names)

    with pytest.raises(KeyboardInterrupt):
        build_stores(plans(tmp_path), CHUNKS, make)
    assert asked == [(0, "b"), (1, "b"), (2, "b"), (3, "ab"), (4, "ab"), (5, "ab")]
    asked = [(-1, "")] * 9
    build_stores(plans(tmp_path), CHUNKS, make)
    assert asked[9:] == [(5, "ab"), (6, "ab")]
    assert same_bytes(tmp_path / "a.h5", finished)
    asked = [(-1, "")] * 9
    build_stores(plans(tmp_path), CHUNKS, make)
    assert asked[9:] == []


def stop_at(stop: int, made: list[int] | None = None):
    """Make chunks until one that is never made."""

    def make(number: int) -> list[dict[str, np.ndarray]]:
        if number == stop:
            raise KeyboardInterrupt
        if made is not None:
            made.append(number)
        return make_chunk(number)

    return make


def test_finished_chunks_are_not_made_again(finished, tmp_path):
    made, calls = [], []
    for stop in (2, 5, -1):
        try:
            build(tmp_path / "a.h5", stop_at(stop, made), on_chunk=lambda done, total: calls.append((done, total)))
        except KeyboardInterrupt:
            assert not (tmp_path / "a.h5").exists()
    assert made == list(range(7))
    assert calls == [(done, 7) for last in (2, 5, 7) for done in range(1, last + 1)]
    assert same_bytes(tmp_path / "a.h5", finished)


def test_a_damaged_part_is_made_again(finished, tmp_path):
    path, made = tmp_path / "a.h5", []
    with pytest.raises(KeyboardInterrupt):
        build(path, stop_at(6))
    flip(tmp_path / "a.h5.parts" / "00001.h5", 2000)
    (tmp_path / "a.h5.parts" / "00003.h5").write_bytes(b"cut")
    build(path, stop_at(-1, made))
    assert made == [1, 3, 6]
    assert same_bytes(path, finished)


OTHERS = [
    ({"header": HEADER | {"k": 9}}, ["header.k: got 8, expected 9"]),
    ({"header": HEADER | {"teacher": {"name": "tiny"}}}, ["header.teacher.revision: got 'a1', expected None"]),
    ({"fields": FIELDS[:2]}, ["fields"]),
    ({"chunks": CHUNKS[1:]}, ["chunks"]),
    ({"compression": 5}, ["compression: got 4, expected 5"]),
]


@pytest.mark.parametrize(("changes", "words"), OTHERS)
def test_parts_of_another_build_are_refused_by_name(tmp_path, changes, words):
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "a.h5", stop_at(1))
    with refused("a.h5.parts", *words):
        build(tmp_path / "a.h5", forbidden, **changes)


@pytest.mark.parametrize(("changes", "words"), OTHERS)
def test_a_store_of_another_build_is_refused_by_name(copy, changes, words):
    with refused("copy.h5", *words):
        build(copy, forbidden, **changes)
    assert list(copy.parent.iterdir()) == [copy]


def test_a_finished_store_is_left_as_it_is(copy):
    before = copy.stat()
    build(copy, forbidden)
    assert (copy.stat().st_ino, copy.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_second_build_of_the_same_file_is_refused(tmp_path):
    def make(number: int) -> list[dict[str, np.ndarray]]:
        with refused("another process at work"):
            build(tmp_path / "a.h5", forbidden)
        return make_chunk(number)

    open_store(build(tmp_path / "a.h5", make))


def test_repeated_keys_are_refused(tmp_path):
    with refused("1 repeated"):
        build(tmp_path / "a.h5", forbidden, chunks=[["a", "b"], ["a"]])


@pytest.mark.parametrize(
    "changes",
    [
        {"ids": np.zeros((3, 8), np.int64)},
        {"ids": np.zeros((3, 7), np.uint16)},
        {"ids": np.zeros((2, 8), np.uint16)},
        {"ids": np.zeros(3, np.uint16)},
        {"more": np.zeros(3, np.uint16)},
        {"ids": np.zeros((), np.uint16)},
    ],
    ids=["dtype", "width", "rows", "scalars", "name", "no axis"],
)
def test_records_unlike_the_fields_are_refused(tmp_path, changes):
    record = {"ids": np.zeros((3, 8), np.uint16), "num_bytes": np.zeros(3, np.int32)}
    fields = [FIELDS[0], FIELDS[2]]
    build_store(tmp_path / "good.h5", {}, fields, [["a"]], lambda number: [record])
    with refused("make_chunk(0)", "'ids': ('uint16', ("):
        build_store(tmp_path / "bad.h5", {}, fields, [["a"]], lambda number: [record | changes])


def test_a_record_too_few_is_refused(tmp_path):
    with refused("make_chunk(0)", "6 records, got 5"):
        build(tmp_path / "a.h5", lambda number: make_chunk(number)[1:])


def attempt(path: Path, limit_bytes: int | None) -> tuple[str, list[int]]:
    """Build in a process of its own, with a limit on the size of files; return its error and the chunks it made."""

    def run(pipe) -> None:
        made: list[int] = []
        if limit_bytes:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
        try:
            build(path, stop_at(-1, made))
            pipe.send(("", made))
        except UserError as error:
            pipe.send((str(error), made))

    here, there = FORK.Pipe()
    process = FORK.Process(target=run, args=(there,))
    process.start()
    there.close()
    answer = here.recv()
    process.join()
    assert process.exitcode == 0  # HDF5 aborts where a write fails
    return answer


def check_full_disk(path: Path, error: str, reason: str) -> None:
    """Check what is said and that nothing half-written is left."""
    assert reason in error
    assert "finished chunks stay valid" in error
    assert "\n" not in error
    names = [file.relative_to(path.parent).as_posix() for file in path.parent.rglob("*") if file.is_file()]
    assert all(name.endswith((".parts/header.json", ".parts/lock", ".h5")) for name in names)
    assert path.name not in names


def test_a_build_goes_on_after_a_limit_on_file_sizes(finished, tmp_path):
    path, sizes = tmp_path / "a.h5", []
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "b.h5", stop_at(6))
    sizes = [(tmp_path / f"b.h5.parts/{number:05d}.h5").stat().st_size for number in range(6)]
    shutil.rmtree(tmp_path / "b.h5.parts")
    stop = int(np.argmax(sizes))
    error, made = attempt(path, sizes[stop] - 1)
    check_full_disk(path, error, "File too large")
    assert made == list(range(stop + 2))  # a chunk is written while the next one is made
    error, made = attempt(path, max(sizes) + 60_000)
    check_full_disk(path, error, "File too large")
    assert made == list(range(stop, 7))
    assert attempt(path, None) == ("", [])
    assert same_bytes(path, finished)


@contextmanager
def small_disk(folder: Path):
    """Mount a file system of memory, and give a function that sets its size."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here: that takes root")
    try:
        yield lambda size: subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_build_goes_on_after_the_disk_was_full(finished, tmp_path):
    path = tmp_path / "disk" / "a.h5"
    with small_disk(tmp_path / "disk") as resize:
        num_made, total = 0, finished.stat().st_size
        for size in (total // 3, total + 100_000):
            resize(size)
            error, made = attempt(path, None)
            check_full_disk(path, error, "No space left on device")
            assert made[0] >= num_made - 1  # at most the chunk that found no room and the next one are made again
            num_made = made[-1]
        resize(4 * total + 2_000_000)
        assert attempt(path, None) == ("", [])
        assert same_bytes(path, finished)


# refusing what is not the store that was asked for


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
