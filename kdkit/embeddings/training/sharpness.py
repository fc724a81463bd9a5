"""Sharpness-aware minimisation: the gradient is taken where the loss is worst nearby, the step is made from here.

One step is two forward and backward passes: `climb` after the first moves the weights uphill, `return_to` puts them
back, exactly, before the optimizer steps with the gradients of the second.

Source: SAM, Foret et al. 2021 (arXiv 2010.01412), eq. 2; ASAM, Kwon et al. 2021 (arXiv 2102.11600), eq. 9.
"""

from collections.abc import Sequence
from typing import Literal

import torch

EPSILON = 1e-12
"""Keeps a gradient of zero from being divided by its norm."""


@torch.no_grad()
def climb(
    parameters: Sequence[torch.nn.Parameter], kind: Literal["sam", "asam"], rho: float, eta: float
) -> list[torch.Tensor]:
    """Move parameters to where the loss is largest, to first order, and return copies of where they were.

        sam:   w + rho g / ||g||
        asam:  w + rho T^2 g / ||T g||,  T = abs(w) + eta,  so that large weights move more

    Args:
        parameters: those with gradients, unscaled, of the whole optimizer step.
        rho: length of the move.
        eta: added to the weights' sizes by `asam`, so that weights of zero move too.

    Returns:
        Copies, for `return_to`: subtracting the move again would leave rounding errors in the weights.
    """
    gradients = [parameter.grad for parameter in parameters]
    copies = [parameter.detach().clone() for parameter in parameters]
    if kind == "asam":
        sizes = torch._foreach_abs(copies)
        torch._foreach_add_(sizes, eta)
        moves = torch._foreach_mul(gradients, sizes)
        length = _norm(moves)
        torch._foreach_mul_(moves, sizes)
    else:
        moves = torch._foreach_mul(gradients, 1.0)
        length = _norm(moves)
    torch._foreach_mul_(moves, rho / (length + EPSILON))
    torch._foreach_add_(list(parameters), moves)
    return copies


@torch.no_grad()
def return_to(parameters: Sequence[torch.nn.Parameter], copies: list[torch.Tensor]) -> None:
    """Put parameters back to where `climb` found them, to the last bit."""
    torch._foreach_copy_(list(parameters), copies)


def all_finite(parameters: Sequence[torch.nn.Parameter]) -> bool:
    """Return whether every gradient is a number."""
    return bool(torch.isfinite(_norm([parameter.grad for parameter in parameters])))


def _norm(tensors: list[torch.Tensor]) -> torch.Tensor:
    """Return the norm over all entries of all tensors, on the first one's device."""
    norms = torch._foreach_norm(tensors)
    return torch.stack([norm.to(norms[0].device) for norm in norms]).norm()
