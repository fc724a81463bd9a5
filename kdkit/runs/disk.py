"""What every writer to the disk shares: one line for a disk that does not take it, and a turn for each process."""

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from kdkit.errors import UserError

REMEDIES = {
    "cache_dir": "-p cache_dir=FOLDER",
    "cache.file": "-p cache.file=FILE",
    "--runs-dir": "--runs-dir FOLDER",
    "HF_HOME": "export HF_HOME=FOLDER",
}
"""Settings that name a folder to write to, and how another one is chosen."""

_FULL = {errno.ENOSPC, errno.EDQUOT}
_REFUSED = {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ENOENT}
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL}
_WORDS = ("No space left on device", "PytorchStreamWriter failed writing", "requested and", "Disk quota exceeded")
"""What safetensors, torch and numpy say of a full disk; their errors carry no number."""


@contextlib.contextmanager
def writing(folder: Path, key: str) -> Iterator[None]:
    """Turn the refusal of the disk to take something in a folder into one line.

    Args:
        key: the setting that names the folder; see `REMEDIES`.

    Raises:
        UserError: the disk is full, or the folder cannot be written; anything else is passed on.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not is_full(error) and not (isinstance(error, OSError) and _is_refused(error, folder)):
            raise
        raise disk_error(error, folder, key) from error


def check_writable(folder: Path, key: str) -> None:
    """Find out that nothing can be written to a folder, made or not yet made, before hours of work are.

    Raises:
        UserError: its nearest folder that exists refuses, or is none.
    """
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir():
        raise disk_error(NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)), folder, key)
    if not os.access(existing, os.W_OK | os.X_OK):
        raise disk_error(PermissionError(errno.EACCES, os.strerror(errno.EACCES)), folder, key)


def check_room(folder: Path, key: str, num_bytes: int, what: str) -> None:
    """Find out that a disk is too full for what is going to be written, before it is computed.

    Args:
        folder: made or not yet made.
        what: is going to be written, for the message.

    Raises:
        UserError: less is free than `num_bytes`.
    """
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < num_bytes:
        raise UserError(
            f"{key}: expected room for {what}, {num_bytes / 2**20:,.0f} MB, got {free / 2**20:,.0f} MB free in "
            f"{str(folder)!r}; make room there, or choose another: {REMEDIES[key]}"
        )


def disk_error(error: Exception, folder: Path, key: str) -> UserError:
    """Return what to read and do where a folder does not take what is written to it."""
    existing = next((path for path in (folder, *folder.parents) if path.exists()), Path("/"))
    free = f", {shutil.disk_usage(existing).free / 2**20:,.0f} MB free" if is_full(error) else ""
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:120]
    return UserError(
        f"{key}: expected a folder to write to, got {str(folder)!r} ({reason}{free}); "
        f"make room or rights there, or choose another: {REMEDIES[key]}"
    )


def is_full(error: Exception) -> bool:
    """Return whether an error says that the disk is full, in the words of whoever wrote."""
    return getattr(error, "errno", None) in _FULL or any(words in str(error) for words in _WORDS)


def _is_refused(error: OSError, folder: Path) -> bool:
    """Return whether a system's error is about writing in this folder, not about reading elsewhere."""
    names = [name for name in (error.filename, error.filename2) if name is not None]
    inside = any(Path(os.fsdecode(name)).is_relative_to(folder) for name in names)
    above = any(folder.is_relative_to(os.fsdecode(name)) for name in names)
    return error.errno in _REFUSED and (inside or above)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give another path to write to, which takes the place of `path` in the end; where that fails, nothing is left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> Path:
    """Write a file whole or not at all."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return path


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Give an empty folder to fill, which takes the place of `path` once all of it is on the disk."""
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        sync_folder(partial)
        remove_folder(path)
        partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what processes that were killed in `whole_file` left in a folder."""
    for path in folder.glob(".*.partial"):
        number = path.name.split(".")[-2]
        if path.is_file() and number.isdecimal() and not _is_running(int(number)):
            path.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)  # asks only
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def sync_folder(folder: Path) -> None:
    """Wait until all files of a folder are on the disk: a power cut spares what was renamed, not what it holds."""
    for path in (*folder.rglob("*"), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_folder(folder: Path) -> None:
    """Remove a folder so that a process killed on the way leaves none of that name, rather than half of it."""
    if folder.is_dir():
        hidden = folder.with_name(f".{folder.name}.removed")
        shutil.rmtree(hidden, ignore_errors=True)
        folder.rename(hidden)
        shutil.rmtree(hidden, ignore_errors=True)


@contextlib.contextmanager
def taking_turns(lock: Path, what: str) -> Iterator[None]:
    """Let one process at a time work here; the others wait and say for whom.

    The lock belongs to an open file, so the system gives it back when its process ends, however it ends: a lock file
    that a killed process left behind keeps nobody.

    Args:
        lock: a file that is made, holds the number of the process, and is removed at the end.
        what: is made, for the message.

    Raises:
        BlockingIOError: this very process holds it already, and would wait for itself.
    """
    file = _wait_for(lock, what)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        file.close()


@contextlib.contextmanager
def claiming(lock: Path) -> Iterator[bool]:
    """Yield whether no other process works here; where one does, the caller goes elsewhere, and does not wait.

    Args:
        lock: as for `taking_turns`.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a+") as file:
        if is_mine := _is_free(file, lock):
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
        try:
            yield is_mine
        finally:
            if is_mine:
                lock.unlink(missing_ok=True)


def _is_free(file: TextIO, lock: Path) -> bool:
    """Take the lock of an open file, if nobody holds it; one that its holder has just removed is taken for held."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    try:
        return os.path.samestat(os.fstat(file.fileno()), lock.stat())
    except FileNotFoundError:
        return False


def _wait_for(lock: Path, what: str) -> TextIO:
    """Return the lock file, opened and held by this process alone."""
    is_told = False
    while True:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip()
            if holder == str(os.getpid()):
                file.close()
                raise
            if not is_told:
                print(f"waiting for process {holder or '?'}, which makes {what}", flush=True)
                is_told = True
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                file.close()
                raise
        # who held it may have removed the file meanwhile, and another process made a new one
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                file.truncate(0)
                file.write(f"{os.getpid()}\n")
                file.flush()
                return file
        file.close()
