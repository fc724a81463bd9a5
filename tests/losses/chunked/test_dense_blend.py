"""Cross-entropy and a divergence with one softmax: values and gradients of autograd on full rows, in float64."""

import pytest
import torch
import torch.nn.functional as F

from kdkit.losses.chunked import engine
from kdkit.losses.chunked.blend import QueriedRows
from kdkit.losses.chunked.dense_blend import dense_blend
from kdkit.losses.chunked.engine import Head
from kdkit.losses.chunked.events import CommonTokenEvents, Events, PrefixEvents, TokenEvents
from kdkit.losses.chunked.signals import DenseSignals
from kdkit.losses.measures import make_measure
from tests.references import DIVERGENCES, formula, random_logits

ROWS, TOKENS, WIDER = 9, 7, 12
GROUPS = torch.tensor([0, 3, 1, 6, 2, 0, 3, 7, 4, 5, 0, 7])
"""Twelve teacher tokens over seven student tokens; 7 stands for none."""
ASKED = {"every row": list(range(ROWS)), "some rows": [1, 2, 5, 8], "most rows": [0, 1, 3, 4, 5, 6, 8], "no row": []}


def teacher_probabilities(logits: torch.Tensor, events: Events) -> torch.Tensor:
    """Add up the teacher's softmax by event, token by token, and renormalise."""
    p = torch.softmax(logits, -1)
    if isinstance(events, TokenEvents):
        return p
    if isinstance(events, CommonTokenEvents):
        sums = [p[:, token] for token in events.ids.tolist()]
    else:
        sums = [sum(p[:, t] for t in range(WIDER) if events.groups[t] == event) for event in range(TOKENS)]
    stacked = torch.stack(sums, dim=1)
    return stacked / stacked.sum(dim=1, keepdim=True)


@pytest.mark.parametrize("block_bytes", [1, 2**22])
@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("events", [TokenEvents(), CommonTokenEvents(torch.tensor([7, 2, 9, 0, 1, 5, 11])),
                                    PrefixEvents(GROUPS, TOKENS)], ids=["tokens", "common", "grouped"])  # fmt: skip
@pytest.mark.parametrize("name", DIVERGENCES)
def test_one_softmax_gives_the_values_and_gradients_of_full_rows(name, events, asked, block_bytes, monkeypatch):
    monkeypatch.setitem(engine.BLOCK_BYTES, "cpu", block_bytes)
    width = TOKENS if isinstance(events, TokenEvents) else WIDER
    logits, teachers = (
        random_logits(ROWS, TOKENS).requires_grad_(),
        [random_logits(ROWS, width, seed=s) for s in (1, 2)],
    )
    rows, targets = torch.tensor(ASKED[asked], dtype=torch.int64), torch.arange(ROWS) % TOKENS
    teacher_rows = (rows * 2) % ROWS
    ce_weights, kd_weights = torch.linspace(0.0, 0.3, ROWS).double(), torch.linspace(0.1, 0.4, ROWS).double()[rows]
    q = torch.softmax(logits, -1)
    kd = sum(formula(DIVERGENCES[name])(teacher_probabilities(t, events)[teacher_rows], q[rows]) for t in teachers) / 2
    ce = F.cross_entropy(logits, targets, reduction="none")
    loss = (ce * ce_weights).sum() + (kd * kd_weights).sum()
    expected = torch.autograd.grad(loss, logits)[0]

    identity, nothing = Head(torch.eye(width).double(), width), torch.zeros(ROWS, dtype=torch.int64)
    passes = [DenseSignals(t, identity, torch.device("cpu"), nothing, nothing) for t in teachers]
    queried = QueriedRows(rows, teacher_rows, kd_weights, raw_weight=0.5)
    chunk_loss = dense_blend(
        passes,
        queried,
        targets,
        ce_weights,
        torch.full((ROWS,), 0.25).double(),
        events,
        make_measure(DIVERGENCES[name]),
    )
    with torch.no_grad():
        parts = [chunk_loss(logits[a:b].clone(), slice(a, b)) for a, b in ((0, 4), (4, ROWS))]
    terms, gradient = sum(part[0] for part in parts), torch.cat([part[1] for part in parts])
    assert torch.allclose(terms, torch.stack([loss, ce.sum() / 4, kd.sum() / 2]), rtol=1e-9)
    assert torch.allclose(gradient, expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_student_that_says_what_the_teacher_says_gets_cross_entropy_alone(name):
    logits, rows = random_logits(ROWS, TOKENS, dtype=torch.float32), torch.arange(ROWS)
    signals = DenseSignals(logits.clone(), Head(torch.eye(TOKENS), TOKENS), torch.device("cpu"), rows, rows)
    nothing, targets = torch.zeros(ROWS), rows % TOKENS
    queried = QueriedRows(rows, rows, torch.ones(ROWS), raw_weight=1.0)
    chunk_loss = dense_blend(
        [signals], queried, targets, nothing, nothing, TokenEvents(), make_measure(DIVERGENCES[name])
    )
    terms, gradient = chunk_loss(logits.clone(), slice(0, ROWS))
    assert terms[0].abs() < 1e-5 and gradient.abs().max() < 1e-6
