"""An HDF5 file of records, one per sample, each found by its sample's key: the container of every cache.

    header             JSON text: the caller's description, the fields, the keys of each chunk; its sha256
    chunks/00000 ...   lengths `[samples]` and, for each field, `[samples, longest, width]`; their sha256

A chunk is what is made, checked and repaired at once. Within it every sample is compressed for itself, filled up with
zeros, which take no room; any HDF5 reader can read it. `kdkit.runs.store_build` makes and repairs the file. What the
records mean is left to the caller.
"""

import contextlib
import hashlib
import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from kdkit.errors import UserError
from kdkit.runs.folder import fingerprint
from kdkit.runs.records import Field, Record, digest, unpack

Document = dict[str, Any]

FORMAT = 2
CHUNK = "chunks/{:05d}"
NO_CONTENT = ("software.", "header.config.", "header.data")
"""What says how to make the records again, and nothing about them: builds that differ in it make the same store."""
READ_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError, zlib.error)  # where a file has other bytes
RECENT_BYTES = 256 * 1024**2  # decoded samples that a process keeps


@dataclass(frozen=True)
class Shard:
    """One of the parts, counted from 1, that several machines make of a store."""

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def file_of(self, path: Path) -> Path:
        """Return the file of this part of a store: `answers.2-of-8.h5`."""
        return path.with_name(f"{path.stem}.{self.number}-of-{self.of}{path.suffix}")

    def part_of(self, chunks: list[list[str]]) -> list[list[str]]:
        """Return the chunks of this part, every `of`-th.

        Raises:
            UserError: there are fewer chunks than parts.
        """
        if self.of > len(chunks):
            raise UserError(
                f"--shard: expected at most {len(chunks)} shards, one for each chunk of cache.samples_per_chunk "
                f"sequences, got {self}; lower cache.samples_per_chunk, or make fewer shards"
            )
        return chunks[self.number - 1 :: self.of]

    def describe(self, chunks: list[list[str]]) -> dict[str, Any]:
        """Return what the header of this part says of it, beside what that of the whole says."""
        return {"number": self.number, "of": self.of, "chunks": len(chunks), "keys": fingerprint(chunks)}


def read_shard(text: str) -> Shard:
    """Read `I/N`.

    Raises:
        UserError: it is something else, or no part of N.
    """
    number, _, of = text.partition("/")
    if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
        raise UserError(
            f"--shard: expected I/N, the I-th of N, counted from 1, got {text!r}; write e.g. --shard 1/4, to 4/4"
        )
    return Shard(int(number), int(of))


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
        self._recent = lru_cache(RECENT_BYTES // max(mean_bytes, 1024))(self._decode)
        self._chunks: dict[int, tuple[np.ndarray, dict[Field, h5py.h5d.DatasetID]]] = {}
        self._file: h5py.File | None = None
        self._pid = 0

    def __reduce__(self):
        return open_store, (self.path, self.header, False)

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and drop the samples kept; a later read opens it again."""
        if self._file is not None:
            self._file.close()
        self._file, self._pid = None, 0
        self._chunks.clear()
        self._recent.cache_clear()

    def require(self, keys: list[str]) -> None:
        """Raise UserError where some of these samples are missing, saying how many."""
        if missing := [key for key in keys if key not in self._places]:
            got = f"none of {len(missing)} (first: {missing[0]!r})"
            raise store_error(self.path, f"records of {len(keys)} samples", got, "build it for the same samples")

    def read(self, key: str) -> Record:
        """Read one sample.

        Returns:
            The array of each field, `[rows, width]`, or `[rows]` for width 0; they are the caller's to change.

        Raises:
            UserError: there is no such sample, or its bytes are damaged.
        """
        return {name: values.copy() for name, values in self._read(key).items()}

    def read_all(self, keys: list[str]) -> Record:
        """Read some samples, one after the other: the rows of each field, `[rows, width]` or `[rows]`.

        Raises:
            UserError: see `read`.
        """
        records = [self._read(key) for key in keys]
        return {name: np.concatenate([record[name] for record in records]) for name in records[0]}

    def _read(self, key: str) -> Record:
        """Return one sample as it is kept, not to be changed."""
        self.require([key])
        return self._recent(*self._places[key])

    def _open(self) -> h5py.File:
        """Return the file as this process has opened it."""
        if self._file is None or self._pid != os.getpid():
            self.close()  # in a forked process this is a copy of the parent's handle, which stays open
            self._file, self._pid = h5py.File(self.path, "r", rdcc_nbytes=0), os.getpid()
        return self._file

    def _decode(self, number: int, index: int) -> Record:
        """Decompress the rows of one sample of a chunk."""
        try:
            file = self._open()
            if number not in self._chunks:
                group = file[CHUNK.format(number)]
                self._chunks[number] = group["lengths"][()], {field: group[field.name].id for field in self.fields}
            lengths, datasets = self._chunks[number]
            return {f.name: unpack(dataset, f.row, index, lengths[index]) for f, dataset in datasets.items()}
        except READ_ERRORS as error:
            raise _damage_error(self.path, [number]) from error


def open_store(path: str | Path, expected: dict[str, Any] | None = None, verify: bool = True) -> Store:
    """Open a store and check every byte of it, 400 MB a second on one core of a 2021 Xeon.

    Args:
        expected: values that the header must have, nested like it; what is not named may have any value.
        verify: False leaves out the checksums of the chunks.

    Raises:
        UserError: no store, one of another format, of another header, or damaged.
    """
    path = Path(path)
    with open_file(path) as file:
        version = file.attrs.get("kdkit_store")
        if version != FORMAT:
            got = f"format {version}" if version else "another HDF5 file"
            raise store_error(path, f"a store of format {FORMAT}", got, "check the path, or build it anew")
        text = file["header"][()].tobytes()
        if hashlib.sha256(text).hexdigest() != file["header"].attrs["sha256"].decode():
            raise store_error(path, "the header that was written", "another", "copy it again, or build it anew")
        store = Store(path, json.loads(text), int(file.attrs["num_rows"]))
    check_same(path, store.header, json.loads(json.dumps(expected or {})))
    if verify and (damaged := find_damage(path)):
        raise _damage_error(path, damaged)
    return store


def find_damage(path: str | Path) -> list[int]:
    """Return the numbers of the chunks that are not as they were written."""
    document = open_store(path, verify=False).document
    return [number for number in range(len(document["chunks"])) if not is_intact(Path(path), document, number)]


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


def is_intact(path: Path, document: Document, number: int) -> bool:
    """Return whether a file holds this chunk, for the same keys, as it was written."""
    with contextlib.suppress(UserError), open_file(path) as file:
        group = file[CHUNK.format(number)]
        return group.attrs["sha256"].decode() == digest(group, document["chunks"][number])
    return False


@contextlib.contextmanager
def open_file(path: Path) -> Iterator[h5py.File]:
    """Open a file for reading; what cannot be read is a UserError."""
    if path.is_dir():
        raise store_error(path, "a cache", "a folder", "name the file")
    if not path.is_file():
        raise store_error(path, "a cache", "no such file", "build it first")
    try:
        with h5py.File(path, "r", rdcc_nbytes=0) as file:
            yield file
    except UserError:
        raise
    except READ_ERRORS as error:
        raise store_error(path, "a whole HDF5 file", f"another ({error})", "copy it again, or build it anew") from error


def check_same(
    where: Path,
    got: dict[str, Any],
    expected: dict[str, Any],
    exact: bool = False,
    *,
    wanted: str = "what these settings make",
    remedy: str = "set it back, or delete this one",
) -> None:
    """Refuse what other settings made, naming dotted keys; exact: also keys in excess, `NO_CONTENT` aside."""
    flat_got, flat_expected = _flatten(got), _flatten(expected)
    names = [name for name in flat_got | flat_expected if not name.startswith(NO_CONTENT)] if exact else flat_expected
    if differences := "; ".join(
        f"{name}: got {flat_got.get(name)!r:.80}, expected {flat_expected.get(name)!r:.80}"
        for name in names
        if flat_got.get(name) != flat_expected.get(name)
    ):
        raise store_error(where, wanted, f"another ({differences})", remedy)


def _flatten(values: Any, name: str = "") -> dict[str, Any]:
    """Give each value of nested dicts its dotted key."""
    if not isinstance(values, dict):
        return {name: values}
    return {k: v for key, value in values.items() for k, v in _flatten(value, f"{name}.{key}".lstrip(".")).items()}


def _damage_error(path: Path, damaged: list[int]) -> UserError:
    got = f"others in chunk {', '.join(map(str, damaged[:8]))}{', ...' if len(damaged) > 8 else ''}"
    return store_error(path, "the bytes that were written", got, f"repair it: python -m kdkit cache repair {path}")


def store_error(where: object, expected: str, got: str, remedy: str) -> UserError:
    """Return an error in the form of all others: what was expected where, what was found, what to do."""
    return UserError(f"{where}: expected {expected}, got {got}; {remedy}")
