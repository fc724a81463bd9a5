"""Records as arrays of an HDF5 group: a field of all samples is one dataset, every sample compressed for itself.

Any reader can read them with HDF5's shuffle and gzip; here both happen outside HDF5's lock, one for all threads.
"""

import hashlib
import json
import zlib
from dataclasses import dataclass

import h5py
import numpy as np

from kdkit.errors import UserError

Record = dict[str, np.ndarray]
"""The arrays of one sample, by field."""


@dataclass(frozen=True)
class Field:
    """A named array of every record: `width` values of a numpy dtype in each row; width 0: one scalar a row."""

    name: str
    dtype: str
    width: int = 0

    @property
    def row(self) -> np.dtype:
        """Type of one row, with its shape and its size in bytes."""
        return np.dtype((self.dtype, (self.width,) if self.width else ()))


def count_rows(where: str, fields: list[Field], record: Record) -> int:
    """Count the rows of a record, which must have the declared arrays."""
    num_rows = (*record[fields[0].name].shape, 0)[0] if fields[0].name in record else 0
    expected = {field.name: (str(field.row.base), (num_rows, *field.row.shape)) for field in fields}
    got = {name: (str(values.dtype), values.shape) for name, values in record.items()}
    if got != expected:
        raise UserError(f"{where}: expected arrays {expected}, got {got}; return what the fields declare")
    return num_rows


def pack(group: h5py.Group, field: Field, samples: list[np.ndarray], longest: int, level: int) -> None:
    """Write a field of all samples, `[samples, longest, width]`: HDF5's shuffle and gzip, but not in HDF5's lock."""
    shape = (longest, *field.row.shape)
    options = {"chunks": (1, *shape), "compression": level, "shuffle": True} if samples and longest else {}
    dataset = group.create_dataset(field.name, (len(samples), *shape), field.row.base, **options)
    for index, values in enumerate(samples if options else []):
        filled = np.zeros(shape, field.row.base)
        filled[: len(values)] = values
        planes = filled.reshape(-1, 1).view(np.uint8).T  # first bytes of all numbers, then second bytes
        # "filtered" expects numbers instead of words: fewer bytes, and faster to read, than the default
        packer = zlib.compressobj(level, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_FILTERED)
        packed = packer.compress(planes.tobytes()) + packer.flush()
        dataset.id.write_direct_chunk((index, *(0 for _ in shape)), packed)


def unpack(dataset: h5py.h5d.DatasetID, row: np.dtype, index: int, length: int) -> np.ndarray:
    """Read a field of one sample: see `pack`."""
    if not length:
        return np.empty(0, row)
    packed = dataset.read_direct_chunk((index, 0, *(0 for _ in row.shape)))[1]
    planes = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(row.base.itemsize, -1)
    numbers = np.empty(planes.shape[::-1], np.uint8)
    for byte, plane in enumerate(planes):  # several times faster than a copy of the transpose
        numbers[:, byte] = plane
    return numbers.view(row.base).reshape(-1, *row.shape)[:length]


def digest(group: h5py.Group, keys: list[str]) -> str:
    """Hash a chunk: its keys; names, types, shapes and stored bytes, which are not decompressed, of its datasets."""
    digest = hashlib.sha256(json.dumps(keys).encode())
    for name in sorted(group):
        dataset = group[name]
        digest.update(repr((name, dataset.dtype.str, dataset.shape, dataset.chunks)).encode())
        if dataset.chunks is None:
            digest.update(dataset[()])
            continue
        read, rest = dataset.id.read_direct_chunk, (0,) * (dataset.ndim - 1)
        for sample in range(len(dataset)):
            digest.update(read((sample, *rest))[1])
    return digest.hexdigest()
