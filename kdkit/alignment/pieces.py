"""Pieces: where a text can be cut so that a tokenizer reads each piece as it does inside the text.

Numpy finds the cuts and Arrow the different pieces, of a whole batch of texts at once: a piece that comes again costs
no Python object.
"""

import sys
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pyarrow

from kdkit.alignment.bytes import utf8_widths

LEVELS = 5
"""How finely texts can be cut; each level keeps the cuts of those below. A cut lies

1. before a single space between two words,
2. after a single line end between two words,
3. before the last space of several, where a letter follows,
4. after a letter, where a space, an ASCII digit or an ASCII sign follows; after an ASCII digit, where a space, a letter
   or a sign follows; after an ASCII sign, where an ASCII digit follows,
5. between a sign and a letter, where a sign or a single space stands before the sign; else many tokenizers read `.join`
   and `'s` as one.
"""

_OTHER, _SPACE, _LETTER, _DIGIT, _SIGN = range(5)
_APART = np.zeros((5, 5), bool)
"""Kinds of the character before and of the one after a cut of level 4."""
_APART[_LETTER, [_SPACE, _DIGIT, _SIGN]] = _APART[_DIGIT, [_SPACE, _LETTER, _SIGN]] = _APART[_SIGN, _DIGIT] = True


class Pieces(NamedTuple):
    """Texts in pieces."""

    different: list[str]
    """The different pieces."""
    indices: np.ndarray
    """int32, `[num_pieces]`: which of these each piece is, text after text."""
    counts: np.ndarray
    """int64, `[num_texts]`: pieces of each text."""

    def take(self, numbers: np.ndarray) -> "Pieces":
        """Return the pieces of some of the texts, int64, in their order; a text may come again."""
        counts = self.counts[numbers]
        ends = counts.cumsum()
        first = (self.counts.cumsum() - self.counts)[numbers]
        within = np.arange(counts.sum()) - np.repeat(ends - counts, counts)
        return Pieces(self.different, self.indices[np.repeat(first, counts) + within], counts)


def cut(texts: list[str], level: int) -> Pieces:
    """Cut texts into pieces; put together they are the texts.

    Args:
        texts: valid texts, not empty.
        level: from 1 to `LEVELS`, which explains it.
    """
    joined, codes, stops = _join(texts)
    is_start = _find_cuts(codes, level)
    starts_of_texts = np.append(0, stops[:-1] + 1)
    is_start[starts_of_texts] = is_start[stops] = True  # so the line end between two texts is alone
    starts = np.flatnonzero(is_start)
    ends = np.searchsorted(starts, stops)
    content = joined.encode()
    offsets = np.append(starts, len(codes))
    if len(content) > len(codes):  # not all of it is ASCII
        offsets = np.append(0, np.cumsum(utf8_widths(codes)))[offsets]
    buffers = [None, pyarrow.py_buffer(offsets), pyarrow.py_buffer(content)]
    found = pyarrow.Array.from_buffers(pyarrow.large_string(), len(starts), buffers).dictionary_encode()
    different = found.dictionary.to_numpy(zero_copy_only=False).tolist()
    return Pieces(different, np.delete(found.indices.to_numpy(), ends), np.diff(ends, prepend=-1) - 1)


def find_crossing(entries: list[str], level: int) -> list[str]:
    """Return the entries of a vocabulary that have the place of a cut inside, between two other letters."""
    _, codes, stops = _join([f"x{entry}x" for entry in entries])
    num_cuts = np.cumsum(_find_cuts(codes, level))
    starts = np.append(0, stops[:-1] + 1)[: len(stops)]
    crosses = num_cuts[stops - 2] > num_cuts[starts + 1]
    return [entry for entry, does in zip(entries, crosses.tolist(), strict=True) if does]


def _join(texts: list[str]) -> tuple[str, np.ndarray, np.ndarray]:
    """Return all texts, a line end after each; their code points, uint32; and where these line ends are, int64."""
    joined = "\n".join([*texts, ""])
    codes = np.frombuffer(joined.encode("utf-32-le"), np.uint32)
    return joined, codes, np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)) + 1) - 1


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
    if level >= 5:
        is_sign = kinds[:-1] == _SIGN
        cuts[2:] |= (is_sign[:-1] | (codes[:-2] == ord(" "))) & is_sign[1:] & (kinds[2:] == _LETTER)
    return cuts


@lru_cache(maxsize=1)
def _kinds() -> np.ndarray:
    """Return the kind of every code point, uint8."""
    kinds = np.zeros(sys.maxunicode + 1, np.uint8)
    characters = list(map(chr, range(0x40000)))  # no letter or space stands in the planes above
    spaces, letters = (np.flatnonzero(list(map(is_kind, characters))) for is_kind in (str.isspace, str.isalpha))
    kinds[spaces], kinds[letters] = _SPACE, _LETTER
    for code in range(ord("!"), 0x7F):
        if kinds[code] == _OTHER:
            kinds[code] = _DIGIT if chr(code).isdigit() else _SIGN
    return kinds
