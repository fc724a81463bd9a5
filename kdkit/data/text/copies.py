"""How much of a text stands, word for word, in another one: the longest run of words, and the share of short runs."""

from collections.abc import Iterable, Sequence
from itertools import chain

import numpy as np

from kdkit.data.text.duplicates import UNIT, WORDS, copy_rates, hash_ngrams

SEED_WORDS = 3
"""Words of the shortest run that is looked for."""


class KnownText:
    """Text that may have been learnt by heart. Exact but for hashing; case, spaces and punctuation do not count."""

    def __init__(self, texts: Iterable[str]):
        """Index texts, which follow each other as if they were one: 24 bytes a word."""
        words = list(chain.from_iterable(UNIT.findall(text.lower()) for text in texts))
        self.num_words = len(words)
        hashes = hash_ngrams(words, SEED_WORDS)
        self.places = np.argsort(hashes, kind="stable")
        self.hashes = hashes[self.places]
        self.grams = np.unique(hash_ngrams(words, WORDS))

    def longest_runs(self, texts: Sequence[str]) -> np.ndarray:
        """Return how many words in a row of each text stand there at most, int64, `[num_texts]`; 0 below three."""
        return np.array(
            [self._longest(hash_ngrams(UNIT.findall(text.lower()), SEED_WORDS)) for text in texts], np.int64
        )

    def copy_rates(self, texts: Sequence[str]) -> np.ndarray:
        """Return the share of each text's five words in a row that stand there, fp64, `[num_texts]`."""
        return copy_rates(list(texts), self.grams)

    def _longest(self, found: np.ndarray) -> int:
        """Return the longest run, from the runs of three words in a text: neighbours here that are neighbours there."""
        low, high = (np.searchsorted(self.hashes, found, side=side) for side in ("left", "right"))
        counts = high - low
        if not counts.sum():
            return 0
        here = np.repeat(np.arange(len(found)), counts)
        there = self.places[np.repeat(low - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())]
        shift = there - here
        order = np.lexsort((here, shift))
        is_next = (np.diff(shift[order]) == 0) & (np.diff(here[order]) == 1)
        breaks = np.flatnonzero(np.concatenate([[True], ~is_next, [True]]))
        return int(np.diff(breaks).max()) + SEED_WORDS - 1
