"""Divergences written down a second time, to test the first: plain Python numbers, and torch formulas for autograd."""

import math
from collections.abc import Callable

import torch

from kdkit.config.losses import (
    AdaptiveKL,
    DivergenceSettings,
    ForwardKL,
    JensenShannon,
    ReverseKL,
    SkewedForwardKL,
    SkewedReverseKL,
    TotalVariation,
)

DIVERGENCES: dict[str, DivergenceSettings] = {
    "forward_kl": ForwardKL(),
    "reverse_kl": ReverseKL(),
    "jsd": JensenShannon(),
    "jsd_0.1": JensenShannon(teacher_weight=0.1),
    "jsd_0.9": JensenShannon(teacher_weight=0.9),
    "skewed_forward_kl": SkewedForwardKL(),
    "skewed_forward_kl_0.6": SkewedForwardKL(skew=0.6),
    "skewed_reverse_kl": SkewedReverseKL(),
    "skewed_reverse_kl_0.6": SkewedReverseKL(skew=0.6),
    "tvd": TotalVariation(),
    "adaptive_kl": AdaptiveKL(),
    "adaptive_kl_0.8": AdaptiveKL(head_mass=0.8),
}
"""Every divergence, at more than one value of its option."""


def softmax(logits: list[float], temperature: float) -> list[float]:
    """Turn a few logits into probabilities."""
    largest = max(logits)
    weights = [math.exp((value - largest) / temperature) for value in logits]
    return [weight / math.fsum(weights) for weight in weights]


def plain_kl(p: list[float], q: list[float]) -> float:
    """Sum p (log p - log q)."""
    return math.fsum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True) if a > 0)


def mix(p: list[float], q: list[float], weight_of_p: float) -> list[float]:
    """Add two distributions."""
    return [weight_of_p * a + (1 - weight_of_p) * b for a, b in zip(p, q, strict=True)]


def plain_divergence(settings: DivergenceSettings, p: list[float], q: list[float]) -> float:
    """Compute a divergence of teacher p and student q, one number after the other."""
    match settings.name:
        case "forward_kl":
            return plain_kl(p, q)
        case "reverse_kl":
            return plain_kl(q, p)
        case "jsd":
            w, m = settings.teacher_weight, mix(p, q, settings.teacher_weight)
            return w * plain_kl(p, m) + (1 - w) * plain_kl(q, m)
        case "skewed_forward_kl":
            return plain_kl(p, mix(p, q, settings.skew))
        case "skewed_reverse_kl":
            return plain_kl(q, mix(p, q, 1 - settings.skew))
        case "tvd":
            return math.fsum(abs(a - b) for a, b in zip(p, q, strict=True)) / 2
        case "adaptive_kl":
            share = share_of_head(p, q, settings.head_mass)
            return share * plain_kl(p, q) + (1 - share) * plain_kl(q, p)
    raise AssertionError(settings.name)


def share_of_head(p: list[float], q: list[float], head_mass: float) -> float:
    """Return adaptive KL's weight of forward KL: the head's part of sum abs(p - q)."""
    head, mass = set(), 0.0
    for token in sorted(range(len(p)), key=lambda i: -p[i]):
        if mass >= head_mass:
            break
        head.add(token)
        mass += p[token]
    gaps = [abs(a - b) for a, b in zip(p, q, strict=True)]
    return math.fsum(gaps[i] for i in head) / math.fsum(gaps)


def formula(settings: DivergenceSettings) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Return a divergence as a formula of probabilities (a v each), for autograd in float64."""

    def kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
        return (torch.xlogy(p, p) - torch.xlogy(p, q)).sum(dim=-1)

    def adaptive(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
        rows = zip(p.tolist(), q.tolist(), strict=True)
        # numbers, so that the weights are constants for the gradient
        share = torch.tensor([share_of_head(a, b, settings.head_mass) for a, b in rows], dtype=p.dtype)
        return share * kl(p, q) + (1 - share) * kl(q, p)

    match settings.name:
        case "forward_kl":
            return kl
        case "reverse_kl":
            return lambda p, q: kl(q, p)
        case "jsd":
            w = settings.teacher_weight
            return lambda p, q: w * kl(p, w * p + (1 - w) * q) + (1 - w) * kl(q, w * p + (1 - w) * q)
        case "skewed_forward_kl":
            return lambda p, q: kl(p, settings.skew * p + (1 - settings.skew) * q)
        case "skewed_reverse_kl":
            return lambda p, q: kl(q, (1 - settings.skew) * p + settings.skew * q)
        case "tvd":
            return lambda p, q: (p - q).abs().sum(dim=-1) / 2
    return adaptive


def formula_gradient(
    settings: DivergenceSettings, teacher: torch.Tensor, student: torch.Tensor, temperature: float = 1.0
) -> torch.Tensor:
    """Return the gradient by the student's logits of the summed formula, times temperature squared; float64."""
    leaf = student.double().detach().requires_grad_()
    p = torch.softmax(teacher.double() / temperature, dim=-1)
    loss = temperature**2 * formula(settings)(p, torch.softmax(leaf / temperature, dim=-1)).sum()
    return torch.autograd.grad(loss, leaf)[0]


def random_logits(*shape: int, seed: int = 0, scale: float = 3.0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Draw logits."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).mul(scale).to(dtype)
