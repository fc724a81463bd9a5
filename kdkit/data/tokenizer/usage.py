"""What a tokenizer does to much text: bytes per token, how often each entry is used, what it does not know."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from kdkit.alignment.encoding import TextEncoder
from kdkit.alignment.fidelity import UNKNOWN
from kdkit.alignment.tokenizers import token_bytes

BATCH = 64
"""Texts that are encoded together."""


@dataclass(frozen=True)
class TokenUse:
    """A text as one tokenizer reads it, without special tokens."""

    num_texts: int
    num_bytes: int
    num_characters: int
    num_words: int
    """Stretches between white space."""
    counts: np.ndarray
    """int64, `[V]`: how often each entry is used."""
    inner_tokens: int
    """Tokens that end inside a character: bytes of it."""
    unknown_bytes: int
    """Bytes read as an unknown token."""
    changed_bytes: int
    """Bytes that a normaliser rewrote before they were read."""
    pieces: list[bytes | None]
    """Bytes of every entry; None for special and unused ones."""

    @property
    def num_tokens(self) -> int:
        """Tokens of the whole text."""
        return int(self.counts.sum())

    @property
    def bytes_per_token(self) -> float:
        """UTF-8 bytes that a token covers on average: higher is a shorter sequence."""
        return self.num_bytes / max(self.num_tokens, 1)

    @property
    def never_used(self) -> int:
        """Entries of text, without the special ones, that this text does not need."""
        return sum(piece is not None and not count for piece, count in zip(self.pieces, self.counts, strict=True))

    @property
    def num_entries(self) -> int:
        """Entries of text, without the special ones."""
        return sum(piece is not None for piece in self.pieces)

    def most_used(self, count: int) -> list[tuple[bytes, int]]:
        """Return the entries that are used most, and how often."""
        order = np.argsort(-self.counts, kind="stable")[:count].tolist()
        return [(self._piece(number), int(self.counts[number])) for number in order if self.counts[number]]

    def rarest(self, count: int) -> list[tuple[bytes, int]]:
        """Return the entries that are used least, but used, and how often; of several the longest first."""
        used = np.flatnonzero(self.counts).tolist()
        used.sort(key=lambda number: (self.counts[number], -len(self._piece(number)), number))
        return [(self._piece(number), int(self.counts[number])) for number in used[:count]]

    def describe(self) -> dict[str, Any]:
        """Return the figures of the text, for a table or a file."""
        return {
            "num_texts": self.num_texts,
            "num_bytes": self.num_bytes,
            "num_tokens": self.num_tokens,
            "bytes_per_token": self.bytes_per_token,
            "tokens_per_word": self.num_tokens / max(self.num_words, 1),
            "inner_token_share": self.inner_tokens / max(self.num_tokens, 1),
            "unknown_share": self.unknown_bytes / max(self.num_bytes, 1),
            "changed_share": self.changed_bytes / max(self.num_bytes, 1),
            "entries_used": self.num_entries - self.never_used,
            "entries": self.num_entries,
        }

    def _piece(self, number: int) -> bytes:
        return self.pieces[number] or b""


def count_tokens(tokenizer: PreTrainedTokenizerFast, texts: Iterable[str]) -> TokenUse:
    """Encode texts and count; they are read once, and need not fit into memory."""
    encoder, pieces = TextEncoder(tokenizer), token_bytes(tokenizer)
    counts = np.zeros(len(pieces), np.int64)
    num_texts = num_bytes = num_characters = num_words = inner = 0
    lost = np.zeros(2, np.int64)
    for batch in _batches(texts):
        ids, widths, _, losses = encoder.encode(batch)
        counts += np.bincount(ids, minlength=len(counts))
        content = np.frombuffer("".join(batch).encode(), np.uint8)
        ends = np.cumsum(widths)
        starts_later = np.append(content, 0)[ends]  # what follows each token; a byte 10xxxxxx is inside a character
        inner += int(((starts_later & 0xC0) == 0x80).sum())
        lost += [losses[losses[:, 2] == kind, 1].sum() for kind in range(2)]
        num_texts, num_bytes = num_texts + len(batch), num_bytes + len(content)
        num_characters += sum(map(len, batch))
        num_words += sum(len(text.split()) for text in batch)
    unknown, changed = lost[UNKNOWN], lost[1 - UNKNOWN]
    return TokenUse(
        *(num_texts, num_bytes, num_characters, num_words, counts, inner, int(unknown), int(changed), pieces)
    )


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Yield the texts that are not empty, some at a time."""
    texts = iter(texts)
    while batch := list(islice(texts, BATCH)):
        if full := [text for text in batch if text]:
            yield full


def first_of(texts: Iterable[str], num_bytes: int) -> list[str]:
    """Return the first texts of a stream, as many as hold so many bytes; the last one is cut."""
    chosen, left = [], num_bytes
    for text in texts:
        if left <= 0:
            break
        part = text.encode()[:left].decode("utf-8", "ignore")
        left -= len(part.encode())
        if part:
            chosen.append(part)
        if len(part) < len(text):
            break
    return chosen
