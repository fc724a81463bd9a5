"""Small stores for the tests: what is in them, and how they are built, compared and damaged."""

import hashlib
import multiprocessing
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest

from kdkit.errors import UserError
from kdkit.runs.records import Field
from kdkit.runs.store_build import build_store

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


def stop_at(stop: int, made: list[int] | None = None):
    """Make chunks until one that is never made."""

    def make(number: int) -> list[dict[str, np.ndarray]]:
        if number == stop:
            raise KeyboardInterrupt
        if made is not None:
            made.append(number)
        return make_chunk(number)

    return make
