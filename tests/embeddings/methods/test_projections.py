"""How projections between the models' widths start."""

from typing import get_args

import pytest
import torch
from torch import nn

from kdkit.config.methods import AnyMethod
from kdkit.embeddings.methods.base import PairFacts, make_projection
from kdkit.embeddings.methods.cross_attention import WordAttention
from kdkit.embeddings.methods.projections import fitted_projection, start_projection
from kdkit.embeddings.training.train import build_method
from kdkit.errors import UserError


def started(shape, how, teacher=None, student=None, seed=0):
    weight = torch.full(shape, torch.nan)
    start_projection(weight, how, teacher, student, torch.Generator().manual_seed(seed))
    return weight


def vectors(count, width, seed):
    """Vectors with a mean and directions of falling length."""
    generator = torch.Generator().manual_seed(seed)
    scales = 0.7 ** torch.arange(width)
    return (torch.randn(count, width, generator=generator) + 1.0) * scales


def mean_cosine(weight, teacher, student):
    return torch.cosine_similarity(student @ weight.T, teacher, dim=-1).mean().item()


@pytest.mark.parametrize("how", ["auto", "identity"])
def test_equal_widths_start_as_the_identity(how):
    assert torch.equal(started((3, 3), how), torch.eye(3))


def test_identity_between_different_widths_is_refused():
    with pytest.raises(UserError, match=r"method\.projection: expected equal widths .*, got 3 and 4; choose"):
        started((4, 3), "identity")


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4)])
@pytest.mark.parametrize("how", ["orthogonal", "fitted"])
def test_columns_or_rows_are_orthonormal(how, shape):
    weight = started(shape, how, vectors(50, shape[0], 1), vectors(50, shape[1], 2))
    product = weight @ weight.T if shape[0] < shape[1] else weight.T @ weight
    torch.testing.assert_close(product, torch.eye(min(shape)), atol=1e-5, rtol=0)


def test_random_start_is_small():
    weight = started((100, 100), "random")
    assert weight.std().item() == pytest.approx(1e-3, rel=0.05)


@pytest.mark.parametrize("how", ["auto", "fitted", "orthogonal"])
def test_without_vectors_the_start_is_orthogonal_and_follows_the_seed(how):
    first, again, other = (started((5, 3), how, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    torch.testing.assert_close(first.T @ first, torch.eye(3), atol=1e-6, rtol=0)


def test_auto_fits_different_widths():
    teacher, student = vectors(50, 5, 1), vectors(50, 3, 2)
    assert torch.equal(started((5, 3), "auto", teacher, student), fitted_projection(teacher, student))


def test_turned_and_cut_teacher_is_found_again():
    # the student is the teacher's three longest directions, turned; the mean is one of them
    teacher = vectors(200, 6, 3)
    teacher[:, 3:] *= 1e-3
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(4)))[0]
    student = teacher[:, :3] @ turn
    assert mean_cosine(fitted_projection(teacher, student), teacher, student) > 0.9999


def test_fit_comes_nearer_than_any_of_100_random_starts():
    teacher = vectors(200, 8, 5)
    student = teacher[:, [3, 0, 2]] + 0.1 * torch.randn(200, 3, generator=torch.Generator().manual_seed(6))
    best = max(mean_cosine(started((8, 3), "orthogonal", seed=seed), teacher, student) for seed in range(100))
    assert mean_cosine(fitted_projection(teacher, student), teacher, student) > best


def test_mean_of_the_teacher_is_kept():
    # centred directions would leave out the first axis, along which nothing varies but all the length lies
    generator = torch.Generator().manual_seed(7)
    teacher = torch.randn(100, 4, generator=generator) * torch.tensor([0.0, 1.0, 1.0, 0.1])
    teacher[:, 0] = 5.0
    student = torch.randn(100, 2, generator=generator) + 5
    assert mean_cosine(fitted_projection(teacher, student), teacher, student) > 0.9


@pytest.mark.parametrize("widths", [(5, 3), (3, 5)])
def test_way_back_is_the_transpose(widths):
    teacher, student = vectors(50, widths[0], 1), vectors(50, widths[1], 2)
    forth = started(widths, "fitted", teacher, student)
    back = started(widths[::-1], "fitted", student, teacher)
    torch.testing.assert_close(back, forth.T, atol=1e-4, rtol=0)


def test_fewer_sentences_than_directions_still_give_a_projection():
    weight = fitted_projection(vectors(2, 6, 1), vectors(2, 4, 2))
    torch.testing.assert_close(weight.T @ weight, torch.eye(4), atol=1e-5, rtol=0)


def test_parameters_are_filled_in_place():
    linear = nn.Linear(3, 3, bias=False)
    start_projection(linear.weight, "identity", None, None)
    assert torch.equal(linear.weight.data, torch.eye(3)) and linear.weight.requires_grad


def test_auto_makes_no_projection_between_equal_widths():
    assert list(make_projection("auto", 4, 4).parameters()) == []
    assert make_projection("identity", 4, 4).weight.shape == (4, 4)
    assert make_projection("auto", 3, 4).weight.shape == (4, 3)


EVERY_FORM = [(settings, form) for settings in get_args(AnyMethod) for form in ("recommended", *settings.PRESETS)]


@pytest.mark.parametrize("widths", [(16, 24), (24, 16), (24, 24)])
@pytest.mark.parametrize(("settings", "form"), EVERY_FORM)
def test_every_method_says_how_each_of_its_projections_starts_in_their_order(settings, form, widths):
    small = {"dimensions": [4, 8]} if "dimensions" in settings.model_fields else {}
    method = build_method(settings(form=form, **small), PairFacts(*widths, 3, 6))
    links = [part for module in method.modules() if isinstance(module, WordAttention) for part in module.modules()]
    linear = [m for m in method.modules() if isinstance(m, nn.Linear) and not any(m is part for part in links)]
    starts = method.starts(vectors(50, widths[1], 1), [vectors(50, widths[0], 2 + layer) for layer in range(4)])
    assert [start.projection for start in starts if isinstance(start.projection, nn.Linear)] == linear
    for start in starts:
        if start.target is not None and isinstance(start.projection, nn.Linear):
            assert start.projection.weight.shape == (start.target.shape[1], start.source.shape[1])
