"""A router that guesses from the tokens of a text which teacher knows it best (`teachers.select_by: router`).

The teachers are asked about a share of the text only. There every token of the student learns a vote for each of them:
a multinomial logistic regression on the mean vote of a piece's tokens. The votes then share out the rest.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import cross_entropy, embedding_bag

from kdkit.data.windows import PAD, Windows
from kdkit.distill.committee.scores import first_positions

STEPS, LEARNING_RATE, DECAY = 200, 0.5, 1.0e-3
"""Of the regression, on all pieces at once (Adam). Votes are decayed, so that rare tokens say little."""
HELD_OUT = 5
"""Every so manieth piece is kept from the votes that are tried on it."""


@dataclass(frozen=True)
class Bags:
    """The student's tokens of some pieces of text, piece after piece."""

    ids: torch.Tensor
    """int64, `[num_tokens]`."""
    offsets: torch.Tensor
    """int64, `[num_pieces]`: where each piece begins; a piece may be empty."""

    def select(self, numbers: np.ndarray) -> "Bags":
        """Return some of the pieces."""
        stops = torch.cat([self.offsets[1:], torch.tensor([len(self.ids)])])
        parts = [self.ids[self.offsets[number] : stops[number]] for number in numbers]
        counts = torch.tensor([0, *map(len, parts)][:-1])
        return Bags(torch.cat(parts), counts.cumsum(0))


def bags_of(windows: Windows) -> Bags:
    """Return the tokens of all pieces of all windows, `num_windows * D` of them."""
    starts = first_positions(windows.pieces, "student")
    ids: list[np.ndarray] = []
    for row, of_row in zip(np.asarray(windows.student_ids), starts, strict=True):
        length = int((row != PAD).sum())
        edges = [min(int(start) + 1, length) if start != PAD else length for start in of_row]
        ids += [row[start:stop] for start, stop in zip(edges, [*edges[1:], length], strict=True)]
    counts = torch.tensor([0, *map(len, ids)][:-1])
    return Bags(torch.from_numpy(np.concatenate(ids).astype(np.int64)), counts.cumsum(0))


def learn_votes(bags: Bags, best: torch.Tensor, allowed: torch.Tensor, vocab_size: int) -> torch.Tensor:
    """Learn every token's vote for every teacher, fp32, `[vocab_size, K]`.

    Args:
        bags: of pieces about which the teachers were asked.
        best: int64, `[num_pieces]`: the teacher that knows each one best.
        allowed: bool, `[num_pieces, K]`: who may teach it.
        vocab_size: of the student's tokenizer.
    """
    votes = torch.zeros(vocab_size, allowed.shape[1], requires_grad=True)
    optimizer = torch.optim.Adam([votes], lr=LEARNING_RATE)
    for _ in range(STEPS):
        logits = embedding_bag(bags.ids, votes, bags.offsets, mode="mean").masked_fill(~allowed, -torch.inf)
        loss = cross_entropy(logits, best) + DECAY * votes.square().sum() / math.sqrt(len(best))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return votes.detach()


def estimate(bags: Bags, votes: torch.Tensor) -> np.ndarray:
    """Return how well each teacher is expected to know each piece: its logit, `[num_pieces, K]`."""
    return embedding_bag(bags.ids, votes, bags.offsets, mode="mean").numpy()


def guess_losses(
    windows: Windows, losses: np.ndarray, weights: np.ndarray, asked: list[int], vocab_size: int
) -> tuple[np.ndarray, float]:
    """Fill in the losses of the windows that nobody was asked about, in no unit: the lowest is whom the router takes.

    Args:
        losses: nats, `[num_windows, D, K]`; right at the windows asked.
        weights: `[num_windows, D, K]`: see `given_weights`.
        asked: numbers of the windows that the teachers were asked about.
        vocab_size: of the student's tokenizer.

    Returns:
        The losses; and the share of pieces at which the router took the best teacher, of those kept from its votes.
    """
    shape, bags = losses.shape, bags_of(windows)
    is_asked = np.zeros(shape[:2], bool)
    is_asked[asked] = True
    may_teach = weights.reshape(-1, shape[2]) > 0
    known = np.flatnonzero(is_asked.ravel() & may_teach.any(axis=1) & (losses.sum(axis=2).ravel() > 0))
    found = np.where(may_teach, losses.reshape(may_teach.shape), np.inf)[known].argmin(axis=1)
    best, allowed = torch.from_numpy(found), torch.from_numpy(may_teach[known])
    is_tried = np.arange(len(known)) % HELD_OUT == HELD_OUT - 1
    of_known = bags.select(known)
    learned, tried = np.flatnonzero(~is_tried), np.flatnonzero(is_tried)
    agreement = math.nan
    if len(tried):
        votes = learn_votes(of_known.select(learned), best[learned], allowed[learned], vocab_size)
        guesses = np.where(may_teach[known][tried], estimate(of_known.select(tried), votes), -np.inf).argmax(axis=1)
        agreement = float((guesses == found[tried]).mean())
    votes = learn_votes(of_known, best, allowed, vocab_size)
    guessed = -estimate(bags, votes).reshape(shape)
    return np.where(is_asked[..., None], losses, guessed), agreement
