"""Divergences of two distributions in closed form: values per row in nats, and their derivative.

p teacher, q student. Every function takes log-probabilities `[..., V]`, the student's first, and returns values
`[...]` together with d value / d log q `[..., V]`, so nothing has to be kept for a backward pass. `divergences` puts
logits, temperature and autograd around them, `chunked` uses them on some rows at a time. Nothing here averages.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

Measure = Callable[..., tuple[torch.Tensor, torch.Tensor]]
"""From student and teacher log-probabilities `[..., V]` to values `[...]` and d value / d log q `[..., V]`."""
Probabilities = tuple[torch.Tensor, torch.Tensor]
"""Of student and teacher, `[..., V]`: the exponentials of what a measure is given, where its caller has them already.
They are left as they are."""

LOWEST = -1e4
"""Stands for the logarithm of 0: finite, so that 0 * log 0 is 0 and not NaN."""


def forward_kl_with_gradient(
    student_logprobs: torch.Tensor, teacher_logprobs: torch.Tensor, probabilities: Probabilities | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute KL(p || q) = sum p (log p - log q); derivative -p.

    Source: Hinton et al. 2015, arXiv:1503.02531, sec. 2.
    """
    p = probabilities[1] if probabilities else teacher_logprobs.exp()
    values = _gap(teacher_logprobs, student_logprobs).mul_(p).sum(dim=-1)
    return values, p.neg()


def reverse_kl_with_gradient(
    student_logprobs: torch.Tensor, teacher_logprobs: torch.Tensor, probabilities: Probabilities | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute KL(q || p) = sum q (log q - log p); derivative q (log q - log p + 1).

    Source: Gu et al. 2023 (MiniLLM), arXiv:2306.08543, eq. 1.
    """
    q = probabilities[0] if probabilities else student_logprobs.exp()
    weighed = _gap(student_logprobs, teacher_logprobs).mul_(q)
    return weighed.sum(dim=-1), weighed.add_(q)


def jsd_with_gradient(
    student_logprobs: torch.Tensor,
    teacher_logprobs: torch.Tensor,
    probabilities: Probabilities | None = None,
    *,
    teacher_weight: float = 0.5,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute w KL(p || m) + (1 - w) KL(q || m), m = w p + (1 - w) q; derivative (1 - w) q (log q - log m).

    Args:
        teacher_weight: w, between 0 and 1; small values weigh like forward KL, large ones like reverse KL.

    Source: Agarwal et al. 2023 (GKD), arXiv:2306.13649, eq. 1.
    """
    w = teacher_weight
    q, p = probabilities or (student_logprobs.exp(), teacher_logprobs.exp())
    log_m = _mix(q, p, w).log_()
    forward = _finite(teacher_logprobs).sub_(log_m).mul_(p).sum(dim=-1)
    gradient = torch.sub(_finite(student_logprobs), log_m, out=log_m).mul_(q).mul_(1.0 - w)
    return w * forward + gradient.sum(dim=-1), gradient


def skewed_forward_kl_with_gradient(
    student_logprobs: torch.Tensor,
    teacher_logprobs: torch.Tensor,
    probabilities: Probabilities | None = None,
    *,
    skew: float = 0.1,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute KL(p || m), m = skew p + (1 - skew) q; derivative -(1 - skew) q p / m.

    Source: Ko et al. 2024 (DistiLLM), arXiv:2402.03898, eq. 4.
    """
    q, p = probabilities or (student_logprobs.exp(), teacher_logprobs.exp())
    m = _mix(q, p, skew)
    values = _finite(teacher_logprobs).sub_(m.log()).mul_(p).sum(dim=-1)
    return values, torch.div(p, m, out=m).mul_(q).mul_(skew - 1.0)


def skewed_reverse_kl_with_gradient(
    student_logprobs: torch.Tensor,
    teacher_logprobs: torch.Tensor,
    probabilities: Probabilities | None = None,
    *,
    skew: float = 0.1,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute KL(q || m), m = (1 - skew) p + skew q; derivative q (log q - log m + 1 - skew q / m).

    Source: Ko et al. 2024 (DistiLLM), arXiv:2402.03898, eq. 5.
    """
    q, p = probabilities or (student_logprobs.exp(), teacher_logprobs.exp())
    m = _mix(p, q, skew)
    gap = _finite(student_logprobs).sub_(m.log())
    values = (q * gap).sum(dim=-1)
    return values, gap.add_(1.0).addcdiv_(q, m, value=-skew).mul_(q)


def tvd_with_gradient(
    student_logprobs: torch.Tensor, teacher_logprobs: torch.Tensor, probabilities: Probabilities | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute 1/2 sum abs(p - q), between 0 and 1; derivative 1/2 q sign(q - p).

    Source: Wen et al. 2023 (f-distill), arXiv:2307.15190, sec. 3.
    """
    q, p = probabilities or (student_logprobs.exp(), teacher_logprobs.exp())
    gap = q - p
    return 0.5 * gap.abs().sum(dim=-1), gap.sign_().mul_(q).mul_(0.5)


def adaptive_kl_with_gradient(
    student_logprobs: torch.Tensor,
    teacher_logprobs: torch.Tensor,
    probabilities: Probabilities | None = None,
    *,
    head_mass: float = 0.5,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weigh forward KL by the gap on the teacher's head and reverse KL by the gap on its tail.

    (g_head FKL + g_tail RKL) / (g_head + g_tail), g = sum abs(p - q) over the part; the head holds the
    teacher's most likely tokens up to a cumulative mass, and all that are as likely as the last of them.
    The weights are constants for the gradient.

    Args:
        head_mass: cumulative teacher probability at which the head ends.

    Source: Wu et al. 2024 (AKL), arXiv:2404.02657, sec. 4.
    """
    q, p = probabilities or (student_logprobs.exp(), teacher_logprobs.exp())
    gap = _gap(teacher_logprobs, student_logprobs)
    forward, reverse = (p * gap).sum(dim=-1, keepdim=True), -(q * gap).sum(dim=-1, keepdim=True)
    distance = (p - q).abs_()
    total = distance.sum(dim=-1, keepdim=True)
    head = distance.mul_(_mark_head(p, head_mass)).sum(dim=-1, keepdim=True)
    share = torch.where(total > 0, head / total.clamp(min=torch.finfo(p.dtype).tiny), 0.5)
    values = (share * forward + (1.0 - share) * reverse).squeeze(-1)
    return values, gap.neg_().add_(1.0).mul_(q).mul_(1.0 - share).sub_(p * share)


def _mark_head(p: torch.Tensor, head_mass: float) -> torch.Tensor:
    """Return 1 for the most likely tokens, up to the one at which their mass reaches `head_mass`, 0 for others."""
    size = p.shape[-1]
    for kept in (-(-size // 8), size):  # a language model's head is short, and ordering whole rows takes long
        ordered = _largest(p, kept)
        reached = ordered.cumsum(dim=-1)
        if bool((reached[..., -1] >= head_mass).all()):
            break
    place = (reached < head_mass).sum(dim=-1, keepdim=True).clamp(max=kept - 1)
    least = ordered.gather(-1, place)
    return torch.ge(p, least, out=torch.empty_like(p))  # numbers, because a bool is slow to multiply by


def _largest(p: torch.Tensor, count: int) -> torch.Tensor:
    """Return the largest values of each row, falling."""
    if p.device.type != "cpu":
        return p.topk(count, dim=-1).values
    # topk also finds their places, and takes ten times as long
    parted = np.partition(p.numpy(), p.shape[-1] - count, axis=-1)[..., -count:]
    return torch.from_numpy(np.sort(parted, axis=-1)).flip(-1)


MEASURES = {
    "forward_kl": forward_kl_with_gradient,
    "reverse_kl": reverse_kl_with_gradient,
    "jsd": jsd_with_gradient,
    "skewed_forward_kl": skewed_forward_kl_with_gradient,
    "skewed_reverse_kl": skewed_reverse_kl_with_gradient,
    "tvd": tvd_with_gradient,
    "adaptive_kl": adaptive_kl_with_gradient,
}
"""The divergences by the names that `distill.loss` takes."""


def apply_measure(measure: Measure, student_logprobs: torch.Tensor, teacher_logprobs: torch.Tensor) -> torch.Tensor:
    """Return a divergence's values with its closed-form gradient by `student_logprobs` attached."""
    return _ClosedForm.apply(student_logprobs, teacher_logprobs, measure)


class _ClosedForm(torch.autograd.Function):
    """Autograd node of a divergence: its closed-form gradient is kept from the forward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        student_logprobs: torch.Tensor,
        teacher_logprobs: torch.Tensor,
        measure: Measure,
    ) -> torch.Tensor:
        """Compute the values and keep the gradient."""
        values, gradient = measure(student_logprobs, teacher_logprobs)
        ctx.save_for_backward(gradient)
        return values

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """Scale the gradient."""
        (gradient,) = ctx.saved_tensors
        return grad_output[..., None] * gradient, None, None


def value_and_derivative(
    measure: Measure, student_logprobs: torch.Tensor, teacher_logprobs: torch.Tensor, probabilities: Probabilities
) -> tuple[torch.Tensor, torch.Tensor]:
    """Call a divergence, with the probabilities at hand if it is one of `MEASURES`, which then need no exponentials."""
    function = measure.func if isinstance(measure, partial) else measure
    if function in MEASURES.values():
        return measure(student_logprobs, teacher_logprobs, probabilities)
    return measure(student_logprobs, teacher_logprobs)


def _gap(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return the difference of log-probabilities."""
    return _finite(left).sub_(_finite(right))


def _finite(logprobs: torch.Tensor) -> torch.Tensor:
    return logprobs.clamp(min=LOWEST)


def _mix(left: torch.Tensor, right: torch.Tensor, share: float) -> torch.Tensor:
    """Return (1 - share) left + share right, never 0, so that it has a logarithm and divides."""
    return torch.lerp(left, right, share).clamp_(min=torch.finfo(left.dtype).tiny)
