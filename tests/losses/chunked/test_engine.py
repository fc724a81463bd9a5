"""Losses on logits that never exist at once: value and gradients of a dense head, in a fraction of its memory."""

from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F

from kdkit.losses.chunked.engine import (
    CHUNK_BYTES,
    Head,
    chunked_loss,
    cross_entropy_chunk,
    even_chunks,
    rows_per_chunk,
)
from tests.memory import Allocations
from tests.references import random_logits

ROWS, HIDDEN, VOCABULARY, PADDED = 13, 6, 10, 14


@dataclass(frozen=True)
class Case:
    """A head, what it reads, and the loss put on it."""

    hidden: torch.Tensor
    head: Head
    targets: torch.Tensor
    weights: torch.Tensor

    def leaves(self) -> list[torch.Tensor]:
        return [leaf for leaf in (self.hidden, self.head.weight, self.head.bias) if leaf is not None]

    def chunked(self, size: int) -> torch.Tensor:
        loss = cross_entropy_chunk(self.targets, self.weights)
        return chunked_loss(self.hidden, self.head, loss, even_chunks(len(self.hidden), size))[0]

    def dense(self) -> torch.Tensor:
        """Compute the same with all logits at once, written down anew."""
        head = self.head
        logits = self.hidden.to(head.weight.dtype) @ head.weight[: head.vocab_size].T
        if head.bias is not None:
            logits = logits + head.bias[: head.vocab_size]
        logits = logits * head.scale
        if head.softcap is not None:
            logits = head.softcap * torch.tanh(logits / head.softcap)
        return (F.cross_entropy(logits, self.targets, reduction="none") * self.weights).sum()


HEADS = {
    "plain": {},
    "biased": {"bias": True},
    "scaled": {"scale": 0.25},
    "capped": {"softcap": 2.0},
    "padded": {"rows": PADDED},
    "all at once": {"bias": True, "scale": 0.5, "softcap": 3.0, "rows": PADDED},
}


def make_case(name: str = "plain", dtype: torch.dtype = torch.float64) -> Case:
    options = {"rows": VOCABULARY, "bias": False} | HEADS[name]
    num_rows, has_bias = options.pop("rows"), options.pop("bias")
    weight = random_logits(num_rows, HIDDEN, seed=1, scale=1.0, dtype=dtype).requires_grad_()
    bias = random_logits(num_rows, seed=2, scale=1.0, dtype=dtype).requires_grad_() if has_bias else None
    return Case(
        hidden=random_logits(ROWS, HIDDEN, scale=2.0, dtype=dtype).requires_grad_(),
        head=Head(weight, VOCABULARY, bias=bias, **options),
        targets=torch.arange(ROWS) * 3 % VOCABULARY,
        weights=torch.linspace(0.0, 0.2, ROWS, dtype=dtype),
    )


def assert_equal_gradients(got: torch.Tensor, expected: torch.Tensor, leaves: list[torch.Tensor], **tolerance) -> None:
    for a, b in zip(torch.autograd.grad(got, leaves), torch.autograd.grad(expected, leaves), strict=True):
        assert b.abs().max() > 0
        assert torch.allclose(a, b, **tolerance)


@pytest.mark.parametrize("size", [1, 4, ROWS, 100])
@pytest.mark.parametrize("name", HEADS)
def test_chunks_of_any_size_equal_the_dense_head_in_value_and_gradients(name, size):
    case = make_case(name)
    got, expected = case.chunked(size), case.dense()
    assert got.item() == pytest.approx(expected.item(), rel=1e-12)
    assert_equal_gradients(got, expected, case.leaves(), rtol=1e-10, atol=1e-14)


def test_the_value_in_fp32_is_that_of_float64():
    got, expected = make_case("all at once", torch.float32), make_case("all at once").dense()
    assert got.chunked(4).item() == pytest.approx(expected.item(), rel=1e-6)


def test_a_tied_matrix_gets_the_gradient_of_both_its_uses():
    case, ids = make_case(), torch.arange(ROWS) % VOCABULARY
    read, read_again = (replace(case, hidden=torch.tanh(F.embedding(ids, case.head.weight))) for _ in range(2))
    assert_equal_gradients(read.chunked(4), read_again.dense(), [case.head.weight], rtol=1e-10)


def test_rows_of_the_head_beyond_the_vocabulary_get_no_gradient():
    case = make_case("padded")
    case.chunked(4).backward()
    assert (case.head.weight.grad[VOCABULARY:] == 0).all()
    assert (case.head.weight.grad[:VOCABULARY] != 0).all()


def test_rows_of_the_head_beyond_the_vocabulary_change_nothing():
    case = make_case("padded")
    expected = case.chunked(4).item()
    with torch.no_grad():
        case.head.weight[VOCABULARY:] = 1e3
    assert case.chunked(4).item() == expected


@pytest.mark.parametrize("frozen", ["head", "hidden states"])
def test_what_is_frozen_gets_no_gradient_and_the_other_side_keeps_its_own(frozen):
    case = make_case()
    rest, fixed = (case.hidden, case.head.weight) if frozen == "head" else (case.head.weight, case.hidden)
    expected = torch.autograd.grad(case.dense(), rest)[0]
    fixed.requires_grad_(False)
    case.chunked(4).backward()
    assert fixed.grad is None
    assert torch.allclose(rest.grad, expected)


def test_a_loss_of_frozen_things_has_a_value_and_no_graph():
    case = make_case()
    expected = case.dense().item()
    for leaf in case.leaves():
        leaf.requires_grad_(False)
    loss = case.chunked(4)
    assert loss.item() == pytest.approx(expected)
    assert not loss.requires_grad


def test_backward_multiplies_by_the_gradient_that_arrives():
    case = make_case("biased")
    assert_equal_gradients(7.0 * case.chunked(4), 7.0 * case.dense(), case.leaves(), rtol=1e-10)


def test_fp16_hidden_states_with_the_tiny_weights_of_a_large_step_lose_no_gradient():
    exact = make_case("all at once")
    with torch.no_grad():
        exact.hidden.copy_(exact.hidden.half())
        exact.head.weight.copy_(exact.head.weight.half())
    # a token of a step of a million; the smallest number of fp16 is 6e-8
    exact = replace(exact, weights=torch.full((ROWS,), 1e-6, dtype=torch.float64))
    bias = exact.head.bias.detach().float().requires_grad_()
    head = replace(exact.head, weight=exact.head.weight.detach().float().requires_grad_(), bias=bias)
    half = replace(
        exact, hidden=exact.hidden.detach().half().requires_grad_(), head=head, weights=exact.weights.float()
    )
    # GradScaler's factor, without which the gradient of the fp16 hidden states themselves could not be written
    scale = 2.0**16
    got = torch.autograd.grad(scale * half.chunked(4), half.leaves())
    expected = torch.autograd.grad(scale * exact.dense(), exact.leaves())
    for a, b in zip(got, expected, strict=True):
        assert (a.double() - b).norm() < 2e-3 * b.norm()


def test_bf16_hidden_states_give_gradients_in_the_dtypes_of_their_tensors():
    case = make_case("biased")
    head = replace(case.head, weight=case.head.weight.detach().float().requires_grad_(), bias=None)
    narrow = replace(
        case, hidden=case.hidden.detach().bfloat16().requires_grad_(), head=head, weights=case.weights.float()
    )
    narrow.chunked(4).backward()
    assert narrow.hidden.grad.dtype == torch.bfloat16
    assert narrow.head.weight.grad.dtype == torch.float32
    case = replace(case, head=replace(case.head, bias=None))
    expected = torch.autograd.grad(case.dense(), case.head.weight)[0]
    assert (narrow.head.weight.grad - expected).norm() < 0.02 * expected.norm()


@pytest.mark.parametrize("how", ["no rows", "no weight"])
def test_a_batch_in_which_nothing_counts_gives_zero_with_a_graph(how):
    case = make_case("biased")
    if how == "no rows":
        empty = case.hidden[:0], case.targets[:0], case.weights[:0]
        case = Case(empty[0], case.head, *empty[1:])
    else:
        case = replace(case, weights=torch.zeros_like(case.weights))
    loss = case.chunked(4)
    assert loss.item() == 0
    for gradient in torch.autograd.grad(loss, [case.hidden, case.head.weight, case.head.bias]):
        assert (gradient == 0).all()


def test_all_terms_of_a_chunk_loss_are_summed_and_only_the_first_has_a_gradient():
    case = make_case()

    def two_terms(logits, rows):
        return torch.stack([logits.sum(), logits.new_tensor(float(rows.stop - rows.start))]), torch.ones_like(logits)

    loss, terms = chunked_loss(case.hidden, case.head, two_terms, even_chunks(ROWS, 4))
    assert terms.tolist() == pytest.approx([(case.hidden @ case.head.weight.T).sum().item(), ROWS])
    assert not terms.requires_grad
    expected = torch.autograd.grad((case.hidden @ case.head.weight.T).sum(), case.hidden)[0]
    assert torch.allclose(torch.autograd.grad(loss, case.hidden)[0], expected)


@pytest.mark.parametrize(("num_rows", "size", "expected"), [(7, 3, [3, 3, 1]), (6, 3, [3, 3]), (2, 3, [2]), (0, 3, [])])
def test_even_chunks_cover_the_rows_in_order(num_rows, size, expected):
    chunks = even_chunks(num_rows, size)
    assert [chunk.stop - chunk.start for chunk in chunks] == expected
    assert [row for chunk in chunks for row in range(num_rows)[chunk]] == list(range(num_rows))


def test_a_chunk_of_a_vocabulary_larger_than_memory_still_has_a_row():
    assert rows_per_chunk(2**40, torch.device("cpu")) == 1
    assert rows_per_chunk(151_936, torch.device("cpu")) * 151_936 * 4 <= CHUNK_BYTES["cpu"]
    assert rows_per_chunk(151_936, torch.device("cuda")) > rows_per_chunk(151_936, torch.device("cpu"))


def test_forward_and_backward_need_a_fraction_of_the_memory_of_the_logits():
    rows, vocabulary, hidden_size, chunk = 1024, 8192, 8, 32
    weight = random_logits(vocabulary, hidden_size, seed=1, scale=1.0, dtype=torch.float32).requires_grad_()
    hidden = random_logits(rows, hidden_size, scale=1.0, dtype=torch.float32).requires_grad_()
    targets, weights = torch.arange(rows), torch.full((rows,), 1 / rows)
    loss = cross_entropy_chunk(targets, weights)
    with Allocations(weight, hidden, targets, weights) as allocations:
        chunked_loss(hidden, Head(weight, vocabulary), loss, even_chunks(rows, chunk))[0].backward()
    assert allocations.largest <= chunk * vocabulary
    # the logits alone take 4 bytes each; a dense loss holds them three times over
    assert allocations.peak_bytes < 4 * rows * vocabulary / 8
    with Allocations(weight, hidden, targets, weights) as dense:
        F.cross_entropy(hidden @ weight.T, targets).backward()
    assert dense.largest == rows * vocabulary and dense.peak_bytes > 4 * rows * vocabulary
