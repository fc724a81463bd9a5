"""The public losses, used as a stranger would: own tensors, plain autograd, one sentence where something is wrong."""

import doctest
import importlib
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

import kdkit.losses
from kdkit.errors import UserError
from kdkit.losses import (
    chunked_distillation_loss,
    cosine_distance,
    forward_kl,
    gold,
    jsd,
    reverse_kl,
    rkd_distance,
    uld,
    xtoken_h_kl,
)
from kdkit.losses.chunked.engine import Head

SAME_VOCABULARY = [
    "forward_kl",
    "reverse_kl",
    "jsd",
    "skewed_forward_kl",
    "skewed_reverse_kl",
    "total_variation",
    "adaptive_kl",
]


@pytest.fixture
def logits() -> tuple[torch.Tensor, torch.Tensor]:
    """Student and teacher, [B, S, V], float64."""
    torch.manual_seed(0)
    return torch.randn(2, 3, 7, dtype=torch.float64), torch.randn(2, 3, 7, dtype=torch.float64)


def test_the_student_comes_first(logits):
    student, teacher = logits
    expected = F.kl_div(student.log_softmax(-1), teacher.log_softmax(-1), reduction="none", log_target=True).sum(-1)
    assert torch.allclose(forward_kl(student, teacher), expected)
    assert torch.allclose(reverse_kl(teacher, student), expected)


@pytest.mark.parametrize("name", SAME_VOCABULARY)
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_the_gradient_is_that_of_finite_differences_and_reaches_the_student_only(logits, name, temperature):
    student, teacher = (part.clone().requires_grad_() for part in logits)
    function = getattr(kdkit.losses, name)
    if name == "adaptive_kl":  # its weights are constants for the gradient, so differences would see more
        function(student, teacher, temperature).sum().backward()
        assert student.grad.abs().sum() > 0
    else:
        assert torch.autograd.gradcheck(lambda leaf: function(leaf, teacher.detach(), temperature), student)
        function(student, teacher, temperature).sum().backward()
    assert teacher.grad is None


@pytest.mark.parametrize("name", kdkit.losses.__all__)
def test_every_public_loss_shows_an_example_and_its_source(name):
    text = getattr(kdkit.losses, name).__doc__
    assert ">>>" in text and "Source:" in text and "Args:" in text


@pytest.mark.parametrize("module", ["divergences", "cross_tokenizer", "sentences", "chunked.distillation"])
def test_the_examples_of_the_docstrings_do_what_they_show(module):
    loaded = importlib.import_module(f"kdkit.losses.{module}")
    result = doctest.testmod(loaded, extraglobs={"torch": torch})
    assert result.attempted > 0 and result.failed == 0


def test_importing_the_losses_imports_little_beside_torch():
    code = (
        "import sys, kdkit.losses; print([m for m in ('transformers', 'pydantic', 'yaml', 'h5py') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


IDS = torch.tensor([0, 1])
SPANS = torch.arange(2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: forward_kl(torch.zeros(2, 5), torch.zeros(2, 6)),
            r"student with \(2, 5\) and a teacher with \(2, 6\)",
        ),
        (lambda: forward_kl(torch.zeros(2, 5).long(), torch.zeros(2, 5)), "student of torch.int64 .* torch.float32"),
        (lambda: forward_kl(torch.zeros(2, 5), torch.zeros(2, 5), temperature=0.0), "above 0, got 0.0"),
        (
            lambda: jsd(torch.zeros(2, 5), torch.zeros(2, 5), teacher_weight=1.0),
            "teacher_weight between 0 and 1, got 1.0",
        ),
        (lambda: cosine_distance(torch.zeros(2, 5), torch.zeros(2, 6)), r"got \(2, 5\) and \(2, 6\)"),
        (lambda: rkd_distance(torch.zeros(2, 5), torch.zeros(3, 6)), r"got \(2, 5\) and \(3, 6\)"),
        (lambda: rkd_distance(torch.zeros(2, 5).long(), torch.zeros(2, 6)), "torch.int64 .* torch.float32"),
        (lambda: uld(SPANS, torch.zeros(2, 5), SPANS, SPANS), r"expected student rows"),
        (lambda: uld(torch.zeros(2, 5), torch.zeros(2, 5), SPANS, SPANS.float()), "torch.float32 and torch.float32"),
        (
            lambda: xtoken_h_kl(torch.zeros(2, 5), torch.zeros(2, 5), SPANS, SPANS, IDS + 4, IDS),
            r"student ids from 0 to 4, .* got 4 to 5",
        ),
        (
            lambda: gold(torch.zeros(2, 5), torch.zeros(2, 5), SPANS, SPANS, IDS, IDS + 9, IDS, IDS),
            r"teacher ids from 0 to 4, .* got 9 to 10",
        ),
    ],
)
def test_a_wrong_argument_is_one_sentence_with_both_sides(call, message):
    with pytest.raises(UserError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


class Pair:
    """Hidden states and heads of two models, and labels with places that teach nothing."""

    def __init__(self, dtype: torch.dtype = torch.float64):
        torch.manual_seed(0)
        self.student_hidden = torch.randn(2, 6, 4, dtype=dtype, requires_grad=True)
        self.teacher_hidden = torch.randn(2, 6, 8, dtype=dtype)
        self.student_head = torch.nn.Linear(4, 11, dtype=dtype)
        self.teacher_head = torch.nn.Linear(8, 11, bias=False, dtype=dtype)
        self.labels = torch.randint(11, (2, 6))
        self.labels[0, :3] = -100

    def chunked(self, **options) -> torch.Tensor:
        heads = self.student_head, self.teacher_head
        return chunked_distillation_loss(
            self.student_hidden, heads[0], self.teacher_hidden, heads[1], self.labels, **options
        )

    def dense(self, kd_ratio: float, temperature: float) -> torch.Tensor:
        """Compute the same on whole logits."""
        targets = self.labels[:, 1:]
        mask = targets != -100
        student, teacher = self.student_head(self.student_hidden), self.teacher_head(self.teacher_hidden)
        student, teacher = student[:, :-1][mask], teacher[:, :-1][mask].detach()
        ce = F.cross_entropy(student, targets[mask])
        logprobs = ((part / temperature).log_softmax(-1) for part in (student, teacher))
        kd = F.kl_div(*logprobs, reduction="batchmean", log_target=True) * temperature**2
        return (1 - kd_ratio) * ce + kd_ratio * kd


@pytest.mark.parametrize("kd_ratio", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_chunked_loss_equals_the_dense_one_in_value_and_gradients(kd_ratio, temperature):
    pair = Pair()
    leaves = [pair.student_hidden, pair.student_head.weight, pair.student_head.bias]
    loss, expected = pair.chunked(kd_ratio=kd_ratio, temperature=temperature), pair.dense(kd_ratio, temperature)
    assert torch.allclose(loss, expected)
    for got, wanted in zip(torch.autograd.grad(loss, leaves), torch.autograd.grad(expected, leaves), strict=True):
        assert torch.allclose(got, wanted)


def test_the_chunked_loss_divides_by_the_tokens_of_the_step_and_has_no_gradient_without_labels():
    pair = Pair()
    num_labels = int((pair.labels[:, 1:] != -100).sum())
    assert torch.allclose(pair.chunked(num_items_in_batch=4 * num_labels) * 4, pair.chunked())
    pair.labels.fill_(-100)
    loss = pair.chunked()
    loss.backward()
    assert loss.item() == 0.0 and pair.student_hidden.grad.abs().sum() == 0.0


def test_a_second_backward_pass_is_refused_not_silently_empty():
    pair = Pair()
    loss = pair.chunked()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="expected one backward pass, got a second one"):
        loss.backward()


def test_a_padded_head_is_cut_to_the_vocabulary():
    pair = Pair()
    expected = pair.chunked()
    padded = torch.cat([pair.teacher_head.weight, torch.full((5, 8), 9.0, dtype=torch.float64)])
    pair.teacher_head = Head(padded, 11)
    assert torch.allclose(pair.chunked(), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": torch.zeros(2, 5).long()}, r"student with \(2, 6, 4\), a teacher with \(2, 6, 8\) and .* \(2, 5\)"),
        ({"labels": torch.full((2, 6), 11)}, "labels below the vocabulary's 11, got 11"),
        ({"labels": torch.zeros(2, 6)}, "torch.float64, torch.float64 and torch.float32"),
        ({"teacher_head": torch.nn.Linear(8, 12)}, "11 entries of the student and 12 of the teacher"),
        ({"teacher_head": torch.nn.Linear(7, 11)}, "as wide as the teacher's head, got 8 and a head for 7"),
    ],
)
def test_tensors_that_do_not_belong_together_are_refused_by_the_chunked_loss(change, message):
    pair = Pair()
    vars(pair).update(change)
    with pytest.raises(UserError, match=message):
        pair.chunked()


def test_an_unknown_divergence_and_a_ratio_out_of_range_are_refused():
    with pytest.raises(UserError, match=r"one of forward_kl, .* got 'kl'"):
        Pair().chunked(divergence="kl")
    with pytest.raises(UserError, match=r"from 0 to 1, got 2.0"):
        Pair().chunked(kd_ratio=2.0)
