"""A routed teacher that says what the student says has nothing to learn, at every temperature."""

import pytest
import torch

from kdkit.alignment.spans import Spans
from kdkit.losses.chunked.engine import Head
from kdkit.losses.chunked.events import EventPair, PrefixEvents, TokenEvents
from kdkit.losses.chunked.signals import DenseSignals
from kdkit.teachers.mixing import MixedSignals
from kdkit.teachers.online import StudentRows
from kdkit.teachers.router.training import Comparison, compare, measure_rows
from tests.references import random_logits

ROWS = 6
GROUPS = torch.tensor([0, 3, 1, 4, 2, 0, 3, 0, 4, 1, 0, 0, 0, 0])
"""Fourteen teacher tokens over four student tokens; 4 stands for none."""
EVENTS = EventPair(TokenEvents(), PrefixEvents(GROUPS, 4), 4, "student tokens")
PLACES = torch.arange(ROWS)


def identity(size: int) -> Head:
    return Head(torch.eye(size, dtype=torch.float64), size)


def student_of(teacher_probabilities: torch.Tensor) -> tuple[StudentRows, dict]:
    """Return a student that believes the same, and the batch, in which every row is a span."""
    sums = torch.stack([teacher_probabilities[:, event == GROUPS].sum(1) for event in range(4)], dim=1)
    starts = torch.arange(ROWS + 1)
    spans = Spans(PLACES, PLACES, starts, starts, torch.ones(ROWS, dtype=torch.bool), torch.tensor([0, ROWS]))
    inputs = {"spans": spans, "windows": [0], "input_ids": torch.zeros(1, ROWS + 1, dtype=torch.int64)}
    return StudentRows(sums.log() + 3.0, identity(4), torch.zeros(ROWS, dtype=torch.int64), 0), inputs


def dense(logits: torch.Tensor) -> DenseSignals:
    return DenseSignals(logits, identity(14), logits.device, torch.zeros_like(PLACES), torch.zeros_like(PLACES))


every_comparison = pytest.mark.parametrize(
    ("direction", "temperature"),
    [(way, temperature) for way in ("student_teacher", "teacher_student") for temperature in (0.5, 1.0, 2.0, 4.0)],
)


@every_comparison
def test_a_mixture(direction, temperature):
    parts = [random_logits(ROWS, 14, seed=seed) for seed in (1, 2, 3)]
    leaf = random_logits(ROWS, 3, seed=4, scale=1.0).requires_grad_()
    log_weights = leaf.log_softmax(dim=-1)
    mixture = sum(
        weight[:, None] * part.softmax(-1) for weight, part in zip(log_weights.detach().exp().T, parts, strict=True)
    )
    first = dense(parts[0])
    signals = MixedSignals(**vars(first), parts=tuple(map(dense, parts)), log_weights=log_weights)
    student, inputs = student_of(mixture)
    comparison = Comparison(EVENTS, temperature, direction)
    value = compare(signals, student, inputs, comparison)
    assert value.abs() < 1e-9
    assert torch.autograd.grad(value, leaf)[0].abs().max() < 1e-9
    assert measure_rows(signals, student, inputs, comparison).gap.abs().max() < 1e-9


@every_comparison
def test_routed_experts(direction, temperature):
    leaf = random_logits(ROWS, 14).requires_grad_()
    student, inputs = student_of(leaf.detach().softmax(-1))
    value = compare(dense(leaf), student, inputs, Comparison(EVENTS, temperature, direction))
    assert value.abs() < 1e-9
    assert torch.autograd.grad(value, leaf)[0].abs().max() < 1e-9
    # another student is far from it
    student.hidden[:, 0] += 2.0
    assert compare(dense(leaf), student, inputs, Comparison(EVENTS, temperature, direction)) > 1e-3
