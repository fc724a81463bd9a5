"""How far a student is from a teacher with another tokenizer, span by span.

N spans, V vocabulary; p teacher, q student. A span is the shortest stretch of text that both tokenizers
start and end together; the first row of a span, on either side, has read the same text. The arguments

    student_logits: float, `[student_rows, V_student]`; rows of whole spans, span after span, cropped to the
        tokenizer's size.
    teacher_logits: float, `[teacher_rows, V_teacher]`; the same spans; no gradient flows to them.
    student_spans: int64, `[student_rows]`: span of each row, 0 to N - 1, non-decreasing; every span has a row.
    teacher_spans: int64, `[teacher_rows]`, likewise.
    temperature: softmax temperature of both, > 0; values are multiplied by its square, once.

are the same everywhere. Losses return values per span, `[N]`, in nats (L1 parts: probability), not averaged,
fp32 (float64 for float64). A span's value depends on its own rows only, and is 0 where student and
teacher agree, given one tokenizer. `UserError` where shapes do not fit or temperature <= 0.
"""

from functools import partial
from typing import Literal

import torch

from kdkit.errors import UserError
from kdkit.losses.closed_forms import apply_measure, forward_kl_with_gradient, jsd_with_gradient
from kdkit.losses.divergences import check_temperature
from kdkit.losses.precision import at_least_fp32
from kdkit.losses.span_rows import (
    average_logprobs,
    average_spans,
    check_ids,
    check_pairs,
    count_spans,
    rows_at_edge,
    sum_spans,
)

LIKELIHOOD_MARGIN = 1e-6
"""Keeps a likelihood of 1 below 1, whose binary logarithm is infinite (ALM)."""


def xtoken_p_kl(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    student_spans: torch.Tensor,
    teacher_spans: torch.Tensor,
    projection_ids: torch.Tensor,
    projection_weights: torch.Tensor,
    temperature: float = 1.0,
    kept_teacher_ids: int = 8192,
) -> torch.Tensor:
    """Compute KL(teacher || student projected onto the teacher's vocabulary) of the averages over a span.

    The student's average is that of its probabilities, projected: sum_s W[s, t] mean(q)[s]; the teacher's
    that of its log-probabilities. Both are tempered after that, since a projection adds tokens up, and are
    renormalised over the span's kept tokens: the teacher's likeliest of those that some student token
    projects to, for the student gives the others no probability. With one tokenizer but spans of several
    rows the two averages differ, so the value is 0 at spans of one row only.

    Args:
        projection_ids: int64, `[V_student, 4]`: `Projection.ids`.
        projection_weights: float, `[V_student, 4]`: `Projection.weights`.
        kept_teacher_ids: teacher tokens compared at a span, at least 1; all if there are no more.

    Source: Sreenivas et al. 2026 (X-Token), arXiv:2605.21699, P-KL; there the kept tokens are those likely
    anywhere in the micro-batch, so that a span's value depends on its neighbours, and logits are tempered.

    Example:
        >>> ids, spans = torch.arange(5), torch.arange(2)
        >>> pieces, weights = ids[:, None].expand(5, 4), torch.tensor([[1.0, 0.0, 0.0, 0.0]]).expand(5, 4)
        >>> logits = torch.zeros(2, 5)
        >>> bool(xtoken_p_kl(logits, logits, spans, spans, pieces, weights).abs().max() < 1e-6)
        True
    """
    num_spans = count_spans("xtoken_p_kl", student_logits, teacher_logits, student_spans, teacher_spans)
    check_temperature(temperature)
    if projection_ids.shape != projection_weights.shape or len(projection_ids) != student_logits.shape[1]:
        raise UserError(
            f"xtoken_p_kl: expected projection ids and weights of {student_logits.shape[1]} student tokens, got "
            f"{tuple(projection_ids.shape)} and {tuple(projection_weights.shape)}; build them for these tokenizers"
        )
    check_ids("xtoken_p_kl", "teacher", projection_ids, teacher_logits.shape[1])
    if kept_teacher_ids < 1:
        raise UserError(f"xtoken_p_kl: expected at least 1 kept teacher token, got {kept_teacher_ids}; 8192 is usual")
    weights = at_least_fp32(projection_weights)
    mass = weights.new_zeros(teacher_logits.shape[1]).index_add(0, projection_ids.flatten(), weights.flatten())
    reached = mass.nonzero().squeeze(1)
    teacher = average_spans(at_least_fp32(teacher_logits.detach()[:, reached]), teacher_spans, num_spans)
    means = average_spans(torch.softmax(at_least_fp32(student_logits), dim=-1), student_spans, num_spans)
    student = _project(means, projection_ids, weights, reached, teacher_logits.shape[1])
    if len(reached) > kept_teacher_ids:
        kept = teacher.topk(kept_teacher_ids, dim=-1, sorted=False).indices
        teacher, student = teacher.gather(1, kept), student.gather(1, kept)
    student = student.clamp(min=torch.finfo(student.dtype).tiny).log()
    logprobs = (torch.log_softmax(logits / temperature, dim=-1) for logits in (student, teacher))
    return temperature**2 * apply_measure(forward_kl_with_gradient, *logprobs)


def xtoken_h_kl(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    student_spans: torch.Tensor,
    teacher_spans: torch.Tensor,
    student_ids: torch.Tensor,
    teacher_ids: torch.Tensor,
    temperature: float = 1.0,
    kept_uncommon: int = 8192,
) -> torch.Tensor:
    """Compute sum_common p (log p - log q) - p + q, plus L1 of the sorted probabilities of the other tokens.

    p and q are averages of log-probabilities over the span, renormalised over the whole vocabulary. The
    mass that `kept_uncommon` cuts off is compared too. Without `- p + q` (as published) a student that says
    what the teacher predicts would still be pushed towards the common tokens, whose sum alone may be negative.

    Args:
        student_ids: int64, `[common_tokens]`: common tokens, `Projection.partners`.
        teacher_ids: int64, `[common_tokens]`: their partners, one to one.
        kept_uncommon: largest other probabilities compared one by one; the rest counts as one number.

    Source: Sreenivas et al. 2026 (X-Token), arXiv:2605.21699, H-KL.

    Example:
        >>> ids, spans = torch.arange(5), torch.arange(2)
        >>> xtoken_h_kl(torch.zeros(2, 5), torch.zeros(2, 5), spans, spans, ids, ids)
        tensor([0., 0.])
    """
    num_spans = count_spans("xtoken_h_kl", student_logits, teacher_logits, student_spans, teacher_spans)
    check_temperature(temperature)
    check_pairs("xtoken_h_kl", student_ids, teacher_ids, student_logits.shape[1], teacher_logits.shape[1])
    student_logprobs = average_logprobs(student_logits, student_spans, num_spans, temperature)
    teacher_logprobs = average_logprobs(teacher_logits.detach(), teacher_spans, num_spans, temperature)
    matched = student_logprobs[:, student_ids], teacher_logprobs[:, teacher_ids]
    common = apply_measure(forward_kl_with_gradient, *matched) + matched[0].exp().sum(-1) - matched[1].exp().sum(-1)
    uncommon = _sorted_l1(
        student_logprobs.exp().index_fill(1, student_ids, 0.0),
        teacher_logprobs.exp().index_fill(1, teacher_ids, 0.0),
        min(kept_uncommon, min(student_logits.shape[1], teacher_logits.shape[1]) - len(student_ids)),
    )
    return temperature**2 * (common + uncommon)


def gold(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    student_spans: torch.Tensor,
    teacher_spans: torch.Tensor,
    student_targets: torch.Tensor,
    teacher_targets: torch.Tensor,
    student_ids: torch.Tensor,
    teacher_ids: torch.Tensor,
    temperature: float = 1.0,
    teacher_weight: float = 0.5,
) -> torch.Tensor:
    """Compute w_m JSD over the matched tokens + (1 - w_m) L1 of the sorted others, w_m = common_tokens / V_teacher.

    A span of several rows counts as one prediction, P(v) = prod_{j < last} p(x_j) * p_last(v), with the
    true tokens x_j: unnormalised, the probability of the span's text with another last token. The last
    tokens of both sides may begin at different bytes, in the definition as here.

    Args:
        student_targets: int64, `[student_rows]`: the token that each row predicts.
        teacher_targets: int64, `[teacher_rows]`, likewise.
        student_ids: int64, `[common_tokens]`: matched tokens, `overlap_vocabularies`.
        teacher_ids: int64, `[common_tokens]`: the same tokens in the teacher's vocabulary.
        teacher_weight: w of JSD(w) = w KL(p || m) + (1 - w) KL(q || m), m = w p + (1 - w) q.

    Source: Patino et al. 2025 (GOLD), as corrected in trl#5905 (the last row's distribution, not the first's).

    Example:
        >>> ids, spans = torch.arange(5), torch.arange(2)
        >>> logits, targets = torch.zeros(2, 5), torch.tensor([3, 1])
        >>> gold(logits, logits, spans, spans, targets, targets, ids, ids)
        tensor([0., 0.])
    """
    num_spans = count_spans("gold", student_logits, teacher_logits, student_spans, teacher_spans)
    check_temperature(temperature)
    check_pairs("gold", student_ids, teacher_ids, student_logits.shape[1], teacher_logits.shape[1])
    for side, targets, spans, logits in (
        ("student", student_targets, student_spans, student_logits),
        ("teacher", teacher_targets, teacher_spans, teacher_logits),
    ):
        check_ids("gold", side, targets, logits.shape[1])
        if targets.shape != spans.shape:
            raise UserError(
                f"gold: expected one target per {side} row, {tuple(spans.shape)}, got {tuple(targets.shape)}; "
                "pass the token that each row predicts"
            )
    student_logprobs = _merged_logprobs(student_logits, student_spans, student_targets, num_spans, temperature)
    teacher_logprobs = _merged_logprobs(teacher_logits.detach(), teacher_spans, teacher_targets, num_spans, temperature)
    measure = partial(jsd_with_gradient, teacher_weight=teacher_weight)
    matched = apply_measure(measure, student_logprobs[:, student_ids], teacher_logprobs[:, teacher_ids])
    unmatched = _sorted_l1(
        student_logprobs.exp().index_fill(1, student_ids, 0.0),
        teacher_logprobs.exp().index_fill(1, teacher_ids, 0.0),
        min(student_logits.shape[1], teacher_logits.shape[1]) - len(student_ids),
    )
    share = len(teacher_ids) / teacher_logits.shape[1]
    return temperature**2 * (share * matched + (1.0 - share) * unmatched)


def uld(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    student_spans: torch.Tensor,
    teacher_spans: torch.Tensor,
    temperature: float = 1.0,
    row: Literal["first", "last"] = "first",
) -> torch.Tensor:
    """Compute sum abs(sort p - sort q), the smaller vocabulary padded with 0, at one row of each span.

    Args:
        row: the first row of a span, where both models have read the same text, or the last one.

    Source: Boizard et al. 2024 (ULD), arXiv:2402.12030: the Wasserstein distance of two distributions
    whose outcomes are all equally far apart.

    Example:
        >>> uld(torch.zeros(2, 5), torch.zeros(2, 5), torch.arange(2), torch.arange(2))
        tensor([0., 0.])
    """
    num_spans = count_spans("uld", student_logits, teacher_logits, student_spans, teacher_spans)
    check_temperature(temperature)
    student_rows = rows_at_edge(student_spans, num_spans, row)
    teacher_rows = rows_at_edge(teacher_spans, num_spans, row)
    return temperature**2 * _sorted_l1(
        torch.softmax(at_least_fp32(student_logits[student_rows]) / temperature, dim=-1),
        torch.softmax(at_least_fp32(teacher_logits.detach()[teacher_rows]) / temperature, dim=-1),
        min(student_logits.shape[1], teacher_logits.shape[1]),
    )


def alm(
    student_logprobs: torch.Tensor,
    teacher_logprobs: torch.Tensor,
    student_spans: torch.Tensor,
    teacher_spans: torch.Tensor,
    likelihood_temperature: float = 100.0,
) -> torch.Tensor:
    """Compute the binary KL divergence between P_T^(1/tau) and P_S^(1/tau), the likelihoods of a span's text.

    Binary cross-entropy minus the teacher's own entropy: the same gradient, and 0 at equal likelihoods.
    A margin of 1e-6, taken off log P / tau, keeps log(1 - P) and its gradient finite at P = 1.

    Args:
        student_logprobs: float, `[student_rows]`: log-probability of the true token at each row.
        teacher_logprobs: float, `[teacher_rows]`, likewise.
        likelihood_temperature: tau, > 0; not a softmax temperature, so nothing is multiplied by its square.

    Source: Minixhofer et al. 2025 (ALM), arXiv:2503.20083, the binarised f-divergence.

    Example:
        >>> alm(torch.zeros(2), torch.zeros(2), torch.arange(2), torch.arange(2))
        tensor([0., 0.])
    """
    num_spans = count_spans("alm", student_logprobs, teacher_logprobs, student_spans, teacher_spans, num_dims=1)
    if likelihood_temperature <= 0:
        raise UserError(
            f"alm: expected a likelihood temperature above 0, got {likelihood_temperature}; the paper's is 100"
        )
    student, teacher = (
        (sum_spans(at_least_fp32(logprobs), spans, num_spans) / likelihood_temperature).clamp(min=-1e4)
        - LIKELIHOOD_MARGIN
        for logprobs, spans in ((student_logprobs, student_spans), (teacher_logprobs.detach(), teacher_spans))
    )
    other_student, other_teacher = torch.log(-torch.expm1(student)), torch.log(-torch.expm1(teacher))
    return teacher.exp() * (teacher - student) - torch.expm1(teacher) * (other_teacher - other_student)


def _project(
    probabilities: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor, reached: torch.Tensor, teacher_size: int
) -> torch.Tensor:
    """Return the columns of probabilities W that are not empty, `[N, reached_teacher_tokens]`."""
    columns = reached.new_zeros(teacher_size)
    columns[reached] = torch.arange(len(reached), device=reached.device)
    used = weights > 0
    parts = probabilities[:, used.nonzero()[:, 0]] * weights[used]
    return probabilities.new_zeros(len(probabilities), len(reached)).index_add(1, columns[ids[used]], parts)


def _merged_logprobs(
    logits: torch.Tensor, spans: torch.Tensor, targets: torch.Tensor, num_spans: int, temperature: float
) -> torch.Tensor:
    """Return log P(v) of each span, `[N, V]`: the true tokens before the last row, then that row's distribution."""
    scaled = at_least_fp32(logits) / temperature
    last = rows_at_edge(spans, num_spans, "last")
    true_logprobs = scaled.gather(1, targets[:, None])[:, 0] - scaled.logsumexp(dim=-1)
    before = sum_spans(true_logprobs.index_fill(0, last, 0.0), spans, num_spans)
    return torch.log_softmax(scaled[last], dim=-1) + before[:, None]


def _sorted_l1(student: torch.Tensor, teacher: torch.Tensor, num_ranks: int) -> torch.Tensor:
    """Sum abs(sort p - sort q) over the largest probabilities, plus the difference of what is left: `[N, V]` to `[N]`.

    With as many ranks as the smaller side has outcomes, what is left of the larger one is its difference
    from a padding of zeros: no full sort is needed for that.
    """
    top_student, top_teacher = student.topk(num_ranks).values, teacher.topk(num_ranks).values
    rest = (teacher.sum(dim=-1) - top_teacher.sum(dim=-1)) - (student.sum(dim=-1) - top_student.sum(dim=-1))
    return (top_student - top_teacher).abs().sum(dim=-1) + rest.abs()
