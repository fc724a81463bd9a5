"""Divergences from kept tokens: explicit references for every tail, dense where all is kept, unbiased if drawn."""

import math

import pytest
import torch

from kdkit.config.losses import ForwardKL
from kdkit.config.teacher import CacheConfig
from kdkit.errors import UserError
from kdkit.losses.chunked.blend import (
    QueriedRows,
    alone,
    blend,
    dense_divergence,
    sparse_divergence,
    weighted_cross_entropy,
)
from kdkit.losses.chunked.engine import BLOCK_BYTES, Head
from kdkit.losses.chunked.events import TokenEvents
from kdkit.losses.chunked.signals import DenseSignals, SparseSignals
from kdkit.losses.chunked.sparse_blend import sparse_blend
from kdkit.losses.closed_forms import LOWEST, Measure, forward_kl_with_gradient
from kdkit.losses.divergences import divergence
from kdkit.losses.measures import check_sparse, make_measure
from kdkit.losses.sparse import at_temperature, renormalise, sparse_forward_kl_, sparse_with_rest_
from tests.references import DIVERGENCES, formula, formula_gradient, random_logits

ROWS, VOCABULARY, KEPT = 5, 11, 4
TAILS = ("ghost", "keep_mass", "renormalise")

every_divergence = pytest.mark.parametrize("name", DIVERGENCES)


@pytest.fixture
def logits() -> tuple[torch.Tensor, torch.Tensor]:
    return random_logits(ROWS, VOCABULARY), random_logits(ROWS, VOCABULARY, seed=1, scale=1.5)


def keep(teacher: torch.Tensor, num_kept: int, temperature: float = 1.0) -> SparseSignals:
    """Keep the teacher's most likely tokens, as a cache would."""
    logprobs = torch.log_softmax(teacher.double() / temperature, -1)
    kept = logprobs.topk(num_kept)
    rest = torch.log1p(-kept.values.exp().sum(-1, keepdim=True)) if num_kept < teacher.shape[1] else None
    rest = torch.full((len(teacher), 1), LOWEST).double() if rest is None else rest
    return SparseSignals(kept.indices, kept.values.to(teacher.dtype), rest.to(teacher.dtype), temperature)


def kept_only(student: torch.Tensor, *teacher: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return values and gradient of the sum over the kept tokens."""
    gradient = student.clone()
    return sparse_forward_kl_(gradient, *teacher), gradient


def with_ghost(student: torch.Tensor, *teacher: torch.Tensor | Measure) -> tuple[torch.Tensor, torch.Tensor]:
    """Return values and gradient over the kept tokens and one more."""
    gradient = student.clone()
    return sparse_with_rest_(gradient, *teacher), gradient


def asked_everywhere(dtype: torch.dtype = torch.float64) -> QueriedRows:
    rows = torch.arange(ROWS)
    return QueriedRows(rows, rows, torch.ones(ROWS, dtype=dtype), raw_weight=1.0)


def sparse_loss(settings, student, signals, temperature=1.0, tail="ghost") -> tuple[torch.Tensor, torch.Tensor]:
    """Return the summed loss and its gradient by the logits, as training from a cache computes them."""
    asked, measure = asked_everywhere(student.dtype), make_measure(settings)
    options = {"num_events": student.shape[1], "tail": tail}
    chunk_loss = alone(sparse_divergence(signals, asked, TokenEvents(), measure, temperature, **options))
    terms, gradient = chunk_loss(student.clone(), slice(0, ROWS))
    return terms[0], gradient


def dense_loss(settings, student, teacher, temperature=1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the same with the teacher's whole rows."""
    rows = torch.arange(ROWS)
    head = Head(torch.eye(VOCABULARY, dtype=teacher.dtype), VOCABULARY)
    signals = DenseSignals(teacher, head, student.device, torch.zeros_like(rows), rows)
    asked, measure = asked_everywhere(student.dtype), make_measure(settings)
    chunk_loss = alone(dense_divergence(signals, asked, TokenEvents(), TokenEvents(), measure, temperature))
    terms, gradient = chunk_loss(student.clone(), slice(0, ROWS))
    return terms[0], gradient


@every_divergence
def test_with_a_ghost_a_divergence_is_that_of_the_kept_tokens_and_one_for_all_others(logits, name):
    student, teacher = logits
    signals = keep(teacher, KEPT)
    leaf = student.clone().requires_grad_()
    q = torch.softmax(leaf, -1)
    others = torch.ones_like(q).scatter(1, signals.ids, 0.0)
    outcomes = torch.cat([q.gather(1, signals.ids), (q * others).sum(-1, keepdim=True)], dim=1)
    p = torch.cat([signals.logprobs, signals.rest], dim=1).exp()
    expected = formula(DIVERGENCES[name])(p, outcomes)
    measure = make_measure(DIVERGENCES[name])
    values, gradient = with_ghost(student, signals.ids, signals.logprobs, signals.rest, measure)
    assert torch.allclose(values, expected, rtol=1e-9)
    assert torch.allclose(gradient, torch.autograd.grad(expected.sum(), leaf)[0], rtol=1e-8, atol=1e-12)


# adaptive KL is not one divergence but a mixture whose weights differ between the two
@pytest.mark.parametrize("name", [name for name in DIVERGENCES if not name.startswith("adaptive_kl")])
def test_with_a_ghost_a_divergence_is_at_most_that_of_the_whole_rows(logits, name):
    student, teacher = logits
    whole = divergence(student, teacher, make_measure(DIVERGENCES[name]))
    before = torch.zeros_like(whole)
    for num_kept in (1, 3, 6, 10):
        signals = keep(teacher, num_kept)
        measure = make_measure(DIVERGENCES[name])
        values, _ = with_ghost(student, signals.ids, signals.logprobs, signals.rest, measure)
        assert (values <= whole + 1e-12).all() and (values >= before - 1e-12).all()
        before = values


@every_divergence
def test_with_a_ghost_a_student_that_agrees_about_the_kept_tokens_is_left_alone(logits, name):
    _, teacher = logits
    signals = keep(teacher, KEPT)
    # the same probabilities for the kept tokens, all others shifted about among themselves
    student = teacher.clone()
    others = torch.ones_like(student, dtype=torch.bool).scatter(1, signals.ids, False)
    student[others] = student[others].view(ROWS, -1).flip(1).flatten()
    loss, gradient = sparse_loss(DIVERGENCES[name], student, signals)
    assert abs(loss.item()) < 1e-12
    if name != "tvd":  # has no derivative there
        assert gradient.abs().max() < 1e-9


def test_keep_mass_has_the_value_and_gradient_of_its_closed_form(logits):
    student, teacher = logits
    signals = keep(teacher, KEPT)
    p = signals.logprobs.exp()
    mass, kept = p.sum(-1), student.gather(1, signals.ids)
    # L = sum_S p log p - sum_S p z + M log Z
    expected = (p * signals.logprobs).sum(-1) - (p * kept).sum(-1) + mass * student.logsumexp(-1)
    values, gradient = kept_only(student, signals.ids, signals.logprobs)
    assert torch.allclose(values, expected)
    # dL/dz = M q - p, p = 0 off S
    full = torch.zeros_like(student).scatter(1, signals.ids, p)
    assert torch.allclose(gradient, mass[:, None] * torch.softmax(student, -1) - full)
    assert mass.max() < 0.99, "with all of the mass there is nothing to keep"
    loss, _ = sparse_loss(ForwardKL(), student, signals, tail="keep_mass")
    assert loss.item() == pytest.approx(expected.sum().item())


def test_keep_mass_leaves_out_what_forward_kl_knows_of_the_others(logits):
    student, teacher = logits
    signals = keep(teacher, KEPT)
    p, q = torch.softmax(teacher, -1), torch.softmax(student, -1)
    others = torch.ones_like(p).scatter(1, signals.ids, 0.0)
    unknown = (others * p * (p / q).log()).sum(-1)
    values, _ = kept_only(student, signals.ids, signals.logprobs)
    assert torch.allclose(values + unknown, divergence(student, teacher))


@pytest.mark.parametrize("name", ["forward_kl", "jsd", "tvd", "skewed_forward_kl"])
def test_renormalise_takes_the_kept_tokens_for_all_there_are(logits, name):
    student, teacher = logits
    signals = keep(teacher, KEPT)
    # a teacher whose other tokens are impossible
    alone = torch.full_like(teacher, -1e3).scatter(1, signals.ids, signals.logprobs)
    loss, gradient = sparse_loss(DIVERGENCES[name], student, signals, tail="renormalise")
    expected = formula(DIVERGENCES[name])(torch.softmax(alone, -1), torch.softmax(student, -1)).sum()
    assert torch.allclose(renormalise(signals.logprobs)[0].exp().sum(-1), torch.ones(ROWS).double())
    assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    assert torch.allclose(gradient, formula_gradient(DIVERGENCES[name], alone, student), atol=1e-9)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("tail", TAILS)
@every_divergence
def test_a_cache_of_all_tokens_equals_the_dense_teacher(logits, name, tail, temperature):
    student, teacher = logits
    signals = keep(teacher, VOCABULARY, temperature)
    got = sparse_loss(DIVERGENCES[name], student, signals, temperature, tail)
    expected = dense_loss(DIVERGENCES[name], student, teacher, temperature)
    assert got[0].item() == pytest.approx(expected[0].item(), rel=1e-9)
    assert torch.allclose(got[1], expected[1], rtol=1e-7, atol=1e-10)


def test_shares_that_are_exact_give_dense_forward_kl(logits):
    student, teacher = logits
    ids = torch.arange(VOCABULARY).expand(ROWS, -1)
    # places that are not used have share 0
    shares = torch.cat([torch.log_softmax(teacher, -1), torch.full((ROWS, 2), -math.inf)], dim=1)
    signals = SparseSignals(
        torch.cat([ids, torch.zeros(ROWS, 2, dtype=torch.int64)], 1), shares, torch.full((ROWS, 1), -math.inf), 1.0
    )
    loss, gradient = sparse_loss(ForwardKL(), student, signals, tail="renormalise")
    expected = dense_loss(ForwardKL(), student, teacher)
    assert loss.item() == pytest.approx(expected[0].item(), rel=1e-9)
    assert torch.allclose(gradient, expected[1], atol=1e-12)


def test_the_gradient_from_drawn_tokens_is_unbiased_and_that_of_the_most_likely_is_not():
    num_draws, num_samples = 20_000, 4
    teacher, student = random_logits(1, VOCABULARY, seed=1, scale=1.0), random_logits(1, VOCABULARY)
    p = torch.softmax(teacher, -1)
    draws = torch.multinomial(
        p.expand(num_draws, -1), num_samples, replacement=True, generator=torch.Generator().manual_seed(0)
    )
    shares = torch.nn.functional.one_hot(draws, VOCABULARY).sum(1).double() / num_samples
    ids = torch.arange(VOCABULARY).expand(num_draws, -1)
    logprobs, _ = renormalise(shares.log())
    _, gradients = kept_only(student.repeat(num_draws, 1), ids, logprobs)
    error = gradients.mean(0) - (torch.softmax(student, -1) - p)[0]
    standard_error = gradients.std(0) / math.sqrt(num_draws)
    assert (error.abs() < 4.5 * standard_error).all()
    assert standard_error.max() < 0.01
    best = keep(teacher, num_samples)
    _, biased = kept_only(student, best.ids, renormalise(best.logprobs)[0])
    assert (biased[0] - (torch.softmax(student, -1) - p)[0]).abs().max() > 20 * standard_error.max()


@pytest.mark.parametrize(("before", "after"), [(1.0, 2.0), (2.0, 1.0), (1.0, 0.5), (4.0, 1.0)])
def test_another_temperature_is_exact_where_all_tokens_are_kept(logits, before, after):
    student, teacher = logits
    signals = keep(teacher, VOCABULARY, before)
    logprobs, _ = at_temperature(signals.logprobs, signals.rest, before / after, VOCABULARY)
    assert torch.allclose(logprobs, torch.log_softmax(teacher / after, -1).gather(1, signals.ids))
    for tail in TAILS:
        loss, gradient = sparse_loss(ForwardKL(), student, signals, after, tail)
        expected = dense_loss(ForwardKL(), student, teacher, after)
        assert loss.item() == pytest.approx(expected[0].item(), rel=1e-9)
        assert torch.allclose(gradient, expected[1], atol=1e-10)


def test_another_temperature_keeps_the_proportions_of_the_kept_tokens_and_a_sum_of_one(logits):
    signals = keep(logits[1], KEPT)
    logprobs, rest = at_temperature(signals.logprobs, signals.rest, 0.5, VOCABULARY)
    exact = torch.log_softmax(logits[1] / 2, -1).gather(1, signals.ids)
    assert torch.allclose(logprobs - logprobs[:, :1], exact - exact[:, :1])
    assert torch.allclose(logprobs.exp().sum(-1) + rest.exp()[:, 0], torch.ones(ROWS).double())


def test_another_temperature_is_exact_where_the_others_are_equally_likely():
    teacher = torch.zeros(1, VOCABULARY).double()
    teacher[0, :KEPT] = torch.tensor([4.0, 3.0, 2.0, 1.0])
    signals = keep(teacher, KEPT)
    logprobs, rest = at_temperature(signals.logprobs, signals.rest, 0.5, VOCABULARY)
    expected = torch.log_softmax(teacher / 2, -1)
    assert torch.allclose(logprobs, expected[:, :KEPT])
    assert torch.allclose(rest.exp(), expected[:, KEPT:].exp().sum(-1, keepdim=True))


def test_the_same_temperature_changes_nothing(logits):
    signals = keep(logits[1], KEPT)
    logprobs, rest = at_temperature(signals.logprobs, signals.rest, 1.0, VOCABULARY)
    assert torch.equal(logprobs, signals.logprobs) and torch.equal(rest, signals.rest)


@every_divergence
def test_temperature_squared_multiplies_the_value_and_temperature_the_gradient(logits, name):
    student, teacher = logits
    hot = sparse_loss(DIVERGENCES[name], student * 3, keep(teacher, KEPT, 3.0), 3.0)
    cold = sparse_loss(DIVERGENCES[name], student, keep(teacher / 3, KEPT), 1.0)
    assert hot[0].item() == pytest.approx(9 * cold[0].item())
    assert torch.allclose(hot[1], 3 * cold[1])


def test_a_rest_that_is_smaller_than_the_precision_of_fp32_keeps_its_gradient():
    # one token of 20 has all but 1e-9 of the probability: 1 - 0.999999999 is 0 in fp32
    student = torch.zeros(1, 20)
    student[0, 0] = math.log(19 / 1e-9)
    teacher = torch.zeros(1, 20).double()
    teacher[0, 0] = math.log(19 / 1e-3)
    signals = keep(teacher, 1)
    measure = make_measure(DIVERGENCES["forward_kl"])
    exact = with_ghost(student.double(), signals.ids, signals.logprobs, signals.rest, measure)
    in_fp32 = with_ghost(student, signals.ids, signals.logprobs.float(), signals.rest.float(), measure)
    assert in_fp32[0].item() == pytest.approx(exact[0].item(), rel=1e-3)
    assert torch.allclose(in_fp32[1].double(), exact[1], rtol=1e-3, atol=0)


@pytest.mark.parametrize("num_kept", [1, 2, 3])
@pytest.mark.parametrize("tail", TAILS)
@every_divergence
def test_logits_at_the_end_of_the_range_of_fp16_stay_finite(name, tail, num_kept):
    student = torch.tensor([[6e4, -6e4, 0.0], [-6e4, 6e4, 0.0], [0.0, 0.0, 0.0], [0.0, 6e4, -6e4], [6e4, 6e4, 6e4]])
    teacher = torch.tensor([[-6e4, 6e4, 0.0], [-6e4, 6e4, 0.0], [6e4, -6e4, 0.0], [0.0, 0.0, 0.0], [0.0, 6e4, 6e4]])
    signals = keep(teacher, num_kept)
    signals = SparseSignals(signals.ids, signals.logprobs.clamp(min=-6e4), signals.rest.clamp(min=-6e4), 1.0)
    for temperature in (1.0, 2.0):
        loss, gradient = sparse_loss(DIVERGENCES[name], student, signals, temperature, tail)
        assert torch.isfinite(loss) and torch.isfinite(gradient).all()


@every_divergence
def test_a_ghost_allows_every_divergence(name):
    check_sparse(DIVERGENCES[name], CacheConfig(tail="ghost"))


@pytest.mark.parametrize(
    ("tail", "allowed"),
    [("keep_mass", {"forward_kl"}), ("renormalise", {"forward_kl", "jsd", "tvd", "skewed_forward_kl"})],
)
@every_divergence
def test_a_divergence_that_needs_the_whole_row_is_refused_for_the_tail(name, tail, allowed):
    settings = DIVERGENCES[name]
    if settings.name in allowed:
        check_sparse(settings, CacheConfig(tail=tail))
        return
    message = rf"distill\.loss: expected .* for cache\.tail={tail}, got '{settings.name}'.*cache\.tail=ghost"
    with pytest.raises(UserError, match=message) as caught:
        check_sparse(settings, CacheConfig(tail=tail))
    assert "\n" not in str(caught.value)


@every_divergence
def test_drawn_tokens_serve_forward_kl_only(name):
    settings, cache = DIVERGENCES[name], CacheConfig(mode="sampled")
    if settings.name == "forward_kl":
        check_sparse(settings, cache)
        return
    with pytest.raises(UserError, match=rf"expected forward_kl for sampled answers, got '{settings.name}'") as caught:
        check_sparse(settings, cache)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("block_rows", [2, 1000])
@pytest.mark.parametrize("made_at", [1.0, 2.0])
@pytest.mark.parametrize("tail", TAILS)
@every_divergence
def test_one_pass_equals_cross_entropy_and_divergence_one_after_the_other(
    logits, name, tail, made_at, block_rows, monkeypatch
):
    monkeypatch.setitem(BLOCK_BYTES, "cpu", 4 * VOCABULARY * block_rows)
    student, teacher = logits
    rows = torch.tensor([0, 2, 3])
    asked = QueriedRows(rows, rows, torch.tensor([0.1, 0.2, 0.3]).double(), raw_weight=0.25)
    signals, measure = keep(teacher, KEPT, made_at).at(rows), make_measure(DIVERGENCES[name])
    # the last row is in no loss
    weights, raw_weights = torch.tensor([0.4, 0.5, 0.6, 0.7, 0.0]).double(), torch.tensor([1.0, 1, 1, 1, 0]).double()
    ce = torch.tensor([3, 0, 9, 5, 0]), weights, raw_weights
    divergence_ = sparse_divergence(signals, asked, TokenEvents(), measure, 1.0, num_events=VOCABULARY, tail=tail)
    one_after_the_other = blend(divergence_, weighted_cross_entropy(*ce))
    one_pass = sparse_blend(signals, asked, *ce, measure, tail, VOCABULARY)
    for chunk in (slice(0, ROWS), slice(0, 3), slice(3, ROWS), slice(1, 2)):
        expected = one_after_the_other(student[chunk].clone(), chunk)
        got = one_pass(student[chunk].clone(), chunk)
        assert torch.allclose(got[0], expected[0], rtol=1e-9)
        assert torch.allclose(got[1], expected[1], rtol=1e-9, atol=1e-12)
    assert (one_pass(student.clone(), slice(0, ROWS))[1][4] == 0).all()


@pytest.mark.parametrize("tail", TAILS)
@every_divergence
def test_one_pass_stays_finite_at_the_end_of_the_range_of_fp16(name, tail):
    student = torch.tensor([[6e4, -6e4, 0.0], [-6e4, 6e4, 0.0], [0.0, 0.0, 0.0], [6e4, 6e4, 6e4]])
    teacher = torch.tensor([[-6e4, 6e4, 0.0], [-6e4, 6e4, 0.0], [6e4, -6e4, 0.0], [0.0, 6e4, 6e4]])
    rows, ones = torch.arange(4), torch.ones(4)
    asked = QueriedRows(rows, rows, ones, raw_weight=1.0)
    for num_kept in (1, 2, 3):
        kept = keep(teacher, num_kept)
        signals = SparseSignals(kept.ids, kept.logprobs.clamp(min=-6e4), kept.rest.clamp(min=-6e4), 1.0)
        measure = make_measure(DIVERGENCES[name])
        chunk_loss = sparse_blend(signals, asked, torch.tensor([0, 1, 2, 0]), ones, ones, measure, tail, 3)
        terms, gradient = chunk_loss(student.clone(), slice(0, 4))
        assert torch.isfinite(terms).all() and torch.isfinite(gradient).all()


def test_places_of_drawn_tokens_that_are_not_used_count_nothing(logits):
    student, teacher = logits
    kept = keep(teacher, 3)
    unused = torch.cat([kept.ids, kept.ids[:, 2:], kept.ids[:, 2:]], 1), torch.full((ROWS, 2), -math.inf).double()
    padded = SparseSignals(unused[0], torch.cat([kept.logprobs, unused[1]], 1), kept.rest, 1.0)
    rows, weights, targets = torch.arange(ROWS), torch.ones(ROWS).double(), torch.arange(ROWS)
    asked = QueriedRows(rows, rows, weights, raw_weight=1.0)
    for temperature in (1.0, 2.0):
        expected, got = (sparse_loss(ForwardKL(), student, a, temperature, "renormalise") for a in (kept, padded))
        assert torch.allclose(got[0], expected[0]) and torch.allclose(got[1], expected[1])
    expected, got = (
        sparse_blend(a, asked, targets, weights, weights, forward_kl_with_gradient, "renormalise", VOCABULARY)(
            student.clone(), slice(0, ROWS)
        )
        for a in (kept, padded)
    )
    assert torch.allclose(got[0], expected[0]) and torch.allclose(got[1], expected[1])


def test_only_the_asked_rows_of_a_chunk_get_a_gradient(logits):
    student, teacher = logits
    rows = torch.tensor([1, 2, 4])
    asked = QueriedRows(rows, rows, torch.ones(3).double(), raw_weight=0.5)
    signals = keep(teacher, KEPT).at(rows)
    options = {"num_events": VOCABULARY, "tail": "ghost"}
    chunk_loss = alone(sparse_divergence(signals, asked, TokenEvents(), forward_kl_with_gradient, 1.0, **options))
    whole, gradient = chunk_loss(student.clone(), slice(0, ROWS))
    assert (gradient[[0, 3]] == 0).all() and (gradient[rows] != 0).any(dim=1).all()
    parts = [chunk_loss(student[a:b].clone(), slice(a, b)) for a, b in ((0, 2), (2, 4), (4, 5))]
    assert torch.allclose(sum(terms for terms, _ in parts), whole)
    assert torch.allclose(torch.cat([part for _, part in parts]), gradient)
    assert whole[2].item() == pytest.approx(whole[0].item() / 2), "the logged term has its own weight"
