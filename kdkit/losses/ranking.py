"""Losses of scores: how a student scores the documents of a query's list, against how its teacher scores them.

B queries, L documents a list, the relevant one first. Scores are in any unit that both sides share; a document whose
teacher's score is NaN is not there. Computed in fp32, also under autocast (fp64 stays).
"""

import torch

from kdkit.errors import UserError
from kdkit.losses.precision import at_least_fp32


def margin_mse(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Compute the mean squared difference of both models' margins between a list's first document and each other.

    Args:
        student: float, `[B, L]`.
        teacher: float, `[B, L]`; NaN: no document.

    Returns:
        A scalar, the mean over all documents that are there, the first ones aside; 0 where there are none.

    Source: Hofstatter et al. 2020, arXiv:2010.02666; MarginMSELoss of sentence-transformers.

    Example:
        >>> float(margin_mse(torch.tensor([[1.0, 0.5]]), torch.tensor([[9.0, 8.5]])))
        0.0
    """
    student, teacher, is_there = _checked("margin_mse", student, teacher)
    margins = [scores[:, :1] - scores[:, 1:] for scores in (student, teacher)]
    counted = is_there[:, 1:] & is_there[:, :1]
    errors = torch.where(counted, margins[0] - margins[1], 0.0).square()
    return errors.sum() / counted.sum().clamp(min=1)


def list_kl(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """Compute KL(teacher || student) of the softmax over each list, in nats, the mean over the lists.

    Args:
        student: float, `[B, L]`.
        teacher: float, `[B, L]`; NaN: no document.
        temperature: that both sides' scores are divided by; the loss is not multiplied by its square.

    Source: DistillKLDivLoss of sentence-transformers, which multiplies by the square of the temperature.

    Example:
        >>> float(list_kl(torch.tensor([[1.0, 0.5]]), torch.tensor([[9.0, 8.5]]), 0.1))
        0.0
    """
    student, teacher, is_there = _checked("list_kl", student, teacher)
    smallest = torch.finfo(student.dtype).min
    of_student, of_teacher = (
        (scores / temperature).masked_fill(~is_there, smallest).log_softmax(dim=-1) for scores in (student, teacher)
    )
    terms = torch.where(is_there, of_teacher.exp() * (of_teacher - of_student), 0.0)
    return terms.sum() / max(len(terms), 1)


def _checked(
    function: str, student: torch.Tensor, teacher: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return both sides in fp32, and which documents are there; refuse scores of other lists."""
    if student.shape != teacher.shape or student.ndim != 2:
        raise UserError(
            f"{function}: expected scores [B, L] of the same lists, got {tuple(student.shape)} of the student and "
            f"{tuple(teacher.shape)} of the teacher; pass one row per query, in one order"
        )
    is_there = ~teacher.isnan()
    return at_least_fp32(student), at_least_fp32(teacher).nan_to_num(0.0), is_there
