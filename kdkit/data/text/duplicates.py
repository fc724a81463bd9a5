"""Near-copies across a split: training documents that say again, nearly in the same words, what a held-out one says."""

import re
from collections.abc import Iterable
from itertools import chain
from typing import NamedTuple

import numpy as np

WORDS = 5
"""Words of a shingle: two texts share one where they have so many words in a row in common."""
SHARE = 0.4
"""Shingles of the shorter of two documents that a near-copy has in common with the other: half, where its cuts lie
elsewhere. Stories, articles and chapters of one book have not even 0.2."""
LONGER, HELD_SHARE = 3, 0.8
"""A document so many times as long must hold nearly all of the shorter one."""
MIN_SHINGLES = 26
"""A document of less than 30 words is a near-copy only of one of the very same words: sentences resemble others."""
MAX_OWNERS = 4
"""Held-out documents that share a shingle at most: what more of them share, such as a licence, is a form, not text."""

_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
UNIT = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")
"""A word, or a single character of a script that is written without spaces (Thai, Lao, Burmese, Khmer, Han, kana)."""
_FACTOR = 0x9E3779B97F4A7C15
"""Odd, and without a pattern: 2**64 divided by the golden ratio."""


def find_near_copies(held_out: Iterable[str], others: Iterable[str]) -> np.ndarray:
    """Find the texts that are near-copies of a held-out text, whatever their case, spaces and punctuation.

    Two texts are near-copies if two fifths of the shingles (5 words in a row) of the shorter one stand in the other, or
    four fifths where that is much longer; so one is also that holds the other and more, which resemblance (Jaccard)
    would miss. Shingles that more than
    `MAX_OWNERS` held-out texts share are left out of the comparison.
    The comparison is exact but for hashing, unlike MinHash, since the held-out part of a corpus is small.

    Args:
        held_out: the texts whose shingles are kept: 12 bytes a word.
        others: texts that are looked through, one by one.

    Returns:
        bool, `[num_others]`.

    Source: Broder 1997, On the resemblance and containment of documents; as in Lee et al. 2022,
    Deduplicating training data makes language models better, but for containment in place of resemblance.
    """
    kept = list(map(shingles, held_out))
    hashes = np.concatenate([np.zeros(0, np.uint64), *kept])
    owners = np.repeat(np.arange(len(kept)), [len(each) for each in kept])
    order = np.argsort(hashes, kind="stable")
    hashes, owners = hashes[order], owners[order]
    _, place, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    is_form = counts[place] > MAX_OWNERS
    sizes = np.bincount(owners[~is_form], minlength=len(kept))
    # most words of other texts stand in no held-out one: a table says so at once
    num_bits = min(27, max(10, len(hashes).bit_length() + 4))
    shift = np.uint64(64 - num_bits)
    is_there = np.zeros(2**num_bits, bool)
    is_there[hashes >> shift] = True
    known = _Known(hashes, owners.astype(np.int32), is_form, sizes, is_there, shift)
    return np.fromiter((_is_near_copy(_hash_shingles(text), known) for text in others), bool)


class _Known(NamedTuple):
    """The shingles of all held-out texts."""

    hashes: np.ndarray
    """Sorted; one that several texts have stands there several times."""
    owners: np.ndarray
    """The text of each."""
    is_form: np.ndarray
    """Whether too many texts have it."""
    sizes: np.ndarray
    """Number of shingles of each text, forms aside."""
    is_there: np.ndarray
    """By the first bits of a hash: whether it may be among them."""
    shift: np.uint64
    """Leaves these bits."""


def shingles(text: str) -> np.ndarray:
    """Return the different shingles of a text as hashes, uint64; of a shorter text the only one it has."""
    return np.unique(_hash_shingles(text))


def copy_rate(text: str, sources: str | Iterable[str] | np.ndarray, n: int = WORDS) -> float:
    """Return the share of a text's word n-grams that stand in a source; 0 for a text of fewer than n words.

    Case, spaces and punctuation do not count.

    Args:
        sources: texts, or where many texts are compared with the same ones, `ngrams(sources, n)`.
        n: words in a row that make a copy.
    """
    if not isinstance(sources, np.ndarray):
        sources = ngrams(sources, n)
    found = hash_ngrams(UNIT.findall(text.lower()), n)
    if not len(found) or not len(sources):
        return 0.0
    place = np.searchsorted(sources, found)
    return float((sources[np.minimum(place, len(sources) - 1)] == found).mean())


def copy_rates(texts: list[str], sources: np.ndarray, n: int = WORDS) -> np.ndarray:
    """Return `copy_rate` of many texts at once, fp64, `[num_texts]`: a few microseconds each.

    Args:
        sources: what `ngrams` returns.
        n: words in a row that make a copy.
    """
    words = [UNIT.findall(text.lower()) for text in texts]
    hashes = hash_ngrams(list(chain.from_iterable(words)), n)
    ends = np.cumsum([len(each) for each in words], dtype=np.int64)
    starts = np.arange(len(hashes))
    owner = np.searchsorted(ends, starts, side="right")
    inside = starts + n <= ends[owner]  # else it goes on in the next text
    hashes, owner = hashes[inside], owner[inside]
    place = np.searchsorted(sources, hashes).clip(max=max(len(sources) - 1, 0))
    is_known = sources[place] == hashes if len(sources) else np.zeros(len(hashes), bool)
    counts = np.bincount(owner, minlength=len(texts))
    return np.bincount(owner[is_known], minlength=len(texts)) / np.maximum(counts, 1)


def ngrams(sources: str | Iterable[str], n: int = WORDS) -> np.ndarray:
    """Return the different word n-grams of texts as hashes, uint64, in order."""
    texts = [sources] if isinstance(sources, str) else sources
    hashes = [hash_ngrams(UNIT.findall(text.lower()), n) for text in texts]
    return np.unique(np.concatenate([np.zeros(0, np.uint64), *hashes]))


def _hash_shingles(text: str) -> np.ndarray:
    """Return the shingles of a text in their order."""
    words = UNIT.findall(text.lower())
    return hash_ngrams(words + [""] * (WORDS - len(words)), WORDS)


def hash_ngrams(words: list[str], n: int) -> np.ndarray:
    """Return the hashes of every n words in a row, uint64, in their order; none for fewer words."""
    codes = np.fromiter(map(hash, words), np.int64, len(words)).view(np.uint64)
    count = max(0, len(codes) - n + 1)
    mixed = np.zeros(count, np.uint64)
    for place in range(n):
        mixed = (mixed ^ (mixed >> np.uint64(29)) ^ codes[place : place + count]) * np.uint64(_FACTOR)
    return (mixed ^ (mixed >> np.uint64(32))) * np.uint64(_FACTOR)


def _is_near_copy(found: np.ndarray, known: _Known) -> bool:
    """Compare the shingles of one text with those of all held-out texts."""
    likely = np.unique(found[known.is_there[found >> known.shift]])
    first = np.searchsorted(known.hashes, likely, side="left")
    counts = np.searchsorted(known.hashes, likely, side="right") - first
    first, counts = first[counts > 0], counts[counts > 0]
    is_form = known.is_form[first]
    size = len(np.unique(found)) - int(is_form.sum())
    first, counts = first[~is_form], counts[~is_form]
    index = np.repeat(first - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
    texts, common = np.unique(known.owners[index], return_counts=True)
    shorter, longer = np.minimum(known.sizes[texts], size), np.maximum(known.sizes[texts], size)
    share = np.where(longer > LONGER * shorter, HELD_SHARE, SHARE)
    return bool((common >= np.where(shorter < MIN_SHINGLES, longer, share * shorter)).any())
