"""What notebook 08 shows of a run's tokenizer: its merges on a text, and how short it makes texts of several kinds."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from kdkit.alignment.tokenizers import load_tokenizer, token_bytes, train_tokenizer
from kdkit.config.language import Config
from kdkit.data.prepare import PreparedData
from kdkit.data.text.corpora import stream_texts
from kdkit.data.tokenizer.merges import cut_text, has_merges, list_merges, merge_steps, shorten, step_sizes
from kdkit.data.tokenizer.usage import TokenUse, count_tokens, first_of
from kdkit.data.windows import PAD, Windows
from kdkit.errors import UserError
from kdkit.machine.hub import is_local_path
from kdkit.machine.session import Session
from kdkit.runs.folder import Run
from kdkit.runs.messages import note

MERGES_FILE, COMPRESSION_FILE = "merges.json", "compression.json"
"""In the run folder."""
NUM_STEPS = 7
"""Numbers of merges that a text is cut with, none and all among them."""
NUM_FIRST, NUM_LAST = 12, 6
"""Merges that are listed."""
SIZES = (512, 1024, 2048, 4096, 8192, 16_384, 32_768)
"""Vocabularies that are compared, as far as the training text supports them."""
TRAINING_BYTES, MEASURED_BYTES = 4_000_000, 200_000
"""Text that the compared vocabularies are trained on at most, and measured on."""
HELD_OUT = "held-out text of the run"


def study_merges(run: Run, tokenizer: PreTrainedTokenizerFast, text: str) -> list[bytes]:
    """Cut a text with more and more of a BPE's merges; writes `merges.json`, with no steps for another kind.

    Returns:
        The bytes of the text's tokens.
    """
    facts: dict[str, Any] = {"text": text, "steps": [], "merges": []}
    if has_merges(tokenizer):
        facts["steps"] = merge_steps(tokenizer, text, step_sizes(tokenizer, NUM_STEPS))
        facts["merges"] = _describe_merges(tokenizer)
    run.write_json(MERGES_FILE, facts)
    return cut_text(tokenizer, text)


def study_use(data: PreparedData) -> TokenUse:
    """Count the tokens of the run's held-out text as its student reads it."""
    return count_tokens(data.student_tokenizer, texts_of_windows(data.evaluation, data.student_tokenizer))


def cut_held_out(data: PreparedData, characters: int) -> dict[str, list[bytes]]:
    """Cut the beginning of the held-out text with the student's tokenizer, and the teacher's where it is another."""
    text = "".join(first_of(texts_of_windows(data.evaluation, data.student_tokenizer), 4 * characters))[:characters]
    named = {"student": data.student_tokenizer} | ({} if data.same_tokenizer else {"teacher": data.teacher_tokenizer})
    return {f"{name}, {len(each):,} entries": cut_text(each, text) for name, each in named.items()}


def study_compression(session: Session[Config], data: PreparedData, texts: str, tokenizers: str) -> dict[str, Any]:
    """Measure bytes per token of growing vocabularies, and of other tokenizers, on texts of several kinds.

    The vocabularies are trained on the run's training text, one training for all of them (see `shorten`). Writes
    `compression.json`.

    Args:
        texts: names of texts beside the run's held-out text, as for `data.path`, divided by spaces.
        tokenizers: folders and hub names of tokenizers to compare with. A hub name that cannot be reached is left out.

    Returns:
        By kind of text: `own`, sizes and bytes per token; `others`, the same by name.

    Raises:
        UserError: no such text or folder.
    """
    training = first_of(texts_of_windows(data.train, data.student_tokenizer), TRAINING_BYTES)
    largest = train_tokenizer(training, SIZES[-1])
    sizes = [size for size in SIZES if size < len(largest)] + [len(largest)]
    own = {size: shorten(largest, size) for size in sizes}
    others = {"student": data.student_tokenizer}
    others |= {} if data.same_tokenizer else {"teacher": data.teacher_tokenizer}
    others |= dict(_load_others(tokenizers.split()))
    measured = {}
    for kind, sample in _samples(session.config, data, texts.split()).items():
        measured[kind] = {
            "own": [[size, bytes_per_token(each, sample)] for size, each in own.items()],
            "others": {name: [len(each), bytes_per_token(each, sample)] for name, each in others.items()},
        }
    session.run.write_json(COMPRESSION_FILE, measured)
    return measured


def bytes_per_token(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> float:
    """Return how many bytes of texts a token covers on average, special tokens read as text."""
    backend = tokenizer.backend_tokenizer
    backend.encode_special_tokens = True  # every call of the tokenizer itself resets this
    num_tokens = sum(len(found.ids) for found in backend.encode_batch_fast(texts, add_special_tokens=False))
    return sum(len(text.encode()) for text in texts) / max(num_tokens, 1)


def texts_of_windows(windows: Windows, tokenizer: PreTrainedTokenizerFast) -> Iterator[str]:
    """Yield the text of each window as the student reads it, without special tokens."""
    table = token_bytes(tokenizer)
    for row in np.asarray(windows.student_ids):
        content = b"".join(table[token_id] or b"" for token_id in row[row != PAD].tolist())
        if text := content.decode("utf-8", "ignore"):
            yield text


def _samples(config: Config, data: PreparedData, names: list[str]) -> dict[str, list[str]]:
    """Return some text of every kind, by its name."""
    held_out = texts_of_windows(data.evaluation, data.student_tokenizer)
    samples = {HELD_OUT: first_of(held_out, MEASURED_BYTES)}
    for name in names:
        texts, _ = stream_texts(config.data.model_copy(update={"path": name, "subset_size": None}))
        samples[name.rstrip("/").rpartition("/")[2]] = first_of(texts, MEASURED_BYTES)
    return samples


def _load_others(names: list[str]) -> Iterator[tuple[str, PreTrainedTokenizerFast]]:
    """Load tokenizers; of the hub those that can be reached."""
    for name in names:
        try:
            yield name.rstrip("/").rpartition("/")[2], load_tokenizer(name, "TOKENIZERS")
        except UserError as error:
            if is_local_path(name):
                raise
            note(f"{name} is left out: {str(error).partition(', got ')[2].partition(';')[0]}")


def _describe_merges(tokenizer: PreTrainedTokenizerFast) -> list[dict[str, Any]]:
    """Return the first and the last merges: `number`, and `left`, `right` and `piece` as bytes in hexadecimal."""
    table, numbers = token_bytes(tokenizer), tokenizer.backend_tokenizer.get_vocab()
    merges = list(enumerate(list_merges(tokenizer), start=1))
    shown = merges if len(merges) <= NUM_FIRST + NUM_LAST else [*merges[:NUM_FIRST], *merges[-NUM_LAST:]]
    return [
        {"number": number}
        | {
            name: (table[numbers[piece]] or b"").hex()
            for name, piece in (("left", merge.left), ("right", merge.right), ("piece", merge.piece))
        }
        for number, merge in shown
    ]
