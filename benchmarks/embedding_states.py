"""In how much memory cached token states of many texts are read: they stay on the disk, and are read as batches ask.

    python -m benchmarks.embedding_states [--texts 100000] [--batches 4000]

It writes a cache as an embedding teacher does, of random fp16 states of 384 numbers for texts of 8 to 24 tokens, opens
and checks it in a process of its own, reads random batches of 32 texts, and prints the size of the file, the peak of
the memory beyond what the imports take, and texts per second. The goal for a million rows: 1.2 GB.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.embedding_rows import peak

WIDTH, BATCH, CHUNK = 384, 32, 256


def key_of(number: int) -> str:
    """Name a text as its hash would."""
    return hashlib.sha256(str(number).encode()).hexdigest()


def lengths_of(count: int) -> np.ndarray:
    """Draw the numbers of tokens."""
    return np.sort(np.random.default_rng(0).integers(8, 25, size=count))[::-1]


def write(path: Path, count: int) -> None:
    """Write the cache."""
    from kdkit.embeddings.teacher.answers import TOKEN_STATES
    from kdkit.embeddings.teacher.cache import COMPRESSION
    from kdkit.runs.records import Field
    from kdkit.runs.store_build import build_store

    lengths, draw = lengths_of(count), np.random.default_rng(1)
    chunks = [[key_of(n) for n in range(start, min(start + CHUNK, count))] for start in range(0, count, CHUNK)]

    def make_chunk(number: int) -> list[dict[str, np.ndarray]]:
        rows = lengths[number * CHUNK : (number + 1) * CHUNK]
        return [{TOKEN_STATES: draw.normal(size=(n, WIDTH)).astype(np.float16)} for n in rows]

    build_store(path, {}, [Field(TOKEN_STATES, "float16", WIDTH)], chunks, make_chunk, compression=COMPRESSION)


def measure(path: Path, count: int, batches: int) -> dict[str, float]:
    """Open the cache and read batches."""
    from kdkit.embeddings.teacher.answers import CachedTeacher
    from kdkit.runs.store import open_store

    keys, lengths, vectors = [key_of(n) for n in range(count)], lengths_of(count), np.zeros((count, WIDTH), np.float32)
    before, start = peak(), time.perf_counter()
    teacher = CachedTeacher(keys, lengths, vectors, open_store(path))
    opened = time.perf_counter()
    draw, total = np.random.default_rng(2), 0.0
    for _ in range(batches):
        view = teacher.view(draw.integers(0, count, size=BATCH).tolist(), "cpu")
        total += float(view.token_states[0, 0, 0])
    seconds = time.perf_counter() - opened
    return {
        "memory": peak() - before,
        "seconds_to_open": opened - start,
        "texts_per_second": batches * BATCH / seconds,
        "read": total,
    }


def main() -> None:
    """Read the command line and print one line of figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=100_000)
    parser.add_argument("--batches", type=int, default=4000)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.file is not None:
        print(json.dumps(measure(options.file, options.texts, options.batches)))
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "states.h5"
        write(file, options.texts)
        command = [sys.executable, "-m", "benchmarks.embedding_states", "--file", str(file)]
        command += ["--texts", str(options.texts), "--batches", str(options.batches)]
        found = json.loads(
            subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]
        )
        size = file.stat().st_size
    print(
        f"{options.texts:,} texts, {size / 1e9:.2f} GB: opened and checked in {found['seconds_to_open']:.1f} s, "
        f"{found['texts_per_second']:,.0f} texts/s in random batches, {found['memory'] / 1e9:.2f} GB of memory"
    )


if __name__ == "__main__":
    main()
