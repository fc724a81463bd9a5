"""Hidden units of feed-forward layers have no order of their own; before layers are averaged they are given one.

An expert here is a pair of `gate_up`, `[2 * width, H]`, and `down`, `[H, width]`: its hidden unit i is the rows i and
width + i of the first and the column i of the second. In any order of its units it computes the same.
"""

import torch
from scipy.optimize import linear_sum_assignment

Expert = tuple[torch.Tensor, torch.Tensor]


def match_units(reference: Expert, other: Expert) -> Expert:
    """Put the hidden units of an expert into the order in which they are most like a reference's, one by one.

    Alike are units with a large inner product of their weights; the sum over all pairs is the largest possible
    (Hungarian method, as REAM has it, arXiv:2604.04356; the third power of the width in time).
    """
    likeness = _units(reference) @ _units(other).T
    _, order = linear_sum_assignment(-likeness.numpy())
    chosen = torch.from_numpy(order).to(other[0].device)
    gate_up, down = other
    return gate_up.unflatten(0, (2, -1))[:, chosen].flatten(0, 1), down[:, chosen]


def _units(expert: Expert) -> torch.Tensor:
    """Return the weights of each hidden unit, fp32, `[width, 3 * H]`, on the CPU."""
    gate, up = expert[0].chunk(2)
    return torch.cat([gate, up, expert[1].T], dim=1).float().cpu()


def average(experts: list[Expert], shares: torch.Tensor) -> Expert:
    """Return the weighted mean of experts, their units in the order of the one with the largest share.

    Args:
        shares: `[len(experts)]`; only their proportions matter, and none may be negative. All zero: equal.
    """
    shares = shares / shares.sum() if shares.sum() > 0 else torch.full_like(shares, 1 / len(shares))
    reference = experts[int(shares.argmax())]
    matched = [match_units(reference, expert) for expert in experts]
    gate_up = sum(share * gate_up for share, (gate_up, _) in zip(shares.tolist(), matched, strict=True))
    down = sum(share * down for share, (_, down) in zip(shares.tolist(), matched, strict=True))
    return gate_up, down
