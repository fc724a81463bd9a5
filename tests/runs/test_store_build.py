"""Building stores: again, killed, together, where others lie, on a full disk."""

import os
import random
import resource
import shutil
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from kdkit.errors import UserError
from kdkit.runs.records import Field
from kdkit.runs.store import open_store
from kdkit.runs.store_build import build_store, build_stores
from tests.runs.stores import (
    CHUNKS,
    FIELDS,
    FORK,
    HEADER,
    build,
    flip,
    forbidden,
    make_chunk,
    refused,
    same_bytes,
    stop_at,
)


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
