"""Known n-grams beside a search by hand, and the gradient of the unlikelihood beside autograd."""

import numpy as np
import pytest
import torch

from kdkit.losses.chunked.engine import Head, chunked_loss, cross_entropy_chunk
from kdkit.losses.copying import KnownNGrams, unlikelihood


def by_hand(texts: list[list[int]], row: list[int], length: int) -> list[bool]:
    """Return which tokens of a row complete an n-gram of the texts."""
    known = {tuple(text[i : i + length]) for text in texts for i in range(len(text) - length + 1)}
    return [i + 1 >= length and tuple(row[i + 1 - length : i + 1]) in known for i in range(len(row))]


@pytest.mark.parametrize("length", [2, 3, 5])
def test_known_ngrams_are_those_found_by_hand(length):
    draw = np.random.default_rng(length)
    texts, rows = draw.integers(0, 4, (6, 12)), draw.integers(0, 4, (9, 15))
    known = KnownNGrams([(texts[:2], np.ones((2, 12), bool)), (texts[2:], np.ones((4, 12), bool))], length)
    expected = [by_hand(texts.tolist(), row, length) for row in rows.tolist()]
    assert known.completed(rows).tolist() == expected
    assert 0 < np.mean(expected) < 1
    assert len(known) == len({tuple(t[i : i + length]) for t in texts.tolist() for i in range(13 - length)})


def test_an_ngram_with_a_token_that_does_not_count_is_not_known():
    text, counts = np.array([[1, 2, 3, 4, 5]]), np.array([[False, True, True, True, False]])
    known = KnownNGrams([(text, counts)], 3)
    assert len(known) == 1
    assert known.completed(np.array([[1, 2, 3, 4, 5]])).tolist() == [[False, False, False, True, False]]


def test_order_and_length_matter_and_short_rows_hold_none():
    known = KnownNGrams([(np.array([[0, 0, 7]]), np.ones((1, 3), bool))], 3)
    assert not known.completed(np.array([[0, 7, 0], [7, 0, 0]])).any()
    assert not known.completed(np.array([[0, 7]])).any()
    assert not KnownNGrams([(np.zeros((1, 2), int), np.ones((1, 2), bool))], 3).completed(np.zeros((1, 9), int)).any()


def test_as_weights_of_cross_entropy_the_penalty_has_its_own_gradient():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(7, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(11, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(11, (7,), generator=generator)
    chosen = torch.tensor([True, False, True, True, False, False, True])
    logprobs = torch.log_softmax(hidden @ weight.T, dim=-1).gather(1, targets[:, None]).squeeze(1)
    values, weights = unlikelihood(logprobs, chosen)
    expected = -torch.log1p(-logprobs.exp())[chosen].sum()
    assert values.sum().item() == pytest.approx(expected.item(), rel=1e-9)
    assert (values[~chosen] == 0).all() and (weights[~chosen] == 0).all()
    loss, _ = chunked_loss(hidden, Head(weight, 11), cross_entropy_chunk(targets, weights), [slice(0, 4), slice(4, 7)])
    wanted = torch.autograd.grad(expected, (hidden, weight))
    got = torch.autograd.grad(loss, (hidden, weight))
    assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-12) for a, b in zip(got, wanted, strict=True))


def test_a_certain_token_has_a_finite_penalty():
    values, weights = unlikelihood(torch.tensor([0.0, -1e-9]), torch.tensor([True, True]))
    assert values.isfinite().all() and weights.isfinite().all() and (weights < 0).all()
