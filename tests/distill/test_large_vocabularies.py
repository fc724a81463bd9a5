"""One batch of 8 equals 8 of 1, for every loss, with vocabularies beyond every limit on what is compared."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from kdkit.alignment.projection import Projection
from kdkit.config.losses import OverlapKL, ProjectedKL
from kdkit.data.batches import find_spans
from kdkit.data.windows import PAD, Windows
from kdkit.distill.choose_loss import compares_events, divergence_of
from kdkit.distill.objective import Objective
from kdkit.distill.span_objective import SpanLoss
from kdkit.losses.chunked import engine
from kdkit.losses.chunked.engine import Head, chunked_loss
from kdkit.losses.chunked.events import CommonTokenEvents, EventPair, PrefixEvents, TokenEvents
from kdkit.losses.chunked.signals import DenseSignals, SparseSignals
from kdkit.losses.dynamic_mapping import TokenMatcher
from kdkit.losses.measures import make_measure
from tests.distill.objectives import CPU, LOSSES, settings_of
from tests.references import random_logits

STUDENT_SIZE, TEACHER_SIZE, WIDTH = 9_100, 9_400, 7
POSITIONS = [
    [0, 1, PAD, 3, PAD, 5, PAD],
    [0, PAD, 2, 3, 4, PAD, PAD],
    [0, 1, 2, 3, 4, 5, PAD],
    [0, 3, PAD, PAD, 5, PAD, PAD],
]
"""Teacher positions that have read what a student position has read: spans of one to three rows on either side."""


def draw(*shape: int, high: int, seed: int) -> torch.Tensor:
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class Big:
    """Eight sequences of seven tokens, what both models see there, and tables for all losses, all of them random."""

    windows: Windows
    student_hidden: torch.Tensor
    teacher_hidden: torch.Tensor
    student_head: Head
    teacher_head: Head
    student_targets: torch.Tensor
    teacher_targets: torch.Tensor

    def batch(self, objective: Objective, rows: list[int], size: int, kept: int = 0) -> list[torch.Tensor]:
        """Return the terms of a batch, and the gradients by the hidden states and by the head."""
        spans = find_spans(self.windows, rows, WIDTH, WIDTH)
        student, teacher = (
            (torch.tensor(rows)[at // WIDTH], at % WIDTH) for at in (spans.student_rows, spans.teacher_rows)
        )
        targets = self.student_targets[student]
        signals = DenseSignals(
            self.teacher_hidden[teacher],
            Head(self.teacher_head.weight, size),
            CPU,
            self.teacher_targets[teacher],
            teacher[0],
        )
        if kept:
            firsts = spans.teacher_starts[:-1]
            logprobs, ids = signals.logprobs(firsts, objective.events.teacher, objective.temperature).topk(kept)
            signals = SparseSignals(ids, logprobs, torch.log1p(-logprobs.exp().sum(1, True)), objective.temperature)
        hidden, weight = self.student_hidden.clone().requires_grad_(), self.student_head.weight.requires_grad_()
        chunk_loss, chunks = objective.loss_of(spans, targets, signals, 20.0)
        loss, terms = chunked_loss(hidden[student], Head(weight, STUDENT_SIZE), chunk_loss, chunks)
        return [terms, *torch.autograd.grad(loss, [hidden, weight])]


@pytest.fixture(scope="module")
def big() -> Big:
    ids = np.arange(WIDTH, dtype=np.int32)[None].repeat(8, 0)
    positions = np.array(POSITIONS * 2)
    windows = Windows(ids, ids, positions, positions == ids, np.full(8, 20))
    hidden = [random_logits(8, WIDTH, 8, seed=seed, scale=1.0, dtype=torch.float32) for seed in (0, 1)]
    heads = [
        Head(random_logits(size, 8, seed=seed, scale=1.2, dtype=torch.float32), size)
        for seed, size in ((2, STUDENT_SIZE), (3, TEACHER_SIZE))
    ]
    targets = [draw(8, WIDTH, high=size, seed=seed) for seed, size in ((4, STUDENT_SIZE), (5, TEACHER_SIZE))]
    return Big(windows, *hidden, *heads, *targets)


def objective_of(loss: str) -> Objective:
    """Return a loss with random tables, in which more than 8,192 teacher tokens are reached."""
    settings, shared = settings_of(loss), (1.0 if loss == "alm" else 2.0, 0.6, STUDENT_SIZE)
    generator = torch.Generator().manual_seed(6)
    pairs = [torch.randperm(size, generator=generator)[:500] for size in (STUDENT_SIZE, TEACHER_SIZE)]
    if compares_events(settings):
        sides = TokenEvents(), TokenEvents()
        if isinstance(settings, OverlapKL):
            sides = CommonTokenEvents(pairs[0]), CommonTokenEvents(pairs[1])
        if isinstance(settings, ProjectedKL):
            sides = TokenEvents(), PrefixEvents(draw(TEACHER_SIZE, high=STUDENT_SIZE, seed=7), STUDENT_SIZE)
        size = 500 if isinstance(settings, OverlapKL) else STUDENT_SIZE
        return Objective(*shared, EventPair(*sides, size, "events"), make_measure(divergence_of(settings)))
    ids = draw(STUDENT_SIZE, 4, high=TEACHER_SIZE, seed=8).numpy()
    weights = np.tile(np.array([0.9, 0.09, 0.009, 0.001], dtype=np.float32), (STUDENT_SIZE, 1))
    projection = Projection(ids, weights, np.zeros(STUDENT_SIZE, dtype=bool), TEACHER_SIZE)
    assert len(np.unique(ids)) > 8_192
    matcher = None
    if loss == "cdm":
        tables = ([str(i * step).encode() for i in range(size)] for step, size in ((3, 9_100), (2, 9_400)))
        matcher = TokenMatcher(*tables)
    return Objective(*shared, span_loss=SpanLoss(settings, shared[0], *pairs, projection, matcher))


def check_eight_are_one(big: Big, objective: Objective, kept: int = 0) -> None:
    one_vocabulary = objective.events is not None and objective.events.teacher == TokenEvents()
    size = STUDENT_SIZE if one_vocabulary else TEACHER_SIZE
    whole = big.batch(objective, list(range(8)), size, kept)
    singles = [big.batch(objective, [row], size, kept) for row in range(8)]
    assert whole[0][2] > 0
    for got, *parts in zip(whole, *singles, strict=True):
        expected = torch.stack(parts).sum(0)
        assert torch.allclose(got, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("chunk_rows", [10_000, 9])
@pytest.mark.parametrize("loss", LOSSES)
def test_one_batch_of_eight_equals_eight_of_one(big, loss, chunk_rows, monkeypatch):
    monkeypatch.setitem(engine.CHUNK_BYTES, "cpu", 4 * TEACHER_SIZE * chunk_rows)
    objective = objective_of(loss)
    check_eight_are_one(big, objective)


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if compares_events(settings_of(loss))])
def test_one_batch_of_eight_equals_eight_of_one_from_a_cache(big, loss):
    check_eight_are_one(big, objective_of(loss), kept=64)
