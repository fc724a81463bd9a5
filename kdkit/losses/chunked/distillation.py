"""A distillation loss from hidden states, for anyone's training loop: the logits never exist all at once."""

import torch

from kdkit.errors import UserError
from kdkit.losses.chunked.blend import QueriedRows, blend, dense_divergence, weighted_cross_entropy
from kdkit.losses.chunked.dense_blend import dense_blend
from kdkit.losses.chunked.engine import ChunkLoss, Head, chunked_loss, even_chunks, rows_per_chunk
from kdkit.losses.chunked.events import TokenEvents
from kdkit.losses.chunked.signals import DenseSignals, check_teacher
from kdkit.losses.closed_forms import MEASURES, Measure
from kdkit.losses.cross_entropy import IGNORE_INDEX, count_items, shift_labels
from kdkit.losses.divergences import check_temperature


def chunked_distillation_loss(
    student_hidden: torch.Tensor,
    student_head: torch.nn.Linear | Head,
    teacher_hidden: torch.Tensor,
    teacher_head: torch.nn.Linear | Head,
    labels: torch.Tensor,
    kd_ratio: float = 0.5,
    temperature: float = 1.0,
    divergence: str | Measure = "forward_kl",
    num_items_in_batch: torch.Tensor | int | None = None,
) -> torch.Tensor:
    """Compute (1 - kd_ratio) * cross-entropy + kd_ratio * temperature**2 * divergence, averaged over the labels.

    Some rows at a time are projected to logits, compared and differentiated, so memory does not grow with S * V.
    Both models have one tokenizer; for two see `kdkit.alignment.align_texts`.

    Args:
        student_hidden: float, `[B, S, H_student]`: what the student's head reads, with a graph.
        student_head: `student.lm_head`; a `Head` for models that scale or cap their logits (`find_head(model)`).
        teacher_hidden: float, `[B, S, H_teacher]`: the teacher's, at the same positions; no gradient flows to it.
        teacher_head: `teacher.lm_head`.
        labels: int64, `[B, S]`, as transformers takes them: not shifted, -100 where nothing is learned.
        kd_ratio: share of the divergence, 0 to 1.
        temperature: softmax temperature of both models in the divergence.
        divergence: a name that `distill.loss` takes, or a function from log-probabilities of student and teacher,
            `[rows, V]` each, to values `[rows]` and their derivative by the student's log-probabilities.
        num_items_in_batch: what to divide by: tokens of the whole optimizer step; None: the labels of this batch.

    Returns:
        fp32, a scalar with a graph to `student_hidden` and the student's head.

    Raises:
        UserError: shapes, ids, dtypes or vocabularies that do not fit, an unknown divergence, a ratio out of range.

    Source: the chunking of Wijmans et al. 2024 (Cut Cross-Entropy), arXiv:2411.09009; the blend of Hinton et al. 2015.

    Example:
        >>> student, teacher = torch.nn.Linear(4, 9, bias=False), torch.nn.Linear(8, 9, bias=False)
        >>> labels = torch.tensor([[1, 2, 3]])
        >>> loss = chunked_distillation_loss(torch.randn(1, 3, 4), student, torch.randn(1, 3, 8), teacher, labels)
        >>> loss.backward()
    """
    heads = _as_head(student_head), _as_head(teacher_head)
    _check(student_hidden, teacher_hidden, labels, heads, kd_ratio)
    check_temperature(temperature)
    measure = _measure_of(divergence)
    targets = shift_labels(labels).flatten()
    rows = (targets != IGNORE_INDEX).nonzero().squeeze(1)
    num_items = count_items(len(rows), num_items_in_batch)
    if not len(rows):
        return student_hidden.sum() * 0.0
    hidden = student_hidden.flatten(0, 1).index_select(0, rows)
    taught = teacher_hidden.detach().flatten(0, 1).index_select(0, rows.to(teacher_hidden.device))
    signals = DenseSignals(taught, heads[1], hidden.device, targets[rows], torch.arange(len(rows)))
    chunk_loss = _blend_rows(signals, num_items, kd_ratio, temperature, measure)
    chunks = even_chunks(len(rows), rows_per_chunk(heads[0].vocab_size, hidden.device))
    loss, terms = chunked_loss(hidden, heads[0], chunk_loss, chunks)
    check_teacher(signals, terms)
    return loss


def _blend_rows(
    signals: DenseSignals, num_items: torch.Tensor | float, kd_ratio: float, temperature: float, measure: Measure
) -> ChunkLoss:
    """Make the chunk loss of rows that all have a label: cross-entropy and the divergence from the teacher."""
    targets, every = signals.targets, torch.arange(len(signals.targets))
    raw = torch.ones(len(targets), device=targets.device) / num_items
    queried = QueriedRows(every, every.to(targets.device), raw * kd_ratio, 1.0 / num_items)
    ce = targets, raw * (1.0 - kd_ratio), raw
    if temperature == 1.0:
        return dense_blend([signals], queried, *ce, TokenEvents(), measure)
    teacher = dense_divergence(signals, queried, TokenEvents(), TokenEvents(), measure, temperature)
    return blend(teacher, weighted_cross_entropy(*ce))


def _as_head(head: torch.nn.Linear | Head) -> Head:
    """Return a linear layer as a head."""
    return head if isinstance(head, Head) else Head(head.weight, len(head.weight), bias=head.bias)


def _measure_of(divergence: str | Measure) -> Measure:
    """Return a divergence by its name, or the function that was given."""
    if not isinstance(divergence, str):
        return divergence
    if divergence not in MEASURES:
        raise UserError(
            f"chunked_distillation_loss: expected divergence to be one of {', '.join(MEASURES)}, got {divergence!r}; "
            "or pass a function"
        )
    return MEASURES[divergence]


def _check(
    student_hidden: torch.Tensor,
    teacher_hidden: torch.Tensor,
    labels: torch.Tensor,
    heads: tuple[Head, Head],
    kd_ratio: float,
) -> None:
    """Refuse tensors that do not belong together.

    Raises:
        UserError: naming both shapes, sizes or dtypes.
    """
    name = "chunked_distillation_loss"
    shapes = tuple(student_hidden.shape), tuple(teacher_hidden.shape), tuple(labels.shape)
    if student_hidden.dim() != 3 or teacher_hidden.dim() != 3 or not shapes[0][:2] == shapes[1][:2] == shapes[2]:
        raise UserError(
            f"{name}: expected hidden states [B, S, H] and labels [B, S] of one B and S, got a student with "
            f"{shapes[0]}, a teacher with {shapes[1]} and labels with {shapes[2]}; pass the last hidden states"
        )
    for side, hidden, head in zip(("student", "teacher"), (student_hidden, teacher_hidden), heads, strict=True):
        if hidden.shape[-1] != head.weight.shape[1]:
            raise UserError(
                f"{name}: expected hidden states as wide as the {side}'s head, got {hidden.shape[-1]} and a head for "
                f"{head.weight.shape[1]}; pass the last hidden state and the head of one model"
            )
    if labels.is_floating_point() or not (student_hidden.is_floating_point() and teacher_hidden.is_floating_point()):
        raise UserError(
            f"{name}: expected floats as hidden states and integers as labels, got {student_hidden.dtype}, "
            f"{teacher_hidden.dtype} and {labels.dtype}; swap them"
        )
    if heads[0].vocab_size != heads[1].vocab_size:
        raise UserError(
            f"{name}: expected heads of one vocabulary, got {heads[0].vocab_size} entries of the student and "
            f"{heads[1].vocab_size} of the teacher; for padded heads pass Head(lm_head.weight, len(tokenizer)), for "
            "two tokenizers see kdkit.alignment.align_texts"
        )
    if labels.numel() and int(labels.max()) >= heads[0].vocab_size:
        raise UserError(
            f"{name}: expected labels below the vocabulary's {heads[0].vocab_size}, got {int(labels.max())}; pass the "
            "labels of this tokenizer"
        )
    if not 0.0 <= kd_ratio <= 1.0:
        raise UserError(f"{name}: expected kd_ratio from 0 to 1, got {kd_ratio}; 0.5 weighs both alike")
