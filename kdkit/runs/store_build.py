"""Build and repair of the files of `kdkit.runs.store`, chunk by chunk.

During a build each chunk is a file in `FILE.parts/`, where a killed build goes on; at the end they are joined. Several
machines make a shard each, a store with every n-th chunk, and `merge_stores` makes the whole one of them.
"""

import contextlib
import functools
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from kdkit.runs.disk import taking_turns
from kdkit.runs.folder import describe_environment
from kdkit.runs.records import Field, Record, count_rows, digest, pack
from kdkit.runs.store import (
    CHUNK,
    FORMAT,
    Document,
    check_same,
    find_damage,
    is_intact,
    open_file,
    open_store,
    store_error,
)

MakeChunk = Callable[[int], list[Record] | bytes]
OnChunk = Callable[[int, int], None]
Building = Generator[int, list[Record] | bytes | None, None]
"""A build on its way: it yields the numbers of chunks, and is sent their records, or their bytes."""

COMPRESSION = 4
"""Level of gzip."""
LIBVER = ("v110", "v110")  # the oldest HDF5 file format in which all metadata carry checksums


def merge_stores(path: Path, files: list[Path]) -> Path:
    """Make a store of its shards: byte for byte the one that a single build would have made with the same software.

    Raises:
        UserError: a damaged file, one that is no shard, or of another store; a shard that is missing, or there twice;
            a shard where the store is to be.
    """
    if path.is_file() and "shard" in open_store(path, verify=False).header:
        remedy = "name the cache before its shards: cache merge answers.h5 answers.*-of-8.h5"
        raise store_error(path, "the cache to write, or none there", "one of its shards", remedy)
    shards: dict[int, Path] = {}
    documents: dict[int, Document] = {}
    for file in files:
        document = open_store(file).document
        mark = document["header"].pop("shard", None)
        if mark is None:
            raise store_error(file, "a shard, as `cache build --shard` writes it", "a whole cache", "leave it out")
        number, document["shard"] = mark.pop("number"), mark
        if documents:
            first, like = next(iter(shards.values())), next(iter(documents.values()))
            wanted, remedy = f"a shard of the same cache as {first}", "leave out what is of another cache"
            here, there = ({name: part for name, part in each.items() if name != "chunks"} for each in (document, like))
            check_same(file, here, there, exact=True, wanted=wanted, remedy=remedy)
        if number in shards:
            got = f"it twice, in {shards[number]} and {file}"
            raise store_error(f"shard {number}/{mark['of']}", "each shard once", got, "leave one of the two out")
        shards[number], documents[number] = file, document
    of, num_chunks = mark["of"], mark["chunks"]
    if missing := [f"{number}/{of}" for number in range(1, of + 1) if number not in shards]:
        got = f"{len(shards)}, without {', '.join(missing[:8])}{', ...' if len(missing) > 8 else ''}"
        raise store_error("cache merge", f"all {of} shards", got, f"build it: cache build CONFIG --shard {missing[0]}")
    places = [(shards[number % of + 1], number // of) for number in range(num_chunks)]
    chunks = [documents[number % of + 1]["chunks"][number // of] for number in range(num_chunks)]
    whole = {name: value for name, value in documents[1].items() if name != "shard"} | {"chunks": chunks}
    if path.is_file():
        check_same(path, open_store(path, verify=False).document, whole, exact=True)
        return path
    with _locked(path):
        _join(path, whole, places)
    return path


def build_store(
    path: str | Path,
    header: dict[str, Any],
    fields: list[Field],
    chunks: list[list[str]],
    make_chunk: MakeChunk,
    on_chunk: OnChunk | None = None,
    compression: int = COMPRESSION,
) -> Path:
    """Build a store, or go on with a build that was stopped; a finished store of the same contents is left as it is.

    Equal arguments give an equal file, byte for byte (h5py >= 3.15), however often the build was stopped. At the end,
    when the parts are joined, the disk holds everything twice.

    Args:
        header: what a reader must know of the records, JSON values; compared when the store is opened.
        fields: arrays of each record.
        chunks: keys of the samples of each chunk: hashes of their contents, all different.
        make_chunk: returns the records of a chunk, given its number, in the order of its keys; or, where another
            process has made them, its bytes: see `encode_chunk`.
        on_chunk: called after each chunk, made or found, with the number of chunks ready and of all.
        compression: gzip level, 0 to 9.

    Raises:
        UserError: a store or parts made otherwise lie there, this process builds it already, a key is repeated, a
            record has not the declared arrays, or the disk is full.
    """
    building = _build(Path(path), header, fields, chunks, on_chunk, compression)
    with contextlib.closing(building):
        _drive(building, make_chunk)
    return Path(path)


def build_stores(
    plans: dict[str, tuple[Path, dict[str, Any], list[Field]]],
    chunks: list[list[str]],
    make_chunks: Callable[[int, list[str]], dict[str, list[Record]]],
    on_chunk: OnChunk | None = None,
    compression: int = COMPRESSION,
) -> None:
    """Build several stores of the same samples, chunk by chunk, so that one pass over the samples serves them all.

    Args:
        plans: path, header and fields of each store; see `build_store`.
        make_chunks: returns the records of a chunk by the store's name, given its number and the stores that lack it.
        on_chunk: as for `build_store`, of the last store.
    """
    with contextlib.ExitStack() as stack:
        builds, wanted = {}, {}
        for name, (path, header, fields) in plans.items():
            report = on_chunk if name == next(reversed(plans)) else None
            building = _build(path, header, fields, chunks, report, compression)
            builds[name] = stack.enter_context(contextlib.closing(building))
            wanted[name] = next(building, None)
        while open_numbers := [number for number in wanted.values() if number is not None]:
            number = min(open_numbers)
            records = make_chunks(number, [name for name in wanted if wanted[name] == number])
            wanted |= {name: _send(builds[name], made) for name, made in records.items()}


def _build(
    path: Path,
    header: dict[str, Any],
    fields: list[Field],
    chunks: list[list[str]],
    on_chunk: OnChunk | None,
    compression: int,
) -> Building:
    """Check what lies there and yield the numbers of missing chunks; see `build_store`."""
    keys = [key for chunk in chunks for key in chunk]
    if num_repeated := len(keys) - len(set(keys)):
        raise store_error(
            "build_store", "different keys", f"{num_repeated} repeated ones", "leave out repeated samples"
        )
    software = {"h5py": h5py.__version__, "hdf5": h5py.version.hdf5_version} | describe_environment()["packages"]
    document = {"format": FORMAT, "software": software, "compression": compression, "header": header}
    document = json.loads(json.dumps(document | {"fields": [asdict(field) for field in fields], "chunks": chunks}))
    if path.is_file():
        check_same(path, open_store(path, verify=False).document, document, exact=True)
    if not path.is_file() or Path(f"{path}.parts").is_dir():
        with _locked(path):
            if path.is_file():  # by the process that was waited for
                check_same(path, open_store(path, verify=False).document, document, exact=True)
            else:
                yield from _write_chunks(path, document, list(range(len(chunks))), on_chunk)


def _drive(building: Building, make_chunk: MakeChunk) -> None:
    """Make the chunks that a build yields."""
    number = next(building, None)
    while number is not None:
        number = _send(building, make_chunk(number))


def _send(building: Building, records: list[Record] | bytes) -> int | None:
    """Send a build its records; return the next chunk's number, None at its end."""
    try:
        return building.send(records)
    except StopIteration:
        return None


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
            building = _write_chunks(path, open_store(path, verify=False).document, damaged, None)
            with contextlib.closing(building):
                _drive(building, make_chunk)
    return damaged


def _write_chunks(path: Path, document: Document, numbers: list[int], on_chunk: OnChunk | None) -> Building:
    """Yield the numbers of these chunks, except of intact parts by an earlier call; take the others from the file."""
    parts = Path(f"{path}.parts")
    if (parts / "header.json").is_file():
        saved = json.loads((parts / "header.json").read_text(encoding="utf-8"))
        check_same(parts, saved, document, exact=True)
        document = saved
    else:
        with _whole_file(parts / "header.json") as partial:
            partial.write_text(json.dumps(document), encoding="utf-8")
    sources = [(path, number) for number in range(len(document["chunks"]))]
    report, written = on_chunk or (lambda *_: None), None
    with ThreadPoolExecutor(1) as writer:  # compresses and writes a chunk while the next one is made
        for done, number in enumerate(numbers, start=1):
            part = parts / f"{number:05d}.h5"
            sources[number] = part, number
            records = None if is_intact(part, document, number) else (yield number)
            if written:
                written.result()
            finished = functools.partial(report, done, len(numbers))
            written = writer.submit(_write_part, part, document, number, records, finished)
        if written:
            written.result()
    _join(path, document, sources)


def _write_part(
    part: Path, document: Document, number: int, records: list[Record] | bytes | None, report: Callable[[], None]
) -> None:
    """Write one chunk, except where records are None because it is there already, and report it."""
    if records is not None:
        content = records if isinstance(records, bytes) else _encode(document, number, records)
        with _whole_file(part) as partial:
            partial.write_bytes(content)
    report()


def missing_chunks(path: Path, chunks: list[list[str]]) -> list[int]:
    """Return the numbers of the chunks that no earlier build of a store has left."""
    parts, document = Path(f"{path}.parts"), {"chunks": chunks}
    return [n for n in range(len(chunks)) if not is_intact(parts / f"{n:05d}.h5", document, n)]


def _encode(document: Document, number: int, records: list[Record]) -> bytes:
    """Return one chunk of a store as bytes; see `encode_chunk`."""
    fields = [Field(**values) for values in document["fields"]]
    return encode_chunk(fields, document["chunks"][number], records, number, document["compression"])


def encode_chunk(
    fields: list[Field], keys: list[str], records: list[Record], number: int, compression: int = COMPRESSION
) -> bytes:
    """Return one chunk as an HDF5 file: made in memory, because HDF5 aborts the process where a disk is full."""
    buffer = io.BytesIO()
    if len(records) != len(keys):
        raise store_error(f"make_chunk({number})", f"{len(keys)} records", str(len(records)), "make one for each key")
    lengths = [count_rows(f"make_chunk({number})", fields, record) for record in records]
    with h5py.File(buffer, "w", libver=LIBVER) as file:
        group = file.create_group(CHUNK.format(number))
        group.create_dataset("lengths", data=np.array(lengths, np.int64))
        for field in fields:
            pack(group, field, [record[field.name] for record in records], max(lengths, default=0), compression)
        group.attrs["sha256"] = np.bytes_(digest(group, keys))  # HDF5 stores str beyond its own checksums
    return buffer.getvalue()


def _join(path: Path, document: Document, sources: list[tuple[Path, int]]) -> None:
    """Write a store out of the files that hold its chunks, and the numbers there; nothing is compressed anew."""
    text, empty, num_rows = json.dumps(document).encode(), io.BytesIO(), 0
    h5py.File(empty, "w", libver=LIBVER).close()
    room = len(text) + sum(source.stat().st_size for source, _ in set(sources)) + 1024 * (1024 + len(sources))
    with _whole_file(path) as partial:
        partial.write_bytes(empty.getvalue())
        with partial.open("rb+") as file:  # a disk that is full now cannot be so later, when HDF5 would abort
            os.posix_fallocate(file.fileno(), 0, room)
        with h5py.File(partial, "r+", libver=LIBVER) as joined:
            header = joined.create_dataset("header", data=np.frombuffer(text, np.uint8))
            header.attrs["sha256"] = np.bytes_(hashlib.sha256(text).hexdigest())
            joined.create_group("chunks")  # where h5py makes it in passing, it writes down the time
            for number, (source, there) in enumerate(sources):
                with open_file(source) as file:
                    file.copy(CHUNK.format(there), joined, CHUNK.format(number))
                    num_rows += int(file[CHUNK.format(there)]["lengths"][()].sum())
            joined.attrs.update({"kdkit_store": FORMAT, "num_rows": num_rows})


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the folder of a store's parts for this process alone, after any other; remove it when all is done."""
    folder = Path(f"{path}.parts")
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(taking_turns(folder / "lock", str(path)))
        except OSError as error:
            got = "another process at work here" if isinstance(error, BlockingIOError) else str(error)
            raise store_error(
                folder, "to write here alone", got, "wait for the other, or choose another file"
            ) from None
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
        raise store_error(path, "room to write", str(error), remedy) from error
    finally:
        partial.unlink(missing_ok=True)
