"""Disks that do not take what is written, and processes that need one result."""

import contextlib
import errno
import multiprocessing
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from kdkit.errors import UserError
from kdkit.runs.disk import check_room, taking_turns, writing
from kdkit.runs.folder import Run, cached_folder
from tests.runs.stores import CHUNKS, FIELDS, HEADER, make_chunk

FORK = multiprocessing.get_context("fork")


def refused(call, *arguments) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_in_the_way_of_a_folder_is_named_with_the_setting(tmp_path):
    (tmp_path / "file").touch()
    cache = refused(cached_folder, tmp_path / "file" / "data", "key", Path.touch)
    assert cache.startswith("cache_dir: expected a folder to write to, got ")
    assert str(tmp_path / "file") in cache
    assert "-p cache_dir=FOLDER" in cache
    runs = refused(Run(tmp_path / "file" / "run", tmp_path).set_status, "01_data")
    assert runs.startswith("--runs-dir: expected a folder to write to, got ")
    assert "--runs-dir FOLDER" in runs


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError("4096 requested and 0 written"),
        RuntimeError("[enforce fail at inline_container.cc] . PytorchStreamWriter failed writing file data/3"),
        RuntimeError("Error while serializing: IoError(Os { code: 28, message: No space left on device })"),
    ],
    ids=["system", "numpy", "torch", "safetensors"],
)
def test_a_full_disk_is_one_line_whoever_wrote(tmp_path, error):
    def build(folder):
        (folder / "half").touch()
        raise error

    message = refused(cached_folder, tmp_path, "key", build)
    assert message.startswith("cache_dir: expected a folder to write to, got ")
    assert "MB free" in message
    assert list(tmp_path.iterdir()) == []


def test_a_real_full_device_is_recognised():
    with pytest.raises(UserError, match=r"--runs-dir: .*No space left"), writing(Path("/dev"), "--runs-dir"):  # noqa: SIM117
        with Path("/dev/full").open("wb", buffering=0) as file:
            file.write(b"text")


def test_a_file_that_cannot_be_read_is_not_taken_for_a_folder_that_cannot_be_written(tmp_path):
    def build(folder):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "elsewhere" / "corpus.txt"))

    with pytest.raises(PermissionError):
        cached_folder(tmp_path / "cache", "key", build)


def test_a_read_only_disk_is_one_line(tmp_path, monkeypatch):
    def refuse(path, *arguments, **options):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert "(Read-only file system)" in refused(cached_folder, tmp_path / "cache", "key", Path.touch)


def build_slowly(parent: Path, log: Path) -> None:
    def build(folder):
        time.sleep(0.3)
        with log.open("a") as file:
            file.write("built\n")
        (folder / "a").touch()

    with log.with_suffix(f".{os.getpid()}").open("w") as out, contextlib.redirect_stdout(out):
        cached_folder(parent, "key", build)


def test_processes_that_need_one_result_wait_for_the_one_that_builds_it(tmp_path):
    processes = [FORK.Process(target=build_slowly, args=(tmp_path / "cache", tmp_path / "log")) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert (tmp_path / "log").read_text() == "built\n"
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["key"]
    said = [path.read_text() for path in tmp_path.glob("log.*")]
    pids = {str(process.pid) for process in processes}
    waited = [text for text in said if text]
    assert 1 <= len(waited) <= 3
    assert all(text.startswith("waiting for process ") and text.split()[3].strip(",") in pids for text in waited)


def hold(lock: Path, ready: Path) -> None:
    with taking_turns(lock, "a"):
        ready.touch()
        time.sleep(60)


def test_the_lock_and_the_leftovers_of_a_killed_process_keep_nobody(tmp_path):
    def hang(folder):
        (folder / "half").touch()
        (tmp_path / "ready").touch()
        time.sleep(60)

    process = FORK.Process(target=cached_folder, args=(tmp_path / "cache", "key", hang))
    process.start()
    while not (tmp_path / "ready").exists():
        time.sleep(0.01)
    process.kill()
    process.join()
    assert len(list((tmp_path / "cache").iterdir())) == 2
    folder = cached_folder(tmp_path / "cache", "key", lambda path: (path / "a").touch())
    assert sorted(path.name for path in folder.iterdir()) == ["a", "key"]
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["key"]


def test_a_process_does_not_wait_for_itself(tmp_path):
    with taking_turns(tmp_path / "lock", "a"), pytest.raises(BlockingIOError), taking_turns(tmp_path / "lock", "a"):
        pass
    assert list(tmp_path.iterdir()) == []


def build_store_slowly(path: Path, log: Path) -> None:
    from kdkit.runs.store_build import build_store

    def make(number: int) -> list[dict[str, np.ndarray]]:
        time.sleep(0.05)
        with log.open("a") as file:
            file.write("made\n")
        return make_chunk(number)

    build_store(path, HEADER, FIELDS, CHUNKS, make)


def test_two_builds_of_one_store_make_each_chunk_once(tmp_path):
    arguments = tmp_path / "a.h5", tmp_path / "log"
    processes = [FORK.Process(target=build_store_slowly, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert (tmp_path / "log").read_text() == "made\n" * len(CHUNKS)
    assert [path.name for path in tmp_path.glob("a.h5*")] == ["a.h5"]


def test_a_disk_too_full_for_what_comes_is_refused_before_it_is_computed(tmp_path):
    folder = tmp_path / "not" / "yet"
    check_room(folder, "--runs-dir", 1000, "2 checkpoints")
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(UserError, match=r"--runs-dir: expected room for 2 checkpoints, [\d,]+ MB, got [\d,]+ MB free"):
        check_room(folder, "--runs-dir", 2 * free, "2 checkpoints")
    assert not folder.exists()
