"""An HDF5 file of records, one per sample, each found by its sample's key: the container of every cache.

    header             JSON text: what the caller says of the records, their fields, the keys of each chunk; its sha256
    chunks/00000 ...   lengths (samples) and, for each field, samples x longest sample x width; their sha256

A chunk is what is made, checked and repaired at once. Within it every sample is compressed for itself, filled up with
zeros, which take no room; any HDF5 reader can read it. During a build each chunk is a file in `FILE.parts/`, where a
killed build goes on. This module knows nothing of what the records mean.
"""

import contextlib
import fcntl
import hashlib
import io
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from kdkit.errors import UserError
from kdkit.records import Field, Record, count_rows, digest, pack, unpack
from kdkit.runs import describe_environment

Document = dict[str, Any]
MakeChunk = Callable[[int], list[Record]]
OnChunk = Callable[[int, int], None]

FORMAT = 2
CHUNK = "chunks/{:05d}"
LIBVER = ("v110", "v110")  # the oldest HDF5 file format in which all metadata carry checksums
READ_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError, zlib.error)  # where a file has other bytes
RECENT_BYTES = 256 * 1024**2  # decoded samples that a process keeps


class Store(contextlib.AbstractContextManager):
    """An open store: read by key in any order, also in other processes, each of which opens the file for itself.

    A process keeps up to `RECENT_BYTES` of decoded samples; reading one for the first time costs little more than zlib
    takes to decompress it.
    """

    def __init__(self, path: Path, document: Document, num_rows: int):
        self.path, self.document, self.num_rows = path, document, num_rows
        self.header, self.fields = document["header"], [Field(**values) for values in document["fields"]]
        self._places = {key: (n, i) for n, keys in enumerate(document["chunks"]) for i, key in enumerate(keys)}
        self.keys = list(self._places)
        mean_bytes = num_rows * sum(field.row.itemsize for field in self.fields) // max(len(self.keys), 1)
        self._decode = lru_cache(RECENT_BYTES // max(mean_bytes, 1024))(self._decode)
        self._chunks: dict[int, tuple[np.ndarray, dict[Field, h5py.h5d.DatasetID]]] = {}
        self._file: h5py.File | None = None
        self._pid = 0

    def __reduce__(self):
        return open_store, (self.path, self.header, False)

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file and of the samples kept; a later read opens it again."""
        if self._file is not None:
            self._file.close()
        self._file, self._pid = None, 0
        self._chunks.clear()
        self._decode.cache_clear()

    def require(self, keys: list[str]) -> None:
        """Raise UserError where some of these samples are missing, saying how many."""
        if missing := [key for key in keys if key not in self._places]:
            got = f"none of {len(missing)} (first: {missing[0]!r})"
            raise _error(self.path, f"records of {len(keys)} samples", got, "build it for the same samples")

    def read(self, key: str) -> Record:
        """Read one sample.

        Returns:
            The array of each field, (rows, width), or (rows,) for width 0; they are the caller's to change.

        Raises:
            UserError: there is no such sample, or its bytes are damaged.
        """
        self.require([key])
        return {name: values.copy() for name, values in self._decode(*self._places[key]).items()}

    def _decode(self, number: int, index: int) -> Record:
        """Decompress the rows of one sample of a chunk."""
        try:
            if self._pid != os.getpid():
                self.close()  # in a forked process this is a copy of the parent's handle, which stays open
                self._file, self._pid = h5py.File(self.path, "r", rdcc_nbytes=0), os.getpid()
            if number not in self._chunks:
                group = self._file[CHUNK.format(number)]
                self._chunks[number] = group["lengths"][()], {field: group[field.name].id for field in self.fields}
            lengths, datasets = self._chunks[number]
            return {f.name: unpack(dataset, f.row, index, lengths[index]) for f, dataset in datasets.items()}
        except READ_ERRORS as error:
            raise _damage_error(self.path, [number]) from error


def build_store(
    path: str | Path,
    header: dict[str, Any],
    fields: list[Field],
    chunks: list[list[str]],
    make_chunk: MakeChunk,
    on_chunk: OnChunk | None = None,
    compression: int = 4,
) -> Path:
    """Build a store, or go on with a build that was stopped; a finished store of the same contents is left as it is.

    Equal arguments give an equal file, byte for byte (h5py >= 3.15), however often the build was stopped. At the end,
    when the parts are joined, the disk holds everything twice.

    Args:
        header: what a reader must know of the records, JSON values; compared when the store is opened.
        fields: arrays of each record.
        chunks: keys of the samples of each chunk: hashes of their contents, all different.
        make_chunk: returns the records of a chunk, given its number, in the order of its keys.
        on_chunk: called after each chunk, made or found, with the number of chunks ready and of all.
        compression: gzip level, 0 to 9.

    Raises:
        UserError: a store or parts made otherwise lie there, another process builds it, a key is repeated, a record
            has not the declared arrays, or the disk is full.
    """
    path, keys = Path(path), [key for chunk in chunks for key in chunk]
    if num_repeated := len(keys) - len(set(keys)):
        raise _error("build_store", "different keys", f"{num_repeated} repeated ones", "leave out repeated samples")
    software = {"h5py": h5py.__version__, "hdf5": h5py.version.hdf5_version} | describe_environment()["packages"]
    document = {"format": FORMAT, "software": software, "compression": compression, "header": header}
    document = json.loads(json.dumps(document | {"fields": [asdict(field) for field in fields], "chunks": chunks}))
    if path.is_file():
        _check_same(path, open_store(path, verify=False).document, document, exact=True)
    if not path.is_file() or Path(f"{path}.parts").is_dir():
        with _locked(path):
            if not path.is_file():
                _write_chunks(path, document, list(range(len(chunks))), make_chunk, on_chunk)
    return path


def open_store(path: str | Path, expected: dict[str, Any] | None = None, verify: bool = True) -> Store:
    """Open a store and check every byte of it, 400 MB a second on one core of a 2021 Xeon.

    Args:
        expected: values that the header must have, nested like it; what is not named may have any value.
        verify: False leaves out the checksums of the chunks.

    Raises:
        UserError: no store, one of another format, of another header, or damaged.
    """
    path = Path(path)
    with _reading(path) as file:
        version = file.attrs.get("kdkit_store")
        if version != FORMAT:
            got = f"format {version}" if version else "another HDF5 file"
            raise _error(path, f"a store of format {FORMAT}", got, "check the path, or build it anew")
        text = file["header"][()].tobytes()
        if hashlib.sha256(text).hexdigest() != file["header"].attrs["sha256"].decode():
            raise _error(path, "the header that was written", "another", "copy it again, or build it anew")
        store = Store(path, json.loads(text), int(file.attrs["num_rows"]))
    _check_same(path, store.header, json.loads(json.dumps(expected or {})))
    if verify and (damaged := find_damage(path)):
        raise _damage_error(path, damaged)
    return store


def find_damage(path: str | Path) -> list[int]:
    """Return the numbers of the chunks that are not as they were written."""
    document = open_store(path, verify=False).document
    return [number for number in range(len(document["chunks"])) if not _is_intact(Path(path), document, number)]


def repair_store(path: str | Path, make_chunk: MakeChunk) -> list[int]:
    """Make the damaged chunks of a store again, copy the others as they are, and replace the file.

    Args:
        path: the file; its header must be intact.
        make_chunk: as for `build_store`; called for damaged chunks only.

    Returns:
        The numbers of the chunks that were damaged.
    """
    path = Path(path)
    if damaged := find_damage(path):
        with _locked(path):
            _write_chunks(path, open_store(path, verify=False).document, damaged, make_chunk, None)
    return damaged


def describe_store(path: str | Path) -> dict[str, Any]:
    """Describe a store without checking its chunks: counts, sizes in bytes, uncompressed size / file size, header."""
    store = open_store(path, verify=False)
    num_bytes, row_bytes = store.path.stat().st_size, sum(field.row.itemsize for field in store.fields)
    return {name: value for name, value in store.document.items() if name != "chunks"} | {
        "num_bytes": num_bytes,
        "num_chunks": len(store.document["chunks"]),
        "num_samples": len(store.keys),
        "num_rows": store.num_rows,
        "bytes_per_row": num_bytes / max(store.num_rows, 1),
        "compression_ratio": store.num_rows * row_bytes / num_bytes,
    }


def _write_chunks(
    path: Path, document: Document, numbers: list[int], make_chunk: MakeChunk, on_chunk: OnChunk | None
) -> None:
    """Make these chunks, except where an earlier call left intact parts, and take the others from the file."""
    parts = Path(f"{path}.parts")
    if (parts / "header.json").is_file():
        saved = json.loads((parts / "header.json").read_text(encoding="utf-8"))
        _check_same(parts, saved, document, exact=True)
        document = saved
    else:
        with _whole_file(parts / "header.json") as partial:
            partial.write_text(json.dumps(document), encoding="utf-8")
    sources = [path] * len(document["chunks"])
    report, written = on_chunk or (lambda *_: None), None
    with ThreadPoolExecutor(1) as writer:  # compresses and writes a chunk while the next one is made
        for done, number in enumerate(numbers, start=1):
            sources[number] = part = parts / f"{number:05d}.h5"
            records = None if _is_intact(part, document, number) else make_chunk(number)
            if written:
                written.result()
            written = writer.submit(
                _write_part, part, document, number, records, lambda n=done: report(n, len(numbers))
            )
        if written:
            written.result()
    _join(path, document, sources)


def _write_part(
    part: Path, document: Document, number: int, records: list[Record] | None, report: Callable[[], None]
) -> None:
    """Write one chunk, except where records are None because it is there already, and report it."""
    if records is not None:
        content = _encode(document, number, records)
        with _whole_file(part) as partial:
            partial.write_bytes(content)
    report()


def _encode(document: Document, number: int, records: list[Record]) -> bytes:
    """Return one chunk as an HDF5 file: made in memory, because HDF5 aborts the process where a disk is full."""
    fields, keys, buffer = [Field(**values) for values in document["fields"]], document["chunks"][number], io.BytesIO()
    if len(records) != len(keys):
        raise _error(f"make_chunk({number})", f"{len(keys)} records", str(len(records)), "make one for each key")
    lengths = [count_rows(f"make_chunk({number})", fields, record) for record in records]
    level = document["compression"]
    with h5py.File(buffer, "w", libver=LIBVER) as file:
        group = file.create_group(CHUNK.format(number))
        group.create_dataset("lengths", data=np.array(lengths, np.int64))
        for field in fields:
            pack(group, field, [record[field.name] for record in records], max(lengths, default=0), level)
        group.attrs["sha256"] = np.bytes_(digest(group, keys))  # HDF5 stores str beyond its own checksums
    return buffer.getvalue()


def _is_intact(path: Path, document: Document, number: int) -> bool:
    """Say whether a file holds this chunk, for the same keys, as it was written."""
    with contextlib.suppress(UserError), _reading(path) as file:
        group = file[CHUNK.format(number)]
        return group.attrs["sha256"].decode() == digest(group, document["chunks"][number])
    return False


def _join(path: Path, document: Document, sources: list[Path]) -> None:
    """Write a store out of the files that hold its chunks; nothing is compressed anew."""
    text, empty, num_rows = json.dumps(document).encode(), io.BytesIO(), 0
    h5py.File(empty, "w", libver=LIBVER).close()
    room = len(text) + sum(source.stat().st_size for source in set(sources)) + 1024 * (1024 + len(sources))
    with _whole_file(path) as partial:
        partial.write_bytes(empty.getvalue())
        with partial.open("rb+") as file:  # a disk that is full now cannot be so later, when HDF5 would abort
            os.posix_fallocate(file.fileno(), 0, room)
        with h5py.File(partial, "r+", libver=LIBVER) as joined:
            header = joined.create_dataset("header", data=np.frombuffer(text, np.uint8))
            header.attrs["sha256"] = np.bytes_(hashlib.sha256(text).hexdigest())
            joined.create_group("chunks")  # where h5py makes it in passing, it writes down the time
            for number, source in enumerate(sources):
                with _reading(source) as file:
                    file.copy(CHUNK.format(number), joined, CHUNK.format(number))
                    num_rows += int(file[CHUNK.format(number)]["lengths"][()].sum())
            joined.attrs.update({"kdkit_store": FORMAT, "num_rows": num_rows})


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[h5py.File]:
    """Open a file for reading; what cannot be read is a UserError."""
    if not path.is_file():
        raise _error(path, "a store", "no such file", "build it first")
    try:
        with h5py.File(path, "r", rdcc_nbytes=0) as file:
            yield file
    except UserError:
        raise
    except READ_ERRORS as error:
        raise _error(path, "a whole HDF5 file", f"another ({error})", "copy it again, or build it anew") from error


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the folder of a store's parts for this process alone; remove it when all is done."""
    folder = Path(f"{path}.parts")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "lock").open("w")
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        got = "another process at work here" if isinstance(error, BlockingIOError) else str(error)
        raise _error(folder, "to write here alone", got, "wait for the other, or choose another file") from None
    with file:
        yield
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _whole_file(path: Path) -> Iterator[Path]:
    """Give a path to write to, which becomes `path` once its bytes are on the disk; else nothing is left."""
    partial = Path(f"{path}.partial")
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except (OSError, RuntimeError) as error:
        remedy = "make room: finished chunks stay valid, and the same command goes on with the others"
        raise _error(path, "room to write", str(error), remedy) from error
    finally:
        partial.unlink(missing_ok=True)


def _check_same(where: Path, got: dict[str, Any], expected: dict[str, Any], exact: bool = False) -> None:
    """Refuse what other settings made, naming dotted keys; exact: also keys in excess, the software's aside."""
    flat_got, flat_expected = _flatten(got), _flatten(expected)
    names = [name for name in flat_got | flat_expected if not name.startswith("software.")] if exact else flat_expected
    if differences := "; ".join(
        f"{name}: got {flat_got.get(name)!r:.80}, expected {flat_expected.get(name)!r:.80}"
        for name in names
        if flat_got.get(name) != flat_expected.get(name)
    ):
        raise _error(where, "what these settings make", f"another ({differences})", "set it back, or delete this one")


def _flatten(values: Any, name: str = "") -> dict[str, Any]:
    """Give each value of nested dicts its dotted key."""
    if not isinstance(values, dict):
        return {name: values}
    return {k: v for key, value in values.items() for k, v in _flatten(value, f"{name}.{key}".lstrip(".")).items()}


def _damage_error(path: Path, damaged: list[int]) -> UserError:
    got = f"others in chunk {', '.join(map(str, damaged[:8]))}{', ...' if len(damaged) > 8 else ''}"
    return _error(path, "the bytes that were written", got, f"repair it: python -m kdkit cache repair {path}")


def _error(where: object, expected: str, got: str, remedy: str) -> UserError:
    return UserError(f"{where}: expected {expected}, got {got}; {remedy}")
