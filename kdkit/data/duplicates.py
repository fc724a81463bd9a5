"""Near-copies across a split: training documents that say again, nearly in the same words, what a held-out one says."""

import re
from collections.abc import Iterable

import numpy as np

WORDS = 5
"""Words of a shingle: two texts share one where they have so many words in a row in common."""
SHARE = 0.3
"""Shingles of the shorter of two documents that a near-copy has in common with the other. Half of a copy whose cuts lie
elsewhere is more than that; stories, articles and chapters of one book have not even 0.2 in common."""
MIN_SHINGLES = 26
"""A document of less than 30 words is a near-copy only of one of the very same words: sentences resemble others."""
MAX_OWNERS = 16
"""Held-out documents that are remembered for one shingle: what more of them share is a form, not their text."""

_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
UNIT = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")
"""A word, or a single character of a script that is written without spaces (Thai, Lao, Burmese, Khmer, Han, kana)."""
_FACTOR = 0x9E3779B97F4A7C15
"""Odd, and without a pattern: 2**64 divided by the golden ratio."""


def find_near_copies(held_out: Iterable[str], others: Iterable[str]) -> np.ndarray:
    """Find the texts that are near-copies of a held-out text, whatever their case, spaces and punctuation.

    Two texts are near-copies if three tenths of the shingles (5 words in a row) of the shorter one stand in the
    other; so one is also that holds the other and more, which resemblance (Jaccard) would miss.
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
    sizes = np.array([len(each) for each in kept], np.int64)
    hashes = np.concatenate([np.zeros(0, np.uint64), *kept])
    owners = np.repeat(np.arange(len(kept), dtype=np.int32), sizes)
    order = np.argsort(hashes, kind="stable")
    hashes, owners = hashes[order], owners[order]
    # most words of other texts stand in no held-out one: a table of bits says so at once
    num_bits = min(27, max(10, len(hashes).bit_length() + 4))
    shift = np.uint64(64 - num_bits)
    is_there = np.zeros(2**num_bits, bool)
    is_there[hashes >> shift] = True
    found = (_is_near_copy(_hash_shingles(text), hashes, owners, sizes, is_there, shift) for text in others)
    return np.fromiter(found, bool)


def shingles(text: str) -> np.ndarray:
    """Return the different shingles of a text as hashes, uint64; of a shorter text the only one it has."""
    return np.unique(_hash_shingles(text))


def _hash_shingles(text: str) -> np.ndarray:
    """Return the shingles of a text in their order."""
    words = UNIT.findall(text.lower())
    if len(words) < WORDS:
        words += [""] * (WORDS - len(words))
    codes = np.fromiter(map(hash, words), np.int64, len(words)).view(np.uint64)
    count = len(codes) - WORDS + 1
    mixed = np.zeros(count, np.uint64)
    for place in range(WORDS):
        mixed = (mixed ^ (mixed >> np.uint64(29)) ^ codes[place : place + count]) * np.uint64(_FACTOR)
    return (mixed ^ (mixed >> np.uint64(32))) * np.uint64(_FACTOR)


def _is_near_copy(
    found: np.ndarray,
    hashes: np.ndarray,
    owners: np.ndarray,
    sizes: np.ndarray,
    is_there: np.ndarray,
    shift: np.uint64,
) -> bool:
    """Compare the shingles of one text with those of all held-out texts.

    Args:
        found: shingles of the text.
        hashes: shingles of the held-out texts, sorted; one that several have stands there several times.
        owners: the text of each.
        sizes: number of shingles of each text.
        is_there: by the first bits of a hash: whether it may be among them.
        shift: leaves these bits.
    """
    likely = np.unique(found[is_there[found >> shift]])
    first = np.searchsorted(hashes, likely, side="left")
    counts = np.minimum(np.searchsorted(hashes, likely, side="right") - first, MAX_OWNERS)
    if not counts.any():
        return False
    found = np.unique(found)
    index = np.repeat(first - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
    texts, common = np.unique(owners[index], return_counts=True)
    shorter, longer = np.minimum(sizes[texts], len(found)), np.maximum(sizes[texts], len(found))
    return bool((common >= np.where(shorter < MIN_SHINGLES, longer, SHARE * shorter)).any())
