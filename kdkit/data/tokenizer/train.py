"""Training of a tokenizer on files, folders or hub data, outside of a run; the texts are read as a stream."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from kdkit.alignment.templates import CHATML, CHATML_TOKENS
from kdkit.alignment.tokenizers import check_special, train_tokenizer
from kdkit.config.language import DataConfig
from kdkit.data.text.corpora import stream_texts
from kdkit.errors import UserError
from kdkit.runs.disk import whole_folder

NUM_BYTES = 256


@dataclass
class Counted:
    """Texts that are counted while they are read."""

    texts: Iterable[str]
    num_texts: int = 0
    num_bytes: int = 0
    """Of UTF-8."""

    def __iter__(self) -> Iterator[str]:
        for text in self.texts:
            self.num_texts += 1
            self.num_bytes += len(text.encode())
            yield text


@dataclass(frozen=True)
class TrainedTokenizer:
    """A tokenizer and what it was trained on."""

    tokenizer: PreTrainedTokenizerFast
    num_texts: int
    num_bytes: int
    seconds: float
    is_chat: bool
    """Whether conversations were among the texts: then it has ChatML's markers and template."""

    def describe(self) -> str:
        """Say in one line what it is and what it was made of."""
        return (
            f"{describe_size(self.tokenizer)}; from {self.num_texts:,} texts of {self.num_bytes / 1e6:.1f} MB in "
            f"{self.seconds:.1f} s"
        )


def train_on(sources: list[DataConfig], vocab_size: int, special: list[str], key: str) -> TrainedTokenizer:
    """Train a byte-level BPE on all texts of some sources.

    Args:
        sources: each with its own `path`.
        vocab_size: entries, the 256 bytes and the special tokens included.
        special: special tokens beside `<|endoftext|>`; conversations add ChatML's.
        key: what the size is called, for messages.

    Raises:
        UserError: no text; more entries than it supports (see `check_supported`); see also `train_tokenizer` and
            `stream_texts`.
    """
    started = time.monotonic()
    check_special(special)
    streams = [stream_texts(source) for source in sources]
    is_chat = any(chat for _, chat in streams)
    more = tuple(dict.fromkeys([*special, *(CHATML_TOKENS if is_chat else ())]))
    counted = Counted(text for texts, _ in streams for text in texts)
    tokenizer = train_tokenizer(counted, vocab_size, more, key)
    if not counted.num_texts:
        names = ", ".join(repr(source.path) for source in sources)
        raise UserError(f"data.path: expected text, got none in {names}; it is empty")
    check_supported(tokenizer, vocab_size, key)
    if is_chat:
        tokenizer.chat_template = CHATML
    seconds = time.monotonic() - started
    return TrainedTokenizer(tokenizer, counted.num_texts, counted.num_bytes, seconds, is_chat)


def check_supported(tokenizer: PreTrainedTokenizerFast, vocab_size: int, key: str) -> None:
    """Refuse a vocabulary that the training text could not fill: it ran out of pairs to merge.

    Raises:
        UserError: with the merges that the text gives.
    """
    if len(tokenizer) < vocab_size:
        raise UserError(
            f"{key}: expected at most {len(tokenizer):,} entries, all that this text supports "
            f"({describe_size(tokenizer)}), got {vocab_size:,}; set {key}={len(tokenizer)}, or give more text"
        )


def describe_size(tokenizer: PreTrainedTokenizerFast) -> str:
    """Say what the entries of a tokenizer that was trained here are."""
    num_special = len(tokenizer.added_tokens_decoder)
    num_merges = len(tokenizer) - NUM_BYTES - num_special
    return f"{len(tokenizer):,} entries: {NUM_BYTES} bytes, {num_special} special, {num_merges:,} merges"


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path, key: str) -> None:
    """Write a tokenizer's files into a new or empty folder; `load_tokenizer` and AutoTokenizer read them.

    Raises:
        UserError: see `check_new_folder`.
    """
    check_new_folder(folder, key)
    with whole_folder(folder) as partial:
        tokenizer.save_pretrained(partial)


def check_new_folder(folder: Path, key: str) -> None:
    """Refuse a folder in which something lies already, or a file; found before the work.

    Raises:
        UserError: it is one.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise UserError(f"{key}: expected a new or empty folder, got {str(folder)!r}, which exists; name another one")
