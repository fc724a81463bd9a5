"""How far the student's next-token distribution is from the teacher's.

Letters: b batch, s sequence, v vocabulary, c common vocabulary; p teacher, q student. Divergences
return values per token in nats, fp32, not averaged; `kdkit.teacher.training.masked_mean` reduces them.
"""

import torch

from kdkit.errors import UserError


def forward_kl(student_logits: torch.Tensor, teacher_logits: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Compute KL(teacher || student) per token at a temperature, times temperature squared.

    temperature**2 * sum_v p (log p - log q), with p = softmax(teacher_logits / temperature) and q
    likewise. The square keeps the gradient's size when the temperature changes.

    Args:
        student_logits: float, b s v, already shifted; any float dtype, computed in fp32.
        teacher_logits: float, b s v, the same positions.
        temperature: softmax temperature of both, > 0.

    Returns:
        fp32, b s, in nats; 0 where both distributions are equal.

    Raises:
        UserError: the shapes differ, or temperature <= 0.

    Source: Hinton et al. 2015, arXiv:1503.02531, sec. 2.
    """
    if student_logits.shape != teacher_logits.shape:
        raise UserError(
            f"forward_kl: expected logits of one shape, got a student with {tuple(student_logits.shape)} and a teacher "
            f"with {tuple(teacher_logits.shape)}; different vocabularies need distill.loss=overlap_kl"
        )
    _check_temperature(temperature)
    student_logprobs = torch.log_softmax(student_logits.float() / temperature, dim=-1)
    teacher_logprobs = torch.log_softmax(teacher_logits.float() / temperature, dim=-1)
    return temperature**2 * _kl_of_logprobs(student_logprobs, teacher_logprobs)


def overlap_kl(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    student_ids: torch.Tensor,
    teacher_ids: torch.Tensor,
    temperature: float = 1.0,
) -> torch.Tensor:
    """Compute `forward_kl` over the tokens that both vocabularies spell with the same bytes.

    Both distributions are renormalised over the c common tokens (softmax of the sliced logits).

    Args:
        student_logits: float, ... v_student, at positions whose text prefix the teacher's share.
        teacher_logits: float, ... v_teacher, at those positions, in the same order.
        student_ids: int64, c: the common tokens in the student's vocabulary.
        teacher_ids: int64, c: the same tokens in the teacher's.
        temperature: softmax temperature of both, > 0.

    Returns:
        fp32, the shape of the positions, in nats, times temperature squared.

    Source: Zhang et al., KDFlow (SimpleCTKD); see also Boizard et al. 2024, arXiv:2402.12030, for
    the problem.
    """
    return forward_kl(student_logits[..., student_ids], teacher_logits[..., teacher_ids], temperature)


def projected_kl(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    student_groups: torch.Tensor | None,
    teacher_groups: torch.Tensor | None,
    temperature: float = 1.0,
) -> torch.Tensor:
    """Compute KL(teacher || student) between what both say about the beginning of the next token.

    The finer tokenizer's g tokens are the events. A token of the other one stands for the first event
    that its text is cut into: P_g = sum of p over such tokens, and temperature**2 * sum_g P_g (log P_g -
    log Q_g). Unlike `overlap_kl` it drops no probability: what the teacher gives to " function" counts
    for the student's " fun".

    Args:
        student_logits: float, ... v_student, at positions whose text prefix the teacher's share.
        teacher_logits: float, ... v_teacher, at those positions, in the same order.
        student_groups: int64, v_student: the event of each student token, g = v_teacher for none; None:
            the student's tokens are the events.
        teacher_groups: the same for the teacher; one of the two is None.
        temperature: softmax temperature of both, > 0.

    Returns:
        fp32, the shape of the positions, in nats, times temperature squared.

    Source: ours; the coarse form of the projection of X-Token, arXiv:2605.21699, which spreads a token
    over several others with fixed weights.
    """
    _check_temperature(temperature)
    student_logprobs = torch.log_softmax(student_logits.float() / temperature, dim=-1)
    teacher_logprobs = torch.log_softmax(teacher_logits.float() / temperature, dim=-1)
    if teacher_groups is not None:
        teacher_logprobs = _sum_groups(teacher_logprobs, teacher_groups, student_logits.shape[-1])
    if student_groups is not None:
        student_logprobs = _sum_groups(student_logprobs, student_groups, teacher_logits.shape[-1])
    return temperature**2 * _kl_of_logprobs(student_logprobs, teacher_logprobs)


def _kl_of_logprobs(student_logprobs: torch.Tensor, teacher_logprobs: torch.Tensor) -> torch.Tensor:
    """Sum p (log p - log q) over the last dimension."""
    # log p may be -inf where p is 0, and 0 * inf is NaN; the limit of p log p is 0
    return (teacher_logprobs.exp() * (teacher_logprobs.clamp(min=-1e4) - student_logprobs.clamp(min=-1e4))).sum(dim=-1)


def _sum_groups(logprobs: torch.Tensor, groups: torch.Tensor, num_groups: int) -> torch.Tensor:
    """Return the log of the probability of each group, ... g; what is in no group is shared out among all."""
    sums = logprobs.new_zeros(*logprobs.shape[:-1], num_groups + 1).index_add(-1, groups, logprobs.exp())
    # a group that fp32 gives nothing costs what the smallest number costs, not infinity
    kept = sums[..., :num_groups].clamp(min=torch.finfo(torch.float32).tiny)
    return kept.log() - kept.sum(dim=-1, keepdim=True).log()


def _check_temperature(temperature: float) -> None:
    """Refuse a temperature that no softmax has."""
    if temperature <= 0:
        raise UserError(
            f"distill.temperature: expected a number above 0, got {temperature}; 1 leaves logits as they are"
        )
