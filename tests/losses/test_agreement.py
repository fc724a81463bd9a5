"""A student that says what the teacher says has nothing to learn: loss 0 and gradient 0, at every temperature."""

import inspect

import pytest
import torch

import kdkit.losses
from kdkit.losses import chunked_distillation_loss
from kdkit.losses import cross_tokenizer as ct
from kdkit.losses.chunked.blend import QueriedRows, alone, dense_divergence, sparse_divergence
from kdkit.losses.chunked.engine import ChunkLoss, Head
from kdkit.losses.chunked.events import CommonTokenEvents, PrefixEvents, TokenEvents
from kdkit.losses.chunked.signals import DenseSignals, SparseSignals
from kdkit.losses.closed_forms import LOWEST, MEASURES
from kdkit.losses.dynamic_mapping import TokenMatcher, cdm
from kdkit.losses.measures import make_measure
from tests.references import DIVERGENCES, random_logits

ROWS = 6
ONE_VOCABULARY = [name for name in ("total_variation", *MEASURES) if name != "tvd"]
TAILS = ("ghost", "keep_mass", "renormalise")

every_temperature = pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 4.0])
every_divergence = pytest.mark.parametrize("name", DIVERGENCES)


def check_nothing_to_learn(values: torch.Tensor, leaf: torch.Tensor, has_derivative: bool = True) -> None:
    """An absolute value has none at 0: rounding decides there which way it points."""
    assert values.abs().max() < 1e-9
    if has_derivative:
        (gradient,) = torch.autograd.grad(values.sum(), leaf)
        assert gradient.abs().max() < 1e-8


def test_every_public_loss_that_takes_a_temperature_is_in_this_file():
    takes = {
        name
        for name in kdkit.losses.__all__
        if "temperature" in inspect.signature(getattr(kdkit.losses, name)).parameters
    }
    contrastive = {"info_nce"}  # no teacher: the temperature of a contrast
    assert takes - contrastive == {*ONE_VOCABULARY, *ACROSS, "chunked_distillation_loss"}


@every_temperature
@pytest.mark.parametrize("name", ONE_VOCABULARY)
def test_with_one_vocabulary(name, temperature):
    leaf = random_logits(ROWS, 9).requires_grad_()
    check_nothing_to_learn(getattr(kdkit.losses, name)(leaf, leaf.detach().clone(), temperature), leaf)


@every_temperature
@pytest.mark.parametrize("name", MEASURES)
def test_from_hidden_states(name, temperature):
    hidden, head = random_logits(2, 5, 4).requires_grad_(), torch.nn.Linear(4, 9, dtype=torch.float64)
    labels = torch.randint(9, (2, 5), generator=torch.Generator().manual_seed(0))
    options = {"kd_ratio": 1.0, "temperature": temperature, "divergence": name}
    loss = chunked_distillation_loss(hidden, head, hidden.detach().clone(), head, labels, **options)
    check_nothing_to_learn(loss[None], hidden)


# ---- events: sums of tokens ----

TEACHER_GROUPS = torch.tensor([0, 3, 1, 4, 2, 0, 3, 0, 4, 1, 0, 0, 0, 0])
"""Fourteen tokens over four events of 7, 2, 1 and 2 tokens; 4 stands for none."""


def agreeing(finer: str) -> tuple[torch.Tensor, torch.Tensor, tuple, int]:
    """Return a student and a teacher of other vocabularies that believe the same of what they share, and the events."""
    many, order = (
        random_logits(ROWS, len(TEACHER_GROUPS)),
        torch.randperm(14, generator=torch.Generator().manual_seed(1)),
    )
    p = torch.softmax(many, -1)
    few = torch.stack([p[:, event == TEACHER_GROUPS].sum(1) for event in range(4)], dim=1).log()
    if finer == "student":
        return few + 3.0, many, (TokenEvents(), PrefixEvents(TEACHER_GROUPS, 4)), 4
    if finer == "teacher":
        return many, few + 3.0, (PrefixEvents(TEACHER_GROUPS, 4), TokenEvents()), 4
    # the same tokens elsewhere, and some that the other one has not
    student = torch.cat([random_logits(ROWS, 3, seed=5), many[:, order]], dim=1)
    common = torch.tensor([2, 9, 4, 11, 0])
    places = 3 + torch.stack([(order == token).nonzero()[0, 0] for token in common])
    return student, many, (CommonTokenEvents(places), CommonTokenEvents(common)), 5


def asked() -> QueriedRows:
    rows = torch.arange(ROWS)
    return QueriedRows(rows, rows, torch.ones(ROWS, dtype=torch.float64), raw_weight=1.0)


def dense(teacher: torch.Tensor) -> DenseSignals:
    rows = torch.arange(ROWS)
    identity = Head(torch.eye(teacher.shape[1], dtype=teacher.dtype), teacher.shape[1])
    return DenseSignals(teacher, identity, teacher.device, torch.zeros_like(rows), rows)


def check_chunk(loss: ChunkLoss, student: torch.Tensor, name: str) -> None:
    terms, gradient = loss(student.clone(), slice(0, ROWS))
    assert terms[0].abs() < 1e-9
    if name != "tvd":  # an absolute value
        assert gradient.abs().max() < 1e-9


@every_temperature
@every_divergence
@pytest.mark.parametrize("finer", ["student", "teacher", "neither"])
def test_over_events(finer, name, temperature):
    student, teacher, events, _ = agreeing(finer)
    loss = alone(dense_divergence(dense(teacher), asked(), *events, make_measure(DIVERGENCES[name]), temperature))
    check_chunk(loss, student, name)


@every_temperature
@pytest.mark.parametrize("made_at", [0.5, 1.0, 4.0])
@pytest.mark.parametrize(
    ("name", "tail"), [*((name, "ghost") for name in DIVERGENCES), *(("forward_kl", tail) for tail in TAILS[1:])]
)
@pytest.mark.parametrize("finer", ["student", "teacher", "neither"])
def test_over_the_events_of_a_cache(finer, name, tail, made_at, temperature):
    student, teacher, events, size = agreeing(finer)
    kept = dense(teacher).logprobs(torch.arange(ROWS), events[1], made_at)
    ids = torch.arange(size).expand(ROWS, -1)
    signals = SparseSignals(ids, kept, torch.full((ROWS, 1), LOWEST, dtype=torch.float64), made_at)
    options = {"num_events": size, "tail": tail}
    loss = alone(
        sparse_divergence(signals, asked(), events[0], make_measure(DIVERGENCES[name]), temperature, **options)
    )
    check_chunk(loss, student, name)


@every_temperature
@every_divergence
@pytest.mark.parametrize("finer", ["student", "teacher", "neither"])
def test_over_the_likeliest_events_of_a_cache_and_one_for_the_others(finer, name, temperature):
    student, teacher, events, size = agreeing(finer)
    kept, ids = dense(teacher).logprobs(torch.arange(ROWS), events[1], temperature).topk(3)
    signals = SparseSignals(ids, kept, torch.log1p(-kept.exp().sum(1, keepdim=True)), temperature)
    options = {"num_events": size, "tail": "ghost"}
    loss = alone(
        sparse_divergence(signals, asked(), events[0], make_measure(DIVERGENCES[name]), temperature, **options)
    )
    check_chunk(loss, student, name)


# ---- spans ----


def projected(temperature: float) -> tuple[torch.Tensor, torch.Tensor, bool]:
    """P-KL: many student tokens project to one teacher token, which is how the teacher came by its belief."""
    draw = torch.Generator().manual_seed(2)
    ids, weights = torch.randint(0, 6, (14, 4), generator=draw), torch.rand(14, 4, generator=draw, dtype=torch.float64)
    ids[5:, 0], weights[5:] = 2, torch.tensor([1.0, 0, 0, 0], dtype=torch.float64)
    weights /= weights.sum(1, keepdim=True)
    leaf = random_logits(ROWS, 14).requires_grad_()
    q = torch.softmax(leaf.detach(), -1)
    reached = torch.zeros(ROWS, 6, dtype=torch.float64)
    for column in range(4):
        reached.index_add_(1, ids[:, column], q * weights[:, column])
    # what the projection does not reach, the teacher may believe
    teacher = torch.cat([reached.log() + 2.0, random_logits(ROWS, 3, seed=4)], dim=1)
    spans = torch.arange(ROWS)
    values = [ct.xtoken_p_kl(leaf, teacher, spans, spans, ids, weights, temperature, kept) for kept in (3, 8192)]
    return torch.cat(values), leaf, True


def shuffled(loss: str, temperature: float) -> tuple[torch.Tensor, torch.Tensor, bool]:
    """The same tokens in another order; the student has three more, which it never says."""
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    teacher = random_logits(ROWS, 9)
    leaf = torch.cat([teacher[:, order], torch.full((ROWS, 3), -1e5, dtype=torch.float64)], dim=1).requires_grad_()
    spans = torch.tensor([0, 0, 1, 2, 2, 2])
    common = torch.tensor([0, 3, 5, 7])
    pairs = torch.stack([(order == token).nonzero()[0, 0] for token in common]), common
    targets = torch.tensor([8, 1, 4, 0, 2, 3])
    student_targets = torch.stack([(order == token).nonzero()[0, 0] for token in targets])
    rows = leaf, teacher, spans, spans
    match loss:
        case "uld":
            return ct.uld(*rows, temperature), leaf, False
        case "xtoken_h_kl":
            return ct.xtoken_h_kl(*rows, *pairs, temperature, kept_uncommon=3), leaf, False
        case "gold":
            return ct.gold(*rows, student_targets, targets, *pairs, temperature), leaf, False
    words = [bytes([97 + i]) * (i + 2) for i in range(9)]
    matcher = TokenMatcher([words[i] for i in order] + [b"never", b"ever", b"said"], words)
    return cdm(leaf, teacher, student_targets, targets, matcher, 4, temperature=temperature)[0], leaf, True


ACROSS = {
    "xtoken_p_kl": projected,
    **{name: (lambda temperature, name=name: shuffled(name, temperature)) for name in ("xtoken_h_kl", "gold", "uld")},
}


@every_temperature
@pytest.mark.parametrize("name", [*ACROSS, "cdm"])
def test_across_vocabularies(name, temperature):
    make = ACROSS.get(name, lambda temperature: shuffled("cdm", temperature))
    check_nothing_to_learn(*make(temperature))


@every_temperature
@pytest.mark.parametrize("name", ["xtoken_h_kl", "gold", "uld"])
def test_sorted_probabilities_that_are_the_same_numbers_have_no_gradient(name, temperature):
    leaf = random_logits(ROWS, 9).requires_grad_()
    spans, pairs, targets = torch.tensor([0, 0, 1, 2, 2, 2]), torch.tensor([0, 3, 5]), torch.arange(ROWS)
    rows = leaf, leaf.detach().clone(), spans, spans
    values = {
        "xtoken_h_kl": lambda: ct.xtoken_h_kl(*rows, pairs, pairs, temperature, kept_uncommon=3),
        "gold": lambda: ct.gold(*rows, targets, targets, pairs, pairs, temperature),
        "uld": lambda: ct.uld(*rows, temperature),
    }[name]()
    check_nothing_to_learn(values, leaf)


@pytest.mark.parametrize("likelihood_temperature", [0.5, 1.0, 2.0, 4.0, 100.0])
def test_likelihoods_of_text_in_other_pieces(likelihood_temperature):
    leaf = torch.tensor([-0.25, -1.5, -3.0], dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([-1.75, -1.0, -2.0], dtype=torch.float64)
    values = ct.alm(leaf, teacher, torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]), likelihood_temperature)
    check_nothing_to_learn(values, leaf)
