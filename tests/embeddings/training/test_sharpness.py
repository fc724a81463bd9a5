"""Sharpness-aware steps: the move uphill against printed values and a library, and the way back."""

import pytest
import torch

from kdkit.embeddings.training.sharpness import all_finite, climb, return_to


def bowl(weights):
    return 0.5 * (weights[0] ** 2 + 3 * weights[1] ** 2)


def parameter_with_gradient(values=(1.0, -2.0)):
    weights = torch.nn.Parameter(torch.tensor(values, dtype=torch.float64))
    bowl(weights).backward()
    return weights


# f(w) = .5 (w1^2 + 3 w2^2) at (1, -2), rho .5
@pytest.mark.parametrize(
    ("kind", "eta", "move", "gradient"),
    [
        ("sam", 0.0, (0.08219949, -0.49319696), (1.08219949, -7.47959089)),
        ("asam", 0.01, (0.04214516, -1.00149404), (1.04214516, -9.00448212)),
        ("asam", 0.0, (0.04152274, -0.99654579), None),
    ],
)
def test_the_move_and_the_gradient_there_are_the_printed_ones(kind, eta, move, gradient):
    weights = parameter_with_gradient()
    copies = climb([weights], kind, 0.5, eta)
    torch.testing.assert_close(weights.detach() - copies[0], torch.tensor(move, dtype=torch.float64), atol=1e-7, rtol=0)
    if gradient is not None:
        weights.grad = None
        bowl(weights).backward()
        torch.testing.assert_close(weights.grad, torch.tensor(gradient, dtype=torch.float64), atol=1e-7, rtol=0)


@pytest.mark.parametrize(("kind", "adaptive"), [("sam", False), ("asam", True)])
def test_the_move_is_that_of_pytorch_optimizer(kind, adaptive):
    library = pytest.importorskip("pytorch_optimizer")
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(5, 3)), torch.nn.Parameter(torch.randn(4))]
    theirs = [torch.nn.Parameter(parameter.detach().clone()) for parameter in ours]
    for parameters in (ours, theirs):
        (parameters[0].sin().sum() * parameters[1].square().sum()).backward()
    optimizer = library.SAM(theirs, torch.optim.SGD, rho=0.3, adaptive=adaptive, lr=0.1)
    optimizer.first_step()
    climb(ours, kind, 0.3, 0.0)  # their adaptive form has no eta
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.detach(), other.detach())


def test_the_way_back_leaves_no_rounding_error():
    weights = torch.nn.Parameter(torch.randn(1000, generator=torch.Generator().manual_seed(0)) * 1e-3)
    before = weights.detach().clone()
    weights.grad = torch.randn(1000) * 1e3
    copies = climb([weights], "sam", 7.7, 0.0)
    assert not torch.equal(weights, before)
    return_to([weights], copies)
    assert torch.equal(weights, before)


def test_a_gradient_of_zero_moves_nothing():
    weights = torch.nn.Parameter(torch.ones(3))
    weights.grad = torch.zeros(3)
    climb([weights], "asam", 0.5, 0.01)
    assert torch.equal(weights, torch.ones(3))


def test_the_norm_is_taken_over_all_parameters():
    first, second = torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))
    first.grad, second.grad = torch.tensor([3.0]), torch.tensor([4.0])
    climb([first, second], "sam", 1.0, 0.0)
    torch.testing.assert_close(torch.cat([first, second]).detach(), torch.tensor([0.6, 0.8]))


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_gradient_that_is_no_number_is_seen(value):
    weights = torch.nn.Parameter(torch.ones(3))
    weights.grad = torch.tensor([0.0, value, 0.0])
    assert not all_finite([weights])
    weights.grad = torch.ones(3)
    assert all_finite([weights])
