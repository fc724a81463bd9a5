"""Bytes per token over vocabulary size and kind of text: tokenizers trained here beside those of released models.

Every kind of text is cut in two halves of documents, every second one: vocabularies are trained on the first halves of
all kinds together, or on that of one kind alone, and everything is measured on the second halves.

    KDKIT_TEST_DATA=DATA OMP_NUM_THREADS=1 nice -n 19 python -m benchmarks.tokenizer_compression
"""

import os
from pathlib import Path
from typing import Any

from benchmarks.measure import write_results
from kdkit.alignment.tokenizers import load_tokenizer, train_tokenizer
from kdkit.config.language import DataConfig
from kdkit.data.text.corpora import stream_texts
from kdkit.data.tokenizer.merges import shorten
from kdkit.data.tokenizer.study import bytes_per_token
from kdkit.data.tokenizer.usage import first_of

RESULTS = Path(__file__).parent / "results" / "tokenizer_compression.json"
KINDS = {
    "stories": ("lm/tinystories_a.txt", "text"),
    "novel": ("lm/gutenberg_melville-moby_dick.txt", "text"),
    "wiki": ("lm/wikitext2_valid_raw.txt", "text"),
    "maths": ("maths/gsm8k_train.jsonl", "solution"),
    "latex": ("maths/linear_algebra_exercises.jsonl", "solution"),
    "code": ("python-code", "text"),
}
SIZES = (1024, 2048, 4096, 8192, 16_384, 32_768)
RELEASED = ("smollm2", "qwen1.5", "gpt2")
HALF_BYTES = 400_000


def main() -> None:
    """Measure, write the results and print them."""
    data = Path(os.environ["KDKIT_TEST_DATA"])
    halves = {
        kind: halves_of(path if path == "python-code" else data / path, column)
        for kind, (path, column) in KINDS.items()
    }
    measured = {kind: second for kind, (_, second) in halves.items()}
    largest = train_tokenizer([text for first, _ in halves.values() for text in first], SIZES[-1])
    rows = [row(f"own, {size:,}", shorten(largest, size), measured) for size in SIZES]
    alone = {kind: train_tokenizer(first, 4096) for kind, (first, _) in halves.items()}
    rows += [row(f"own, {len(tokenizer):,}, {kind} only", tokenizer, measured) for kind, tokenizer in alone.items()]
    rows += [row(name, load_tokenizer(data / "tokenizers" / name), measured) for name in RELEASED]
    write_results(RESULTS, rows)


def halves_of(path: str | Path, column: str) -> tuple[list[str], list[str]]:
    """Return documents to train on and documents to measure on."""
    texts, _ = stream_texts(DataConfig(path=str(path), text_column=column, format="text"))
    documents = first_of(texts, 2 * HALF_BYTES)
    return documents[::2], documents[1::2]


def row(name: str, tokenizer: Any, measured: dict[str, list[str]]) -> dict[str, Any]:
    """Measure one tokenizer on every kind of text."""
    return {"name": name, "entries": len(tokenizer)} | {
        kind: bytes_per_token(tokenizer, texts) for kind, texts in measured.items()
    }


if __name__ == "__main__":
    main()
