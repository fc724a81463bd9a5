"""Optimal transport between the token states of two models: what it costs to move one sentence's mass to the other.

S and T count padding, which has mass 0. All is computed in fp32, also under autocast (fp64 stays).
"""

from typing import Literal

import torch

from kdkit.losses.precision import at_least_fp32, full_precision
from kdkit.losses.sentences import unit
from kdkit.losses.tokens import group_weights

SMALLEST_MASS = 1e-4
"""Mass of a student token before all are divided by their sum, so that none is left to itself."""
MOST_OFF = 0.02
"""Share of a sentence's mass that the columns of a plan may lack or have too much without a word."""
NEVER = -1e30
"""Logarithm of no mass; finite, as -inf - -inf would be NaN in a sentence of padding."""


@full_precision
def carry_masses(
    masses: torch.Tensor,
    student_weights: torch.Tensor,
    teacher_group: torch.Tensor,
    mask: torch.Tensor,
    how: Literal["corrected", "softmax"],
) -> torch.Tensor:
    """Give the teacher's masses to the student's tokens of the same groups, in equal parts.

    Args:
        masses: `[B, T]`, of the teacher's tokens; 0 for padding.
        student_weights: `[B, num_groups, S]`, from `group_weights`.
        teacher_group: int64, `[B, T]`.
        mask: `[B, S]`: 1 at the student's real tokens.
        how: `corrected`: these masses, at least 1e-4, divided by their sum; `softmax`: the published form, a softmax
            of them in which tokens without a group have the smallest mass of any teacher token; it makes them all
            but equal, no two differ by more than a factor of e.

    Returns:
        `[B, S]`, fp32 (fp64 stays): adds up to 1 over the real tokens, 0 elsewhere.

    Source: Truong et al. 2025 (EMO), EMNLP 2025 main 385.
    """
    masses, mask, student_weights = at_least_fp32(masses), mask.bool(), student_weights.to(at_least_fp32(masses).dtype)
    is_member = (group_weights(teacher_group, student_weights.shape[1]) > 0).to(masses.dtype)
    carried = (student_weights.mT @ is_member @ masses[..., None]).squeeze(-1)
    if how == "corrected":
        carried = (carried + SMALLEST_MASS) * mask
        return carried / carried.sum(dim=-1, keepdim=True).clamp(min=SMALLEST_MASS)
    smallest = masses.masked_fill(masses <= 0, torch.inf).amin(dim=-1, keepdim=True).clamp(max=1.0)
    carried = torch.where(student_weights.any(dim=1), carried, smallest)
    return carried.masked_fill(~mask, torch.finfo(carried.dtype).min).softmax(dim=-1) * mask


@full_precision
def token_costs(
    student: torch.Tensor, teacher: torch.Tensor, teacher_mask: torch.Tensor, how: Literal["cosine", "softmax"]
) -> torch.Tensor:
    """Return what it costs to move mass from each student token to each teacher token.

    Args:
        student: `[B, S, H]`, token states.
        teacher: `[B, T, H]`, token states, projected to the student's width.
        teacher_mask: `[B, T]`: 1 at real tokens.
        how: `cosine`: 1 - cos; `softmax`: 1 - softmax over the teacher's tokens of the inner products divided by the
            root of H, as published; it is close to 1 everywhere until some inner products are large.

    Returns:
        `[B, S, T]`, fp32 (fp64 stays).

    Source: Truong et al. 2025 (EMO), EMNLP 2025 main 385.
    """
    if how == "cosine":
        return 1.0 - unit(student) @ unit(teacher).mT
    scores = at_least_fp32(student) @ at_least_fp32(teacher).mT / student.shape[-1] ** 0.5
    is_pad = ~teacher_mask.bool()[:, None]
    return 1.0 - scores.masked_fill(is_pad, torch.finfo(scores.dtype).min).softmax(dim=-1)


@torch.no_grad()
@full_precision
def sinkhorn(
    cost: torch.Tensor, row_mass: torch.Tensor, column_mass: torch.Tensor, regularisation: float, iterations: int
) -> torch.Tensor:
    """Find the entropic transport plan (Sinkhorn): the least cost less `regularisation` times its entropy.

    In the log domain, so that a small regularisation does not underflow. Row sums are exact, column sums as good as
    the iterations allow: where they are off by more than 2 %, which makes the cost too low, a line is printed, once for
    each pair of settings. There is no test for an early end: it would make a GPU wait in every iteration.

    Args:
        cost: `[B, S, T]`.
        row_mass: `[B, S]`, adds up to 1; 0: padding.
        column_mass: `[B, T]`, adds up to 1; 0: padding.
        regularisation: in units of cost.
        iterations: how often both sides are scaled.

    Returns:
        `[B, S, T]`, fp32 (fp64 stays), without gradient; 0 at padding and in sentences where a side has no mass.

    Source: Cuturi 2013, arXiv:1306.0895, algorithm 1; log domain: Peyre & Cuturi 2019, arXiv:1803.00567, section 4.4.
    """
    scaled = at_least_fp32(cost) / -regularisation
    log_rows, log_columns = _log(row_mass).unsqueeze(2), _log(column_mass).unsqueeze(1)
    # the first scaling of columns must not see padded rows
    rows = torch.where(log_rows > NEVER, torch.zeros_like(log_rows), NEVER)
    columns = torch.zeros_like(log_columns)
    for _ in range(iterations):
        columns = log_columns - (scaled + rows).logsumexp(dim=1, keepdim=True)
        rows = log_rows - (scaled + columns).logsumexp(dim=2, keepdim=True)
    has_mass = (log_rows > NEVER) & (log_columns > NEVER)
    plan = torch.where(has_mass, (scaled + rows + columns).exp(), 0.0)
    _notice(plan, column_mass, regularisation, iterations)
    return plan


_noticed: dict[tuple[float, int], float] = {}
"""Regularisations and iterations that were found too small, and how far columns were off."""


def _notice(plan: torch.Tensor, column_mass: torch.Tensor, regularisation: float, iterations: int) -> None:
    """Print a line where the iterations did not suffice."""
    if (regularisation, iterations) in _noticed or not plan.numel():
        return
    sums = plan.sum(dim=1)
    off = (sums - column_mass).abs().sum(dim=1)[sums.sum(dim=1) > 0]
    if len(off) and (worst := off.max().item()) > MOST_OFF:
        _noticed[regularisation, iterations] = worst
        print(
            f"sinkhorn: expected columns within {MOST_OFF:.0%} of their mass, got {worst:.0%} off after {iterations} "
            f"iterations at regularisation {regularisation:g}, which makes the cost of transport too low; set "
            f"method.sinkhorn_iterations={4 * iterations} or method.sinkhorn_regularisation={2 * regularisation:g}",
            flush=True,
        )


def _log(mass: torch.Tensor) -> torch.Tensor:
    mass = at_least_fp32(mass)
    return torch.where(mass > 0, mass.clamp(min=torch.finfo(mass.dtype).tiny).log(), NEVER)


def transport_cost(cost: torch.Tensor, plan: torch.Tensor) -> torch.Tensor:
    """Compute what a plan costs, `[B]`, with the gradient that the best plan would have.

    At the optimum a change of the plan changes nothing to first order (the envelope theorem), so the plan is held
    fixed and no iteration is kept for the backward pass.

    Args:
        cost: `[B, S, T]`.
        plan: `[B, S, T]`, from `sinkhorn`.
    """
    return (plan.detach() * cost).sum(dim=(1, 2))
