"""Optimal transport: golden values, Python Optimal Transport as reference, and sentences of padding."""

import pytest
import torch

from kdkit.losses import transport
from kdkit.losses.sentences import unit
from kdkit.losses.tokens import group_weights
from kdkit.losses.transport import carry_masses, sinkhorn, token_costs, transport_cost

INDEX = torch.arange(4, dtype=torch.float64)
S = unit(torch.sin(1 + 4 * INDEX[:, None] + INDEX))[None]
T = unit(torch.cos(0.5 * (4 * INDEX[:, None] + INDEX)))[None]
COST = token_costs(S, T, torch.ones(1, 4), "cosine")
EVEN = torch.full((1, 4), 0.25, dtype=torch.float64)
RISING = torch.tensor([[0.1, 0.2, 0.3, 0.4]], dtype=torch.float64)


def cost_of(regularisation, iterations, row_mass=EVEN):
    return transport_cost(COST, sinkhorn(COST, row_mass, EVEN, regularisation, iterations)).item()


def test_golden_transport_costs():
    assert cost_of(0.05, 50) == pytest.approx(0.145828582, abs=1e-8)
    assert cost_of(0.1, 200, RISING) == pytest.approx(0.210219474, abs=1e-6)
    # this problem converges slowly: the golden value is that of 5000 iterations
    assert cost_of(0.1, 5000) == pytest.approx(0.149157149, abs=1e-8)


def test_fifty_iterations_come_close_to_the_converged_cost():
    assert cost_of(0.1, 50) == pytest.approx(0.149143570, abs=3e-5)
    assert cost_of(0.1, 50, RISING) == pytest.approx(0.210219474, abs=3e-4)


def padded_problem(rows, columns, seed):
    """A batch of one random problem with 3 padded rows and 2 padded columns."""
    generator = torch.Generator().manual_seed(seed)
    cost = torch.rand(1, rows + 3, columns + 2, generator=generator, dtype=torch.float64)
    masses = [torch.rand(1, size, generator=generator, dtype=torch.float64) + 0.1 for size in (rows, columns)]
    masses = [mass / mass.sum() for mass in masses]
    return cost, torch.nn.functional.pad(masses[0], (0, 3)), torch.nn.functional.pad(masses[1], (0, 2))


@pytest.mark.parametrize(("rows", "columns", "regularisation"), [(4, 4, 0.1), (9, 5, 0.1), (1, 6, 0.02)])
def test_plan_equals_python_optimal_transport(rows, columns, regularisation):
    bregman = pytest.importorskip("ot.bregman")
    cost, row_mass, column_mass = padded_problem(rows, columns, seed=rows)
    plan = sinkhorn(cost, row_mass, column_mass, regularisation, 2000)[0]
    problem = row_mass[0, :rows].numpy(), column_mass[0, :columns].numpy(), cost[0, :rows, :columns].numpy()
    expected = bregman.sinkhorn_log(*problem, regularisation, numItermax=20_000, stopThr=1e-12)
    torch.testing.assert_close(plan[:rows, :columns], torch.from_numpy(expected), atol=1e-8, rtol=0)
    assert plan[rows:].abs().max() == 0 and plan[:, columns:].abs().max() == 0


def test_batch_of_padded_problems_equals_one_at_a_time():
    problems = [padded_problem(rows, columns, seed=7) for rows, columns in ((4, 6), (7, 2))]
    padded = []
    for cost, row_mass, column_mass in problems:
        padding = (10 - row_mass.shape[1], 8 - column_mass.shape[1])
        grid = torch.nn.functional.pad(cost, (0, padding[1], 0, padding[0]))
        masses = (torch.nn.functional.pad(m, (0, p)) for m, p in zip((row_mass, column_mass), padding, strict=True))
        padded.append((grid, *masses))
    together = sinkhorn(*(torch.cat(tensors) for tensors in zip(*padded, strict=True)), 0.1, 3)
    for plan, problem in zip(together, problems, strict=True):
        alone = sinkhorn(*problem, 0.1, 3)[0]
        torch.testing.assert_close(plan[: alone.shape[0], : alone.shape[1]], alone)


def test_marginals_are_the_masses_in_fp32():
    generator = torch.Generator().manual_seed(0)
    cost = 2 * torch.rand(5, 24, 20, generator=generator)
    row_mass, column_mass = (torch.rand(5, size, generator=generator).softmax(-1) for size in (24, 20))
    plan = sinkhorn(cost, row_mass, column_mass, 0.1, 100)
    torch.testing.assert_close(plan.sum(dim=2), row_mass, atol=1e-6, rtol=0)
    torch.testing.assert_close(plan.sum(dim=1), column_mass, atol=1e-4, rtol=0)


@pytest.mark.parametrize("regularisation", [0.1, 0.001])
def test_sentences_without_mass_have_an_empty_plan(regularisation):
    row_mass, column_mass = torch.zeros(3, 4), torch.zeros(3, 5)
    row_mass[0, 0] = column_mass[0, 4] = 1.0  # a single token on either side
    row_mass[1, 0] = 1.0  # nothing on one side
    plan = sinkhorn(torch.rand(3, 4, 5), row_mass, column_mass, regularisation, 300)
    expected = torch.zeros(3, 4, 5)
    expected[0, 0, 4] = 1.0
    torch.testing.assert_close(plan, expected)


def test_gradient_is_the_plan_without_its_iterations():
    cost = COST.clone().requires_grad_()
    plan = sinkhorn(cost, EVEN, EVEN, 0.1, 50)
    transport_cost(cost, plan).sum().backward()
    assert not plan.requires_grad
    torch.testing.assert_close(cost.grad, plan)


def test_gradient_of_the_regularised_cost_is_the_converged_plan():
    # the envelope theorem, by finite differences of <P, C> + reg sum P log P
    def value(cost):
        plan = sinkhorn(cost, RISING, EVEN, 0.1, 3000)
        return (plan * cost).sum() + 0.1 * torch.xlogy(plan, plan).sum()

    step = torch.zeros_like(COST)
    step[0, 1, 2] = 1e-4
    slope = (value(COST + step) - value(COST - step)) / 2e-4
    assert slope.item() == pytest.approx(sinkhorn(COST, RISING, EVEN, 0.1, 3000)[0, 1, 2].item(), abs=1e-5)


def test_half_precision_costs_give_a_plan_in_fp32():
    with torch.autocast("cpu", torch.bfloat16):
        plan = sinkhorn(COST.half(), EVEN.half(), EVEN.half(), 0.1, 50)
    assert plan.dtype == torch.float32 and plan.sum() == pytest.approx(1, abs=1e-5)


def test_cosine_cost_of_equal_states_is_zero():
    torch.testing.assert_close(token_costs(S, S * 3, torch.ones(1, 4), "cosine")[0].diagonal(), torch.zeros(4).double())


def test_softmax_cost_spreads_one_over_the_teachers_real_tokens():
    mask = torch.tensor([[1, 1, 0, 1]])
    cost = token_costs(S, T, mask, "softmax")
    expected = 1 - torch.softmax((S[0, 2] @ T[0, [0, 1, 3]].T) / 2, dim=0)
    torch.testing.assert_close(cost[0, 2, [0, 1, 3]], expected)
    assert (cost[:, :, 2] == 1).all()


MASSES = torch.tensor([[0.0, 0.6, 0.2, 0.2]], dtype=torch.float64)
TEACHER_GROUP = torch.tensor([[-1, 0, 1, 1]])
STUDENT_GROUP = torch.tensor([[-1, 0, 0, 1, -1, -1]])
STUDENT_MASK = torch.tensor([[1, 1, 1, 1, 1, 0]])


def test_masses_are_carried_over_groups_in_equal_parts():
    carried = carry_masses(MASSES, group_weights(STUDENT_GROUP, 4), TEACHER_GROUP, STUDENT_MASK, "corrected")
    expected = torch.tensor([[0.0, 0.3, 0.3, 0.4, 0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(carried, expected, atol=2e-4, rtol=0)
    assert carried[0, 0] > 0 and carried[0, 5] == 0 and carried.sum().item() == pytest.approx(1)


def test_published_masses_are_a_softmax_in_which_the_unmapped_have_the_least():
    carried = carry_masses(MASSES, group_weights(STUDENT_GROUP, 4), TEACHER_GROUP, STUDENT_MASK, "softmax")
    expected = torch.softmax(torch.tensor([0.2, 0.3, 0.3, 0.4, 0.2], dtype=torch.float64), dim=0)
    torch.testing.assert_close(carried[0, :5], expected)
    assert carried[0, 5] == 0


@pytest.mark.parametrize("how", ["corrected", "softmax"])
def test_padding_carries_no_mass(how):
    carried = carry_masses(MASSES * 0, group_weights(STUDENT_GROUP * 0 - 1, 4), TEACHER_GROUP, STUDENT_MASK * 0, how)
    assert carried.tolist() == [[0.0] * 6]


def slow_problem():
    """Two sides whose tokens are far apart but for one pair: at a small regularisation the scaling is slow."""
    generator = torch.Generator().manual_seed(0)
    states = [torch.randn(8, 1, 8, generator=generator).expand(8, size, 8) for size in (12, 10)]
    states = [side + torch.randn(side.shape, generator=generator) for side in states]
    masses = [torch.rand(8, size, generator=generator).square() for size in (12, 10)]
    return token_costs(*states, torch.ones(8, 10), "cosine"), *(m / m.sum(dim=1, keepdim=True) for m in masses)


def test_settings_that_do_not_converge_are_noticed_once(monkeypatch, capsys):
    monkeypatch.setattr(transport, "_noticed", {})
    cost, rows, columns = slow_problem()
    few, many = (sinkhorn(cost, rows, columns, 0.01, iterations) for iterations in (50, 20_000))
    off = (few.sum(dim=1) - columns).abs().sum(dim=1).max().item()
    sinkhorn(cost, rows, columns, 0.01, 50)
    (line,) = capsys.readouterr().out.splitlines()
    assert off > 0.02 and f"got {off:.0%} off after 50 iterations at regularisation 0.01" in line
    assert ": expected " in line and "method.sinkhorn_iterations=200" in line
    assert transport_cost(cost, few).mean() < transport_cost(cost, many).mean()


def test_settings_that_converge_say_nothing(monkeypatch, capsys):
    monkeypatch.setattr(transport, "_noticed", {})
    cost, rows, columns = slow_problem()
    sinkhorn(cost, rows, columns, 0.1, 50)
    sinkhorn(cost[:, :, :0], rows, columns[:, :0], 0.1, 1)
    sinkhorn(cost, rows * 0, columns, 0.01, 1)
    assert capsys.readouterr().out == ""
