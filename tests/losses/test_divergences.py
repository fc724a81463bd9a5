"""Divergences: zero at equality, an independent float64 reference, closed-form gradients, limits, fp16 safety."""

import math

import pytest
import torch

from kdkit.config.losses import ForwardKL, JensenShannon, ReverseKL, SkewedForwardKL, SkewedReverseKL
from kdkit.errors import UserError
from kdkit.losses.closed_forms import adaptive_kl_with_gradient, forward_kl_with_gradient, reverse_kl_with_gradient
from kdkit.losses.divergences import divergence
from kdkit.losses.measures import make_measure
from tests.references import (
    DIVERGENCES,
    formula_gradient,
    plain_divergence,
    random_logits,
    share_of_head,
    softmax,
)

every_divergence = pytest.mark.parametrize("name", DIVERGENCES)
every_temperature = pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])


@pytest.fixture
def logits() -> tuple[torch.Tensor, torch.Tensor]:
    """Student and teacher, float64, 5 rows of 11."""
    return random_logits(5, 11), random_logits(5, 11, seed=1)


def values_of(settings, student, teacher, temperature=1.0) -> torch.Tensor:
    return divergence(student, teacher, make_measure(settings), temperature)


def gradient_of(settings, student, teacher, temperature=1.0) -> torch.Tensor:
    leaf = student.detach().clone().requires_grad_()
    values_of(settings, leaf, teacher, temperature).sum().backward()
    return leaf.grad


@every_temperature
@every_divergence
def test_identical_logits_give_zero_value_and_gradient(name, temperature):
    student = random_logits(5, 11, dtype=torch.float32)
    assert values_of(DIVERGENCES[name], student, student.clone(), temperature).abs().max() < 1e-5
    assert gradient_of(DIVERGENCES[name], student, student.clone(), temperature).abs().max() < 1e-5


@every_temperature
@every_divergence
def test_a_divergence_equals_an_independent_float64_reference(logits, name, temperature):
    settings, (student, teacher) = DIVERGENCES[name], logits
    expected = [
        temperature**2 * plain_divergence(settings, softmax(y, temperature), softmax(z, temperature))
        for z, y in zip(student.tolist(), teacher.tolist(), strict=True)
    ]
    assert values_of(settings, student, teacher, temperature).tolist() == pytest.approx(expected, rel=1e-9)
    in_fp32 = values_of(settings, student.float(), teacher.float(), temperature)
    assert in_fp32.dtype == torch.float32
    assert in_fp32.tolist() == pytest.approx(expected, rel=1e-4)


@every_temperature
@every_divergence
def test_the_closed_form_gradient_equals_autograd_of_an_independent_formula(logits, name, temperature):
    settings, (student, teacher) = DIVERGENCES[name], logits
    expected = formula_gradient(settings, teacher, student, temperature)
    assert torch.allclose(gradient_of(settings, student, teacher, temperature), expected, rtol=1e-9, atol=1e-12)


# adaptive KL's weights are constants for its gradient, but not for a numerical one
@pytest.mark.parametrize("name", [name for name in DIVERGENCES if not name.startswith("adaptive_kl")])
def test_the_closed_form_gradient_passes_gradcheck(name):
    student, teacher = random_logits(3, 7, scale=1.0).requires_grad_(), random_logits(3, 7, seed=1, scale=1.0)
    assert torch.autograd.gradcheck(lambda z: values_of(DIVERGENCES[name], z, teacher, 1.5), student)


def test_the_gradient_of_adaptive_kl_holds_its_weights_constant(logits):
    student, teacher = logits
    rows = zip(teacher.tolist(), student.tolist(), strict=True)
    shares = torch.tensor([share_of_head(softmax(y, 1.0), softmax(z, 1.0), 0.5) for y, z in rows])[:, None]
    parts = gradient_of(ForwardKL(), student, teacher), gradient_of(ReverseKL(), student, teacher)
    expected = shares * parts[0] + (1 - shares) * parts[1]
    assert torch.allclose(gradient_of(DIVERGENCES["adaptive_kl"], student, teacher), expected, atol=1e-7)


@every_divergence
def test_only_the_student_gets_a_gradient(name, logits):
    student, teacher = (value.clone().requires_grad_() for value in logits)
    values_of(DIVERGENCES[name], student, teacher).sum().backward()
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@every_divergence
def test_half_precision_logits_at_the_end_of_their_range_stay_finite(name, dtype):
    student = torch.tensor([[6e4, -6e4, 0.0], [-6e4, 6e4, 0.0], [0.0, 0.0, 0.0]], dtype=dtype, requires_grad=True)
    teacher = torch.tensor([[-6e4, 6e4, 0.0], [-6e4, 6e4, 0.0], [6e4, -6e4, 0.0]], dtype=dtype)
    values = values_of(DIVERGENCES[name], student, teacher)
    values.sum().backward()
    assert values.dtype == torch.float32
    assert torch.isfinite(values).all() and torch.isfinite(student.grad).all()
    assert values[1].item() == 0
    assert values[0] > 0 and values[2] > 0


@every_divergence
def test_half_precision_logits_are_compared_in_fp32(name, logits):
    student, teacher = (value.half() for value in logits)
    expected = values_of(DIVERGENCES[name], student.double(), teacher.double())
    # fp16 holds three digits; a softmax in it could not come this close
    assert values_of(DIVERGENCES[name], student, teacher).tolist() == pytest.approx(expected.tolist(), rel=1e-4)


@every_divergence
def test_a_token_that_both_exclude_changes_nothing(name, logits):
    student, teacher = (torch.cat([value, torch.full((5, 1), -math.inf)], dim=1) for value in logits)
    expected = values_of(DIVERGENCES[name], *logits)
    assert torch.allclose(values_of(DIVERGENCES[name], student, teacher), expected, rtol=1e-9)
    gradient = gradient_of(DIVERGENCES[name], student, teacher)
    assert torch.allclose(gradient[:, :-1], gradient_of(DIVERGENCES[name], *logits))
    assert (gradient[:, -1] == 0).all()


def test_the_teacher_comes_first_in_forward_kl_and_second_in_reverse_kl():
    sure, even = torch.tensor([[10.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    # a sure distribution against an even one costs ln 2; the other way round it costs about 5 - ln 2
    cheap, dear = pytest.approx(math.log(2), abs=1e-3), pytest.approx(5 - math.log(2), abs=1e-3)
    assert divergence(student_logits=even, teacher_logits=sure, measure=forward_kl_with_gradient).item() == cheap
    assert divergence(student_logits=sure, teacher_logits=even, measure=forward_kl_with_gradient).item() == dear
    assert divergence(student_logits=even, teacher_logits=sure, measure=reverse_kl_with_gradient).item() == dear
    assert divergence(student_logits=sure, teacher_logits=even, measure=reverse_kl_with_gradient).item() == cheap


def test_the_gradient_of_forward_kl_is_temperature_times_student_minus_teacher(logits):
    student, teacher = logits
    # T^2 * (q - p) / T
    expected = 2.0 * (torch.softmax(student / 2, -1) - torch.softmax(teacher / 2, -1))
    assert torch.allclose(gradient_of(ForwardKL(), student, teacher, 2.0), expected)


# tvd is linear, not quadratic, in a small difference: its gradient grows with the temperature
@pytest.mark.parametrize("name", [name for name in DIVERGENCES if name != "tvd"])
def test_temperature_squared_keeps_the_size_of_the_gradient(logits, name):
    student, teacher = (value * 0.01 for value in logits)
    cold, hot = (gradient_of(DIVERGENCES[name], student, teacher, t).norm().item() for t in (1.0, 8.0))
    assert hot == pytest.approx(cold, rel=0.03)


def test_jsd_is_proportional_to_forward_kl_at_small_and_to_reverse_kl_at_large_teacher_weights(logits):
    small = values_of(JensenShannon(teacher_weight=1e-5), *logits) / 1e-5
    assert torch.allclose(small, values_of(ForwardKL(), *logits), rtol=0.01)
    large = values_of(JensenShannon(teacher_weight=1 - 1e-5), *logits) / 1e-5
    assert torch.allclose(large, values_of(ReverseKL(), *logits), rtol=0.01)


def test_jsd_of_equal_weights_is_symmetric_and_at_most_ln_2(logits):
    student, teacher = logits
    values = values_of(JensenShannon(), student, teacher)
    assert torch.allclose(values, values_of(JensenShannon(), teacher, student))
    assert values_of(JensenShannon(), 100 * student, 100 * teacher).max() <= math.log(2) + 1e-12


def test_a_skew_that_vanishes_leaves_the_plain_divergences(logits):
    assert torch.allclose(values_of(SkewedForwardKL(skew=1e-9), *logits), values_of(ForwardKL(), *logits), rtol=1e-4)
    assert torch.allclose(values_of(SkewedReverseKL(skew=1e-9), *logits), values_of(ReverseKL(), *logits), rtol=1e-4)


def test_a_skew_of_nearly_one_leaves_nothing(logits):
    for settings in (SkewedForwardKL(skew=1 - 1e-9), SkewedReverseKL(skew=1 - 1e-9)):
        assert values_of(settings, *logits).abs().max() < 1e-6


def test_tvd_is_one_for_distributions_that_share_nothing():
    apart = torch.tensor([[100.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, 100.0], [0.0, 0.0]])
    assert values_of(DIVERGENCES["tvd"], *apart).tolist() == pytest.approx([1.0, 0.0])


def test_adaptive_kl_ends_the_head_where_the_teachers_mass_reaches_it():
    p, q = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).double(), torch.tensor([[0.1, 0.2, 0.3, 0.4]]).double()
    forward, reverse = (
        measure(q.log(), p.log())[0].item() for measure in (forward_kl_with_gradient, reverse_kl_with_gradient)
    )
    for head_mass, tokens_in_head in ((0.39, 1), (0.41, 2), (0.69, 2), (0.71, 3), (0.95, 4)):
        gaps = [0.3, 0.1, 0.1, 0.3]
        share = sum(gaps[:tokens_in_head]) / sum(gaps)
        value, _ = adaptive_kl_with_gradient(q.log(), p.log(), head_mass=head_mass)
        assert value.item() == pytest.approx(share * forward + (1 - share) * reverse)


def test_adaptive_kl_takes_equally_likely_tokens_into_the_head_together():
    p = torch.tensor([[0.4, 0.2, 0.2, 0.1, 0.1]]).double()
    q = torch.tensor([[0.1, 0.3, 0.1, 0.3, 0.2]]).double()
    forward, reverse = (
        measure(q.log(), p.log())[0].item() for measure in (forward_kl_with_gradient, reverse_kl_with_gradient)
    )
    share = (0.3 + 0.1 + 0.1) / (0.3 + 0.1 + 0.1 + 0.2 + 0.1)
    for order in ([0, 1, 2, 3, 4], [4, 2, 3, 1, 0]):
        value, _ = adaptive_kl_with_gradient(q.log()[:, order], p.log()[:, order])
        assert value.item() == pytest.approx(share * forward + (1 - share) * reverse)


@pytest.mark.parametrize("scale", [0.01, 1.0, 4.0])
def test_adaptive_kl_finds_the_head_of_a_flat_teacher_with_thousands_of_tokens(scale):
    student, teacher = random_logits(2, 1_500), random_logits(2, 1_500, seed=1, scale=scale)
    expected = [
        plain_divergence(DIVERGENCES["adaptive_kl"], softmax(y, 1.0), softmax(z, 1.0))
        for z, y in zip(student.tolist(), teacher.tolist(), strict=True)
    ]
    assert values_of(DIVERGENCES["adaptive_kl"], student, teacher).tolist() == pytest.approx(expected, rel=1e-9)


@every_divergence
def test_values_keep_the_shape_of_the_rows(name, logits):
    student, teacher = (value.view(5, 1, 11) for value in logits)
    assert values_of(DIVERGENCES[name], student, teacher).shape == (5, 1)


def test_different_vocabularies_are_refused_in_one_line_with_both_shapes():
    with pytest.raises(UserError, match=r"\(2, 5\).*\(2, 7\).*projected_kl") as caught:
        divergence(torch.zeros(2, 5), torch.zeros(2, 7))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_a_temperature_of_zero_or_less_is_refused_in_one_line(temperature):
    with pytest.raises(UserError, match=rf"distill\.temperature: expected .* got {temperature}") as caught:
        divergence(torch.zeros(2, 5), torch.zeros(2, 5), temperature=temperature)
    assert "\n" not in str(caught.value)
