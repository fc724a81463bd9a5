"""How fast, and in how much memory, the data step reads many sentences for embeddings.

    python benchmarks/embedding_rows.py --rows 1000000
    python benchmarks/embedding_rows.py --rows 1000000 --align offsets

It writes a CSV file of different sentences drawn from the words of Python's documentation, runs the data step on it in
a process of its own with an empty cache, and prints rows per second and the peak of the memory beyond what the imports
and the tokenizer take. With `--align` the student has a tokenizer of its own, and tokens are aligned too. The goal for
a million rows and two cores: 20,000 rows a second, 1.2 GB.
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

WORDS = [
    "the",
    "a",
    "of",
    "to",
    "in",
    "is",
    "that",
    "for",
    "it",
    "with",
    "not",
    "which",
    "file",
    "value",
    "list",
    "string",
]


def write_rows(path: Path, count: int) -> None:
    """Write sentences of 6 to 16 words and a number, all different."""
    draw = np.random.default_rng(0)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["text"])
        for number in range(count):
            words = draw.integers(0, len(WORDS), size=draw.integers(6, 17))
            table.writerow([f"{' '.join(WORDS[word] for word in words)} {number}."])


def peak() -> int:
    """Return the largest memory of this process so far, in bytes."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024


def measure(folder: Path, align: str) -> dict[str, float]:
    """Run the data step on the sentences of a folder."""
    from kdkit.config.embeddings import embedding_config_from_values
    from kdkit.embeddings.data.prepare import build_sentences, prepare_sentences
    from kdkit.embeddings.models.places import load_fast_tokenizer
    from kdkit.machine.hardware import find_hardware
    from kdkit.machine.session import Session
    from kdkit.runs.folder import Run

    values = {"data": {"path": str(folder / "rows.csv")}}
    if align:
        values["student"] = {"path": "build", "build": {"tokenizer": "own"}}
    config = embedding_config_from_values(values)
    load_fast_tokenizer(config.teacher.path, None, "teacher.path")
    session = Session(config, Run(folder / "run", folder / "cache"), find_hardware("cpu"))
    before, start = peak(), time.perf_counter()
    build_sentences(config, folder / "cache")
    if align:
        prepare_sentences(session, align)
    return {"seconds": time.perf_counter() - start, "memory": peak() - before}


def main() -> None:
    """Read the command line and print one line of figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--align", default="", help="offsets, dtw, weighted_dtw or edit_distance")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.folder is not None:
        print(json.dumps(measure(options.folder, options.align)))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_rows(Path(folder) / "rows.csv", options.rows)
        command = [sys.executable, __file__, "--folder", folder, "--align", options.align]
        found = json.loads(
            subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]
        )
    speed = options.rows / found["seconds"]
    print(f"{options.rows:,} rows: {found['seconds']:.1f} s, {speed:,.0f} rows/s, {found['memory'] / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
