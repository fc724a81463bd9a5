"""Divergences: zero at equality, an independent float64 reference, gradients, fp16 safety, overlap."""

import math

import pytest
import torch

from kdkit.distill.divergences import forward_kl, overlap_kl, projected_kl
from kdkit.errors import UserError


def reference_kl(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> list[float]:
    """Forward KL with plain Python numbers: no softmax of torch, no broadcasting."""
    values = []
    for z, y in zip(student.double().tolist(), teacher.double().tolist(), strict=True):
        q = [math.exp(value / temperature) for value in z]
        p = [math.exp(value / temperature) for value in y]
        q, p = [value / sum(q) for value in q], [value / sum(p) for value in p]
        values.append(temperature**2 * sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True)))
    return values


@pytest.fixture
def logits() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(5, 11, generator=generator) * 3, torch.randn(5, 11, generator=generator) * 3


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_forward_kl_is_zero_for_identical_logits(logits, temperature):
    student, _ = logits
    assert forward_kl(student, student.clone(), temperature).abs().max() < 1e-5


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_forward_kl_equals_an_independent_float64_reference(logits, temperature):
    expected = reference_kl(*logits, temperature)
    assert forward_kl(*logits, temperature).tolist() == pytest.approx(expected, rel=1e-5)


def test_forward_kl_is_not_symmetric_and_has_the_teacher_first():
    sure, unsure = torch.tensor([[10.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    # a teacher that is sure of what a student finds even costs ln 2; the other way round it costs about 5 - ln 2
    assert forward_kl(student_logits=unsure, teacher_logits=sure).item() == pytest.approx(math.log(2), abs=1e-3)
    assert forward_kl(student_logits=sure, teacher_logits=unsure).item() == pytest.approx(5 - math.log(2), abs=1e-3)


def test_gradient_is_temperature_times_student_minus_teacher(logits):
    student, teacher = logits
    student.requires_grad_(True)
    forward_kl(student, teacher, 2.0).sum().backward()
    # T^2 * (q - p) / T
    expected = 2.0 * (torch.softmax(student / 2, -1) - torch.softmax(teacher / 2, -1))
    assert torch.allclose(student.grad, expected.detach(), atol=1e-5)


def test_temperature_squared_keeps_the_size_of_the_gradient(logits):
    student, teacher = (value * 0.01 for value in logits)
    norms = []
    for temperature in (1.0, 8.0):
        leaf = student.clone().requires_grad_(True)
        forward_kl(leaf, teacher, temperature).sum().backward()
        norms.append(leaf.grad.norm().item())
    assert norms[1] == pytest.approx(norms[0], rel=0.02)


def test_gradcheck_in_float64(monkeypatch):
    # forward_kl computes in fp32 by contract; for a numerical derivative let it keep float64
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    generator = torch.Generator().manual_seed(1)
    student = torch.randn(3, 7, generator=generator, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(3, 7, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda z: forward_kl(z, teacher, 1.5), student)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_at_the_end_of_their_range_stay_finite(dtype):
    student = torch.tensor([[6e4, -6e4, 0.0], [-6e4, 6e4, 0.0]], dtype=dtype, requires_grad=True)
    teacher = torch.tensor([[-6e4, 6e4, 0.0], [-6e4, 6e4, 0.0]], dtype=dtype)
    values = forward_kl(student, teacher)
    values.sum().backward()
    assert values.dtype == torch.float32
    assert torch.isfinite(values).all() and torch.isfinite(student.grad).all()
    assert values[1].item() == 0


def test_different_vocabularies_are_refused_with_both_shapes():
    with pytest.raises(UserError, match=r"\(2, 5\).*\(2, 7\).*overlap_kl"):
        forward_kl(torch.zeros(2, 5), torch.zeros(2, 7))


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_a_temperature_of_zero_or_less_is_refused(temperature):
    with pytest.raises(UserError, match=r"distill\.temperature"):
        forward_kl(torch.zeros(2, 5), torch.zeros(2, 5), temperature)


def test_overlap_of_everything_is_forward_kl(logits):
    everything = torch.arange(11)
    assert torch.equal(overlap_kl(*logits, everything, everything, 2.0), forward_kl(*logits, 2.0))


def test_overlap_compares_the_common_tokens_renormalised():
    # common: student ids 0, 2 are the teacher's 3, 1; both give them odds 2 : 1, the rest differs
    student = torch.tensor([[math.log(2), 9.0, 0.0]])
    teacher = torch.tensor([[7.0, 1.0, -3.0, 1.0 + math.log(2)]])
    assert overlap_kl(student, teacher, torch.tensor([0, 2]), torch.tensor([3, 1])).item() == pytest.approx(0, abs=1e-6)


def test_overlap_leaves_tokens_that_are_not_common_without_gradient():
    student = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    overlap_kl(student, torch.randn(4, 3), torch.tensor([1, 4]), torch.tensor([0, 2])).sum().backward()
    assert student.grad[:, [0, 2, 3, 5]].abs().max() == 0
    assert student.grad[:, [1, 4]].abs().min() > 0


def test_projection_of_one_vocabulary_onto_itself_is_forward_kl(logits):
    expected = forward_kl(*logits, 2.0)
    assert torch.allclose(projected_kl(*logits, None, torch.arange(11), 2.0), expected, atol=1e-5)
    assert torch.allclose(projected_kl(*logits, torch.arange(11), None, 2.0), expected, atol=1e-5)


def test_projection_adds_what_the_teacher_gives_to_tokens_that_begin_alike():
    # student: " fun" 0.75, "x" 0.25; teacher: " function" 0.5, " fun" 0.25, "x" 0.25
    student = torch.log(torch.tensor([[0.75, 0.25]]))
    teacher = torch.log(torch.tensor([[0.5, 0.25, 0.25]]))
    assert projected_kl(student, teacher, None, torch.tensor([0, 0, 1])).item() == pytest.approx(0, abs=1e-6)
    # overlap KL of the same pair is not zero: it drops " function" and takes " fun" and "x" for equally likely
    assert overlap_kl(student, teacher, torch.tensor([0, 1]), torch.tensor([1, 2])).item() > 0.1


def test_a_finer_teacher_is_compared_on_its_own_tokens():
    student = torch.log(torch.tensor([[0.5, 0.25, 0.25]]))
    teacher = torch.log(torch.tensor([[0.75, 0.25]]))
    assert projected_kl(student, teacher, torch.tensor([0, 0, 1]), None).item() == pytest.approx(0, abs=1e-6)


def test_teacher_tokens_that_stand_for_no_event_are_left_out_and_the_rest_renormalised():
    student = torch.log(torch.tensor([[0.6, 0.4]]))
    teacher = torch.log(torch.tensor([[0.3, 0.5, 0.2]]))
    assert projected_kl(student, teacher, None, torch.tensor([0, 2, 1])).item() == pytest.approx(0, abs=1e-6)


def test_projection_equals_a_reference_over_summed_probabilities(logits):
    student, teacher = logits[0][:, :4], logits[1]
    groups = (torch.arange(11) * 3) % 4
    expected = []
    for q, y in zip(torch.softmax(student.double(), -1).tolist(), torch.softmax(teacher.double(), -1), strict=True):
        p = [sum(y[i].item() for i in range(11) if groups[i] == g) for g in range(4)]
        expected.append(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
    assert projected_kl(student, teacher, None, groups).tolist() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("student_is_finer", [True, False])
def test_projection_stays_finite_where_the_student_gives_an_event_nothing(student_is_finer):
    student = torch.tensor([[6e4, -6e4]], dtype=torch.float16, requires_grad=True)
    groups = (None, torch.tensor([0, 1])) if student_is_finer else (torch.tensor([0, 1]), None)
    values = projected_kl(student, torch.tensor([[0.0, 0.0]]), *groups)
    values.sum().backward()
    assert torch.isfinite(values).all() and torch.isfinite(student.grad).all()
