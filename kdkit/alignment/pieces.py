"""Pieces: where a text can be cut so that a tokenizer reads each piece as it does inside the text.

Numpy finds the cuts and Arrow the different pieces, of a whole batch of texts at once: a piece that comes again costs
no Python object.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pyarrow

LEVELS = 4
"""How finely texts can be cut; each level keeps the cuts of those below. A cut lies

1. before a single space between two words,
2. after a single line end between two words,
3. before the last space of several, where a letter follows,
4. after a letter, where a space, an ASCII digit or an ASCII sign follows; after an ASCII digit, where a space, a letter
   or a sign follows; after an ASCII sign, where an ASCII digit follows. Not between a sign and a letter: many
   tokenizers read `.join` and `'s` as one.
"""

_OTHER, _SPACE, _LETTER, _DIGIT, _SIGN = range(5)
_APART = np.zeros((5, 5), bool)
"""Kinds of the character before and of the one after a cut of level 4."""
_APART[_LETTER, [_SPACE, _DIGIT, _SIGN]] = _APART[_DIGIT, [_SPACE, _LETTER, _SIGN]] = _APART[_SIGN, _DIGIT] = True


class Pieces(NamedTuple):
    """Texts in pieces."""

    different: list[bytes]
    """The different pieces, as UTF-32."""
    indices: np.ndarray
    """int32, `[num_pieces]`: which of these each piece is, text after text."""
    counts: np.ndarray
    """int64, `[num_texts]`: pieces of each text."""


def cut(texts: list[str], level: int) -> Pieces:
    """Cut texts into pieces; put together they are the texts.

    Args:
        texts: valid texts, not empty.
        level: from 1 to `LEVELS`, which explains it.
    """
    codes, stops = _join(texts)
    is_start = _find_cuts(codes, level)
    starts_of_texts = np.append(0, stops[:-1] + 1)
    is_start[starts_of_texts] = is_start[stops] = True  # so the line end between two texts is alone
    starts = np.flatnonzero(is_start)
    ends = np.searchsorted(starts, stops)
    offsets = 4 * np.append(starts, len(codes))
    buffers = [None, pyarrow.py_buffer(offsets), pyarrow.py_buffer(codes)]
    found = pyarrow.Array.from_buffers(pyarrow.large_binary(), len(starts), buffers).dictionary_encode()
    different = found.dictionary.to_numpy(zero_copy_only=False).tolist()
    return Pieces(different, np.delete(found.indices.to_numpy(), ends), np.diff(ends, prepend=-1) - 1)


def find_crossing(entries: list[str], level: int) -> list[str]:
    """Return the entries of a vocabulary that have the place of a cut inside, between two other letters."""
    codes, stops = _join([f"x{entry}x" for entry in entries])
    num_cuts = np.cumsum(_find_cuts(codes, level))
    starts = np.append(0, stops[:-1] + 1)[: len(stops)]
    crosses = num_cuts[stops - 2] > num_cuts[starts + 1]
    return [entry for entry, does in zip(entries, crosses.tolist(), strict=True) if does]


def _join(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the code points of all texts, a line end after each, uint32, and where these line ends are, int64."""
    codes = np.frombuffer("\n".join([*texts, ""]).encode("utf-32-le"), np.uint32)
    return codes, np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)) + 1) - 1


def _find_cuts(codes: np.ndarray, level: int) -> np.ndarray:
    """Return before which characters a cut lies, bool."""
    kinds = _kinds()[codes]
    is_word = kinds != _SPACE
    is_blank = codes[1:-1] == ord(" ")
    cuts = np.zeros(len(codes), bool)
    cuts[1:-1] = is_blank & is_word[:-2] & is_word[2:]
    if level >= 2:
        cuts[2:] |= (codes[1:-1] == ord("\n")) & is_word[:-2] & is_word[2:]
    if level >= 3:
        cuts[1:-1] |= is_blank & ~is_word[:-2] & (kinds[2:] == _LETTER)
    if level >= 4:
        cuts[1:] |= _APART[kinds[:-1], kinds[1:]]
    return cuts


@lru_cache(maxsize=1)
def _kinds() -> np.ndarray:
    """Return the kind of every code point, uint8."""
    characters = list(map(chr, range(0x110000)))
    kinds = np.zeros(len(characters), np.uint8)
    kinds[np.fromiter(map(str.isspace, characters), bool)] = _SPACE
    kinds[np.fromiter(map(str.isalpha, characters), bool)] = _LETTER
    for code in range(ord("!"), 0x7F):
        if kinds[code] == _OTHER:
            kinds[code] = _DIGIT if chr(code).isdigit() else _SIGN
    return kinds
