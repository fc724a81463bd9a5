"""Training and encoding of a tokenizer here, against the package `tokenizers` alone on the same files.

Training: `kdkit tokenizer train` (reading, checking, training) against `Tokenizer.train([file])`, which reads the file
in Rust, and against `train_from_iterator` over the documents in memory, where nothing is read at all. Encoding: kdkit's
`TextEncoder`, which also knows the bytes of every token, against `encode_batch_fast`, ids alone, and `encode`, a
document at a time. All methods take turns, in processor time of one thread. Times are those of each method's fastest
round, since other processes on the machine only ever add to them; the ratios of all rounds stand beside.

    KDKIT_TEST_DATA=DATA RAYON_NUM_THREADS=1 OMP_NUM_THREADS=1 nice -n 19 python -m benchmarks.tokenizer_speed
"""

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from benchmarks.measure import write_results
from kdkit.alignment.encoding import TextEncoder
from kdkit.alignment.tokenizers import END_OF_TEXT
from kdkit.config.language import DataConfig
from kdkit.data.text.corpora import stream_texts
from kdkit.data.tokenizer.train import train_on

RESULTS = Path(__file__).parent / "results" / "tokenizer_speed.json"
FILES = ("tinystories_a.txt", "gutenberg_melville-moby_dick.txt", "tinyshakespeare.txt")
SIZES = (8192,)


def main() -> None:
    """Measure, write the results and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    folder = Path(os.environ["KDKIT_TEST_DATA"]) / "lm"
    rows = [row for name in FILES for size in SIZES for row in measure_file(folder / name, size, rounds)]
    write_results(RESULTS, rows)


def measure_file(file: Path, size: int, rounds: int) -> list[dict[str, Any]]:
    """Measure training with one size of vocabulary on one file, and encoding of the file."""
    config, num_bytes = DataConfig(path=str(file)), file.stat().st_size
    documents = list(stream_texts(config)[0])
    made = train_on([config], size, [], "size").tokenizer
    backend = made.backend_tokenizer
    training = take_turns(
        {
            "kdkit, from the file": lambda: train_on([config], size, [], "size"),
            "tokenizers, from the file": lambda: new_tokenizer().train([str(file)], new_trainer(size)),
            "tokenizers, in memory": lambda: new_tokenizer().train_from_iterator(documents, new_trainer(size)),
        },
        rounds,
    )
    encoding = take_turns(
        {
            "kdkit, ids and bytes": lambda: TextEncoder(made).encode(documents),
            "tokenizers, ids in batches": lambda: backend.encode_batch_fast(documents, add_special_tokens=False),
            "tokenizers, one by one": lambda: [backend.encode(text, add_special_tokens=False) for text in documents],
        },
        rounds,
    )
    facts = {"file": file.name, "MB": num_bytes / 1e6, "vocab_size": size}
    rows = []
    for work, times in (("train", training), ("encode", encoding)):
        ours = next(iter(times))
        for name, seconds in times.items():
            ratio = min(times[ours]) / min(seconds)
            ratios = [mine / other for mine, other in zip(times[ours], seconds, strict=True)]
            speed = num_bytes / 1e6 / min(seconds)
            rows.append({"work": work, "name": name, **facts, "cpu_seconds": min(seconds), "MB_per_s": speed})
            rows[-1] |= {"kdkit_over_it": ratio, "ratios": [round(ratio, 3) for ratio in ratios]}
    return rows


def take_turns(work: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Return the processor seconds of each piece of work in every round, after a round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for number in range(rounds + 1):
        for name, call in work.items():
            start = time.process_time()
            call()
            if number:
                seconds[name].append(time.process_time() - start)
    return seconds


def new_tokenizer() -> Tokenizer:
    """Make the tokenizer that kdkit trains, untrained."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


def new_trainer(size: int) -> trainers.BpeTrainer:
    """Make its trainer."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return trainers.BpeTrainer(
        vocab_size=size, special_tokens=[END_OF_TEXT], initial_alphabet=alphabet, show_progress=False
    )


if __name__ == "__main__":
    main()
