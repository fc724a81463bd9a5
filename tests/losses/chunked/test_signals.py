"""What two vocabularies are compared on: outcomes pushed from logits, gradients pulled back, facts of projected KL."""

import math

import pytest
import torch

from kdkit.losses.chunked.blend import QueriedRows, alone, dense_divergence
from kdkit.losses.chunked.engine import Head
from kdkit.losses.chunked.events import CommonTokenEvents, Events, PrefixEvents, TokenEvents
from kdkit.losses.chunked.signals import DenseSignals
from kdkit.losses.closed_forms import Measure, forward_kl_with_gradient, reverse_kl_with_gradient
from kdkit.losses.divergences import divergence
from kdkit.losses.measures import make_measure
from tests.references import DIVERGENCES, formula, random_logits

NUM_TOKENS = 11
GROUPS = torch.tensor([0, 3, 1, 4, 2, 0, 3, 0, 4, 1, 0])
"""Eleven tokens over four events; 4 stands for none."""

EVENTS = {
    "tokens": TokenEvents(),
    "common": CommonTokenEvents(torch.tensor([7, 2, 9, 0])),
    "grouped": PrefixEvents(GROUPS, 4),
    "grouped, with an event that no token begins": PrefixEvents(GROUPS, 4 + 1),
}


def event_probabilities(events: Events, logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """Add up what the model believes of the tokens of each event, then temper the sums: (sum p)^(1/T) / Z."""
    p = torch.softmax(logits, dim=-1)
    match events:
        case CommonTokenEvents(ids):
            p = torch.stack([p[:, token] for token in ids.tolist()], dim=1)
        case PrefixEvents(groups, size):
            p = torch.stack([p[:, groups == event].sum(dim=1) for event in range(size)], dim=1)
    tempered = p ** (1.0 / temperature)
    return tempered / tempered.sum(dim=1, keepdim=True)


def compare(
    student: torch.Tensor,
    teacher: torch.Tensor,
    student_events: Events,
    teacher_events: Events,
    temperature: float = 1.0,
    measure: Measure = forward_kl_with_gradient,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return values per row and the gradient by the student's logits, as training computes them."""
    rows = torch.arange(len(student))
    identity = Head(torch.eye(teacher.shape[1], dtype=teacher.dtype), teacher.shape[1])
    signals = DenseSignals(teacher, identity, student.device, torch.zeros_like(rows), rows)
    asked = QueriedRows(rows, rows, torch.ones(len(rows), dtype=student.dtype), raw_weight=1.0)
    chunk_loss = alone(dense_divergence(signals, asked, student_events, teacher_events, measure, temperature))
    results = [chunk_loss(student[i : i + 1].clone(), slice(i, i + 1)) for i in rows.tolist()]
    return torch.stack([terms[0] for terms, _ in results]), torch.cat([gradient for _, gradient in results])


def overlap_kl(student, teacher, student_ids, teacher_ids, temperature=1.0):
    events = CommonTokenEvents(torch.tensor(student_ids)), CommonTokenEvents(torch.tensor(teacher_ids))
    return compare(student, teacher, *events, temperature)


def projected_kl(student, teacher, student_groups=None, teacher_groups=None, temperature=1.0):
    """Compare on the tokens of the side that has no groups."""
    if student_groups is None:
        events = TokenEvents(), PrefixEvents(torch.tensor(teacher_groups), student.shape[1])
    else:
        events = PrefixEvents(torch.tensor(student_groups), teacher.shape[1]), TokenEvents()
    return compare(student, teacher, *events, temperature)


@pytest.fixture
def logits() -> tuple[torch.Tensor, torch.Tensor]:
    return random_logits(5, NUM_TOKENS), random_logits(5, NUM_TOKENS, seed=1)


@pytest.mark.parametrize("name", EVENTS)
def test_the_softmax_over_events_is_the_renormalised_sum_of_their_tokens(logits, name):
    events, probabilities = EVENTS[name], torch.softmax(logits[0], -1).tolist()
    got = torch.softmax(events.push(logits[0].clone()), -1)
    belongs_to = {
        "tokens": [[token] for token in range(NUM_TOKENS)],
        "common": [[7], [2], [9], [0]],
        "grouped": [[0, 5, 7, 10], [2, 9], [4], [1, 6]],
        "grouped, with an event that no token begins": [[0, 5, 7, 10], [2, 9], [4], [1, 6], [3, 8]],
    }[name]
    for row, expected in zip(got.tolist(), probabilities, strict=True):
        sums = [sum(expected[token] for token in tokens) for tokens in belongs_to]
        assert row == pytest.approx([value / sum(sums) for value in sums], rel=1e-12)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("name", EVENTS)
def test_pull_is_the_derivative_of_push(logits, name, temperature):
    events, leaf = EVENTS[name], logits[0].clone().requires_grad_()
    expected = event_probabilities(events, leaf, temperature)
    got = events.push(logits[0].clone(), temperature)
    assert torch.allclose(torch.softmax(got, -1), expected, rtol=1e-10)
    # logits of events have a common term to spare: a gradient that sums to nothing does not see it
    gradient = random_logits(*got.shape, seed=2)
    gradient -= gradient.mean(dim=1, keepdim=True)
    wanted = torch.autograd.grad(expected.log(), leaf, gradient)[0]
    assert torch.allclose(events.pull(gradient / temperature, logits[0], got, temperature), wanted, atol=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
def test_an_event_that_no_token_begins_has_next_to_no_probability(logits, temperature):
    events = PrefixEvents(torch.tensor([0, 2] * 5 + [2]), 4)
    shares = torch.softmax(events.push(logits[0].float(), temperature), -1)
    assert (shares[:, [1, 3]] < 1e-30).all()
    assert torch.allclose(shares[:, [0, 2]].sum(dim=1), torch.ones(5))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_divergence_over_events_is_its_formula_of_summed_and_then_tempered_probabilities(logits, name, temperature):
    measure = make_measure(DIVERGENCES[name])
    for num_student, student_events, num_teacher, teacher_events in (
        (11, EVENTS["grouped"], 7, CommonTokenEvents(torch.tensor([6, 0, 2, 5]))),
        (4, TokenEvents(), 11, EVENTS["grouped"]),
        (11, EVENTS["grouped"], 4, TokenEvents()),
    ):
        leaf = logits[0][:, :num_student].clone().requires_grad_()
        teacher = logits[1][:, :num_teacher]
        q, p = (
            event_probabilities(student_events, leaf, temperature),
            event_probabilities(teacher_events, teacher, temperature),
        )
        expected = temperature**2 * formula(DIVERGENCES[name])(p, q)
        values, gradient = compare(leaf.detach(), teacher, student_events, teacher_events, temperature, measure)
        assert torch.allclose(values, expected, rtol=1e-9)
        assert torch.allclose(gradient, torch.autograd.grad(expected.sum(), leaf)[0], rtol=1e-8, atol=1e-11)


def test_the_overlap_of_everything_is_forward_kl(logits):
    everything = list(range(NUM_TOKENS))
    expected = divergence(*logits, forward_kl_with_gradient, 2.0)
    assert torch.allclose(overlap_kl(*logits, everything, everything, 2.0)[0], expected)


def test_the_overlap_compares_the_common_tokens_renormalised():
    # common: student ids 0, 2 are the teacher's 3, 1; both give them odds 2 : 1, the rest differs
    student = torch.tensor([[math.log(2), 9.0, 0.0]])
    teacher = torch.tensor([[7.0, 1.0, -3.0, 1.0 + math.log(2)]])
    assert overlap_kl(student, teacher, [0, 2], [3, 1])[0].item() == pytest.approx(0, abs=1e-6)
    assert overlap_kl(student, teacher, [0, 2], [1, 3])[0].item() > 0.1


def test_the_overlap_leaves_tokens_that_are_not_common_without_gradient():
    _, gradient = overlap_kl(random_logits(4, 6), random_logits(4, 3, seed=1), [1, 4], [0, 2])
    assert gradient[:, [0, 2, 3, 5]].abs().max() == 0
    assert gradient[:, [1, 4]].abs().min() > 0


def test_the_projection_of_a_vocabulary_onto_itself_is_forward_kl(logits):
    expected, itself = divergence(*logits, forward_kl_with_gradient, 2.0), list(range(NUM_TOKENS))
    assert torch.allclose(projected_kl(*logits, None, itself, 2.0)[0], expected)
    assert torch.allclose(projected_kl(*logits, itself, None, 2.0)[0], expected)


def test_the_projection_adds_what_the_teacher_gives_to_tokens_that_begin_alike():
    # student: " fun" 0.75, "x" 0.25; teacher: " function" 0.5, " fun" 0.25, "x" 0.25
    student = torch.log(torch.tensor([[0.75, 0.25]]))
    teacher = torch.log(torch.tensor([[0.5, 0.25, 0.25]]))
    values, gradient = projected_kl(student, teacher, None, [0, 0, 1])
    assert values.item() == pytest.approx(0, abs=1e-6) and gradient.abs().max() < 1e-6
    # overlap KL of the same pair is not zero: it drops " function" and takes " fun" and "x" for equally likely
    assert overlap_kl(student, teacher, [0, 1], [1, 2])[0].item() > 0.1


def test_a_finer_teacher_is_compared_on_its_own_tokens():
    student = torch.log(torch.tensor([[0.5, 0.25, 0.25]]))
    teacher = torch.log(torch.tensor([[0.75, 0.25]]))
    values, gradient = projected_kl(student, teacher, [0, 0, 1], None)
    assert values.item() == pytest.approx(0, abs=1e-6) and gradient.abs().max() < 1e-6


def test_teacher_tokens_that_stand_for_no_event_are_left_out_and_the_rest_renormalised():
    student = torch.log(torch.tensor([[0.6, 0.4]]))
    teacher = torch.log(torch.tensor([[0.3, 0.5, 0.2]]))
    assert projected_kl(student, teacher, None, [0, 2, 1])[0].item() == pytest.approx(0, abs=1e-6)


def test_student_tokens_that_stand_for_no_event_get_no_gradient():
    _, gradient = projected_kl(random_logits(3, 4), random_logits(3, 2, seed=1), [0, 2, 1, 0], None)
    assert (gradient[:, 1] == 0).all()
    assert (gradient[:, [0, 2, 3]] != 0).all()


def test_the_projection_equals_a_reference_over_summed_probabilities(logits):
    student, teacher = logits[0][:, :4], logits[1]
    groups = [(token * 3) % 4 for token in range(NUM_TOKENS)]
    expected = []
    for q, y in zip(torch.softmax(student, -1).tolist(), torch.softmax(teacher, -1).tolist(), strict=True):
        p = [sum(y[token] for token in range(NUM_TOKENS) if groups[token] == event) for event in range(4)]
        expected.append(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
    assert projected_kl(student, teacher, None, groups)[0].tolist() == pytest.approx(expected, rel=1e-9)
    in_fp32 = projected_kl(student.float(), teacher.float(), None, groups)[0]
    assert in_fp32.tolist() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("measure", [forward_kl_with_gradient, reverse_kl_with_gradient])
@pytest.mark.parametrize("student_is_finer", [True, False])
def test_the_projection_stays_finite_where_the_student_gives_an_event_nothing(student_is_finer, measure):
    student, teacher = torch.tensor([[6e4, -6e4], [-6e4, 6e4]]), torch.tensor([[0.0, 0.0], [6e4, -6e4]])
    groups = PrefixEvents(torch.tensor([0, 1]), 2)
    events = (TokenEvents(), groups) if student_is_finer else (groups, TokenEvents())
    values, gradient = compare(student, teacher, *events, measure=measure)
    assert torch.isfinite(values).all() and torch.isfinite(gradient).all()
    assert values.min() > 0.5
