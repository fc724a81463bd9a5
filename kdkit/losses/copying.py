"""Verbatim copies: which tokens of a text complete an n-gram that another text holds, and a loss that unlearns them."""

from collections.abc import Iterable

import numpy as np
import torch

MULTIPLIER = 0x9E3779B97F4A7C15
"""Odd; of a polynomial of token ids modulo 2^64, by which n-grams are known."""
SMALLEST = 1e-6
"""Least probability of another token, by which the loss divides."""


class KnownNGrams:
    """The n-grams of token ids that some texts hold: 8 bytes for each different one.

    They are known by a hash of 64 bits: of a hundred million, about one in 10^11 unknown ones would be taken for known.
    """

    def __init__(self, texts: Iterable[tuple[np.ndarray, np.ndarray]], length: int):
        """Read the n-grams of texts.

        Args:
            texts: ids, integers, `[B, S]`, and which tokens count, bool, `[B, S]`; an n-gram counts if all of its do.
            length: tokens of an n-gram, n.
        """
        self.length = length
        parts = [np.unique(_hashes(ids, length)[_whole(counts, length)]) for ids, counts in texts]
        self._known = np.unique(np.concatenate([np.zeros(0, np.uint64), *parts]))

    def __len__(self) -> int:
        return len(self._known)

    def completed(self, ids: np.ndarray) -> np.ndarray:
        """Return which tokens are the last one of a known n-gram, bool, `[B, S]`."""
        found = np.zeros(ids.shape, bool)
        if len(self._known) and ids.shape[1] >= self.length:
            hashes = _hashes(ids, self.length)
            places = np.searchsorted(self._known, hashes).clip(max=len(self._known) - 1)
            found[:, self.length - 1 :] = self._known[places] == hashes
        return found


def _hashes(ids: np.ndarray, length: int) -> np.ndarray:
    """Return the hash of each n-gram, uint64, `[B, S - n + 1]`, by its first token."""
    width = max(ids.shape[1] - length + 1, 0)
    # no id is 0 here: a run of zeros would hash alike whatever its length
    values, hashes = ids.astype(np.uint64) + np.uint64(1), np.zeros((len(ids), width), np.uint64)
    for place in range(length):
        hashes = hashes * np.uint64(MULTIPLIER) + values[:, place : place + width]
    return hashes


def _whole(counts: np.ndarray, length: int) -> np.ndarray:
    """Return which n-grams consist of tokens that count, bool, `[B, S - n + 1]`."""
    width = max(counts.shape[1] - length + 1, 0)
    return np.logical_and.reduce([counts[:, place : place + width] for place in range(length)])


def unlikelihood(logprobs: torch.Tensor, chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return -log(1 - q) of some tokens, and the weight of cross-entropy that has the same gradient.

    By the logits, -log(1 - q) has the gradient of cross-entropy, -log q, times -q / (1 - q).

    Args:
        logprobs: fp32, `[rows]`: log q of the text's tokens.
        chosen: bool, `[rows]`: tokens that shall become less likely; the others get 0.

    Returns:
        Values in nats and weights, fp32, `[rows]`, no graph.

    Source: Welleck et al. 2019, neural text generation with unlikelihood training, arXiv:1908.04319, eq. 4.
    """
    probability = logprobs.detach().exp()
    others = (1.0 - probability).clamp(min=SMALLEST)
    nothing = torch.zeros_like(probability)
    return torch.where(chosen, -others.log(), nothing), torch.where(chosen, -probability / others, nothing)
