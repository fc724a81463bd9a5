"""The precision that losses are computed in: fp32 at least, also under autocast and from half-precision inputs."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import torch

Loss = TypeVar("Loss", bound=Callable[..., Any])


def full_precision(loss: Loss) -> Loss:
    """Switch autocast off inside a function whose first argument is a tensor: it would multiply in half precision."""

    @wraps(loss)
    def compute(first: torch.Tensor, *args: Any, **named: Any) -> Any:
        with torch.autocast(first.device.type, enabled=False):
            return loss(first, *args, **named)

    return cast(Loss, compute)


def at_least_fp32(values: torch.Tensor) -> torch.Tensor:
    """Return values in fp32, or as they are if in fp64."""
    return values if values.dtype == torch.float64 else values.float()
