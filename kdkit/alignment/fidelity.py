"""What a tokenizer loses of a text: bytes read as an unknown token, and bytes changed before they are read."""

import unicodedata
from functools import lru_cache

import numpy as np
from rapidfuzz.distance import Levenshtein

UNKNOWN, CHANGED = 0, 1
"""Kinds of loss: no entry for the text; a normaliser wrote another text (lower case, no accents, no spaces)."""


def no_losses() -> np.ndarray:
    """Return what `find_losses` does for a text whose tokens spell it."""
    return np.zeros((0, 3), np.int64)


def find_losses(text: str, ids: list[int], ends: np.ndarray, table: list[bytes | None]) -> np.ndarray:
    """Find the tokens of a text that do not spell the bytes they cover.

    A space of the tokenizer's own before the first word is no loss, nor is a canonically equal spelling (an accent as
    a character of its own, NFC). Several tokens of one character count together, at the last one.

    Args:
        text: what was encoded.
        ids: as `encode_with_ends` returns them.
        ends: likewise: byte at which each token ends.
        table: `token_bytes`.

    Returns:
        int64, `[num_losses, 3]`: token, bytes, kind; the bytes are those that an unknown token covers, or that were
        edited.
    """
    pieces = [table[token_id] for token_id in ids]
    content = text.encode()
    if None not in pieces and b"".join(pieces) in (content, b" " + content):  # type: ignore[arg-type]
        return no_losses()
    losses: list[tuple[int, int, int]] = []
    start, written = 0, b""
    for i, (piece, stop) in enumerate(zip(pieces, ends.tolist(), strict=True)):
        if piece is None:
            losses.append((i, stop - start, UNKNOWN))
        else:
            written += piece
            if i + 1 < len(pieces) and not (_is_text(written) and _is_text(content[start:stop])):
                continue  # half a character: its last token covers it
            if edits := _edits(written, content[start:stop], is_first=start == 0):
                losses.append((i, min(edits, stop - start), CHANGED))
        start, written = stop, b""
    return np.array(losses, np.int64).reshape(-1, 3)


def _is_text(content: bytes) -> bool:
    """Return whether bytes are whole characters."""
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


@lru_cache(maxsize=50_000)  # most text repeats the same words
def _edits(written: bytes, covered: bytes, is_first: bool) -> int:
    """Count the bytes that would have to be edited to make what was read what stands there."""
    first, second = (unicodedata.normalize("NFC", part.decode("utf-8", "replace")) for part in (written, covered))
    if is_first and first == " " + second:
        return 0
    return Levenshtein.distance(first.encode(), second.encode())
