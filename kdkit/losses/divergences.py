"""Divergences of a student's next-token distribution from a teacher's, on logits of one vocabulary.

p = softmax(teacher_logits / temperature), q = softmax(student_logits / temperature). Every function takes the student
first, returns values per row in nats, times temperature squared, and is differentiated by ordinary autograd. Nothing
here averages: write `forward_kl(student_logits, teacher_logits)[mask].mean()`.
"""

from functools import partial

import torch

from kdkit.errors import UserError
from kdkit.losses.closed_forms import (
    Measure,
    adaptive_kl_with_gradient,
    apply_measure,
    forward_kl_with_gradient,
    jsd_with_gradient,
    reverse_kl_with_gradient,
    skewed_forward_kl_with_gradient,
    skewed_reverse_kl_with_gradient,
    tvd_with_gradient,
)
from kdkit.losses.precision import at_least_fp32


def forward_kl(student_logits: torch.Tensor, teacher_logits: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Compute forward KL, KL(teacher || student), per row: the student covers all that is possible for the teacher.

    sum p (log p - log q); gradient by the student's logits q - p (times temperature).

    Args:
        student_logits: float, `[..., V]`, already shifted.
        teacher_logits: float, `[..., V]`, the same positions; no gradient flows to it.
        temperature: softmax temperature of both, above 0.

    Returns:
        fp32, `[...]`, in nats, times temperature squared.

    Raises:
        UserError: the shapes differ, logits that are no floats, temperature <= 0.

    Source: Hinton et al. 2015, arXiv:1503.02531, sec. 2.

    Example:
        >>> student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 0.0]])
        >>> float(forward_kl(student, teacher))
        0.0
    """
    return divergence(student_logits, teacher_logits, forward_kl_with_gradient, temperature)


def reverse_kl(student_logits: torch.Tensor, teacher_logits: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Compute reverse KL, KL(student || teacher), per row: the student keeps to what is likely for the teacher.

    sum q (log q - log p).

    Args:
        student_logits: float, `[..., V]`, already shifted.
        teacher_logits: float, `[..., V]`, the same positions; no gradient flows to it.
        temperature: softmax temperature of both, above 0.

    Returns:
        fp32, `[...]`, in nats, times temperature squared.

    Raises:
        UserError: the shapes differ, logits that are no floats, temperature <= 0.

    Source: Gu et al. 2023 (MiniLLM), arXiv:2306.08543, eq. 1.

    Example:
        >>> student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 0.0]])
        >>> float(reverse_kl(student, teacher))
        0.0
    """
    return divergence(student_logits, teacher_logits, reverse_kl_with_gradient, temperature)


def jsd(
    student_logits: torch.Tensor, teacher_logits: torch.Tensor, temperature: float = 1.0, teacher_weight: float = 0.5
) -> torch.Tensor:
    """Compute the generalised Jensen-Shannon divergence per row, between forward and reverse KL.

    w KL(p || m) + (1 - w) KL(q || m), m = w p + (1 - w) q.

    Args:
        student_logits: float, `[..., V]`, already shifted.
        teacher_logits: float, `[..., V]`, the same positions; no gradient flows to it.
        temperature: softmax temperature of both, above 0.
        teacher_weight: w, between 0 and 1; small values weigh like forward KL, large ones like reverse KL.

    Returns:
        fp32, `[...]`, in nats, times temperature squared.

    Raises:
        UserError: the shapes differ, logits that are no floats, temperature <= 0, or an option out of range.

    Source: Agarwal et al. 2023 (GKD), arXiv:2306.13649, eq. 1.

    Example:
        >>> student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 0.0]])
        >>> float(jsd(student, teacher))
        0.0
    """
    check_share("jsd", "teacher_weight", teacher_weight)
    return divergence(
        student_logits, teacher_logits, partial(jsd_with_gradient, teacher_weight=teacher_weight), temperature
    )


def skewed_forward_kl(
    student_logits: torch.Tensor, teacher_logits: torch.Tensor, temperature: float = 1.0, skew: float = 0.1
) -> torch.Tensor:
    """Compute KL from the teacher to a mixture of both, per row.

    KL(p || skew p + (1 - skew) q).

    Args:
        student_logits: float, `[..., V]`, already shifted.
        teacher_logits: float, `[..., V]`, the same positions; no gradient flows to it.
        temperature: softmax temperature of both, above 0.
        skew: share of the teacher in the mixture, between 0 and 1.

    Returns:
        fp32, `[...]`, in nats, times temperature squared.

    Raises:
        UserError: the shapes differ, logits that are no floats, temperature <= 0, or an option out of range.

    Source: Ko et al. 2024 (DistiLLM), arXiv:2402.03898, eq. 4.

    Example:
        >>> student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 0.0]])
        >>> float(skewed_forward_kl(student, teacher))
        0.0
    """
    check_share("skewed_forward_kl", "skew", skew)
    return divergence(student_logits, teacher_logits, partial(skewed_forward_kl_with_gradient, skew=skew), temperature)


def skewed_reverse_kl(
    student_logits: torch.Tensor, teacher_logits: torch.Tensor, temperature: float = 1.0, skew: float = 0.1
) -> torch.Tensor:
    """Compute KL from the student to a mixture of both, per row.

    KL(q || (1 - skew) p + skew q).

    Args:
        student_logits: float, `[..., V]`, already shifted.
        teacher_logits: float, `[..., V]`, the same positions; no gradient flows to it.
        temperature: softmax temperature of both, above 0.
        skew: share of the student in the mixture, between 0 and 1.

    Returns:
        fp32, `[...]`, in nats, times temperature squared.

    Raises:
        UserError: the shapes differ, logits that are no floats, temperature <= 0, or an option out of range.

    Source: Ko et al. 2024 (DistiLLM), arXiv:2402.03898, eq. 5.

    Example:
        >>> student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 0.0]])
        >>> float(skewed_reverse_kl(student, teacher))
        0.0
    """
    check_share("skewed_reverse_kl", "skew", skew)
    return divergence(student_logits, teacher_logits, partial(skewed_reverse_kl_with_gradient, skew=skew), temperature)


def total_variation(
    student_logits: torch.Tensor, teacher_logits: torch.Tensor, temperature: float = 1.0
) -> torch.Tensor:
    """Compute the total variation distance per row, between 0 and temperature squared.

    1/2 sum abs(p - q).

    Args:
        student_logits: float, `[..., V]`, already shifted.
        teacher_logits: float, `[..., V]`, the same positions; no gradient flows to it.
        temperature: softmax temperature of both, above 0.

    Returns:
        fp32, `[...]`, in nats, times temperature squared.

    Raises:
        UserError: the shapes differ, logits that are no floats, temperature <= 0.

    Source: Wen et al. 2023 (f-distill), arXiv:2307.15190, sec. 3.

    Example:
        >>> student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 0.0]])
        >>> float(total_variation(student, teacher))
        0.0
    """
    return divergence(student_logits, teacher_logits, tvd_with_gradient, temperature)


def adaptive_kl(
    student_logits: torch.Tensor, teacher_logits: torch.Tensor, temperature: float = 1.0, head_mass: float = 0.5
) -> torch.Tensor:
    """Compute a mean of forward and reverse KL, weighed by where the two distributions differ, per row.

    See `closed_forms.adaptive_kl_with_gradient`.

    Args:
        student_logits: float, `[..., V]`, already shifted.
        teacher_logits: float, `[..., V]`, the same positions; no gradient flows to it.
        temperature: softmax temperature of both, above 0.
        head_mass: cumulative teacher probability at which its head ends.

    Returns:
        fp32, `[...]`, in nats, times temperature squared.

    Raises:
        UserError: the shapes differ, logits that are no floats, temperature <= 0, or an option out of range.

    Source: Wu et al. 2024 (AKL), arXiv:2404.02657, sec. 4.

    Example:
        >>> student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 0.0]])
        >>> float(adaptive_kl(student, teacher))
        0.0
    """
    check_share("adaptive_kl", "head_mass", head_mass)
    return divergence(
        student_logits, teacher_logits, partial(adaptive_kl_with_gradient, head_mass=head_mass), temperature
    )


def divergence(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    measure: Measure = forward_kl_with_gradient,
    temperature: float = 1.0,
) -> torch.Tensor:
    """Compute temperature**2 * D(softmax(teacher / temperature), softmax(student / temperature)) per row.

    The square keeps the gradient's size when the temperature changes (Hinton et al. 2015, sec. 2).

    Args:
        student_logits: float, `[..., V]`, already shifted; any float dtype, computed in fp32 or wider.
        teacher_logits: float, `[..., V]`, the same positions; no gradient flows to it.
        measure: a closed form, such as those of `closed_forms`, or your own.
        temperature: softmax temperature of both, > 0.

    Returns:
        fp32, `[...]`, in nats; 0 where both distributions are equal.

    Raises:
        UserError: the shapes differ, logits that are no floats, or temperature <= 0.
    """
    check_logits(student_logits, teacher_logits)
    check_temperature(temperature)
    student_logprobs = torch.log_softmax(at_least_fp32(student_logits) / temperature, dim=-1)
    teacher_logprobs = torch.log_softmax(at_least_fp32(teacher_logits.detach()) / temperature, dim=-1)
    return temperature**2 * apply_measure(measure, student_logprobs, teacher_logprobs)


def check_logits(student_logits: torch.Tensor, teacher_logits: torch.Tensor) -> None:
    """Refuse logits that cannot be compared row by row.

    Raises:
        UserError: other shapes, or a dtype that is no float.
    """
    if not (student_logits.is_floating_point() and teacher_logits.is_floating_point()):
        raise UserError(
            f"divergence: expected logits of a float dtype, got a student of {student_logits.dtype} and a teacher of "
            f"{teacher_logits.dtype}; pass model(...).logits, not token ids"
        )
    if student_logits.shape != teacher_logits.shape:
        raise UserError(
            f"divergence: expected logits of one shape, got a student with {tuple(student_logits.shape)} and a teacher "
            f"with {tuple(teacher_logits.shape)}; different vocabularies need a cross-tokenizer loss "
            "such as distill.loss=projected_kl"
        )


def check_share(function: str, option: str, value: float) -> None:
    """Refuse a share that is not strictly between 0 and 1.

    Raises:
        UserError: it is not.
    """
    if not 0.0 < value < 1.0:
        raise UserError(
            f"{function}: expected {option} between 0 and 1, got {value}; the limits are forward or reverse KL"
        )


def check_temperature(temperature: float) -> None:
    """Refuse a temperature that no softmax has.

    Raises:
        UserError: temperature <= 0.
    """
    if temperature <= 0:
        raise UserError(
            f"distill.temperature: expected a number above 0, got {temperature}; 1 leaves logits as they are"
        )
