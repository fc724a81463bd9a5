"""Rows of spans: checked, counted, summed and averaged, for losses that compare two tokenizers span by span."""

from typing import Literal

import torch

from kdkit.errors import UserError
from kdkit.losses.precision import at_least_fp32


def count_spans(
    function: str,
    student_rows: torch.Tensor,
    teacher_rows: torch.Tensor,
    student_spans: torch.Tensor,
    teacher_spans: torch.Tensor,
    num_dims: int = 2,
) -> int:
    """Return the number of spans; refuse rows and spans that do not fit together."""
    counts = []
    for side, rows, spans in (("student", student_rows, student_spans), ("teacher", teacher_rows, teacher_spans)):
        if not rows.is_floating_point() or spans.is_floating_point():
            raise UserError(
                f"{function}: expected {side} rows of a float dtype and integer span numbers, got {rows.dtype} and "
                f"{spans.dtype}; pass logits first, spans after them"
            )
        if rows.dim() != num_dims or spans.shape != rows.shape[:1]:
            raise UserError(
                f"{function}: expected {side} rows of {num_dims} dimensions and a span number for each, got shapes "
                f"{tuple(rows.shape)} and {tuple(spans.shape)}; flatten the batch and pass the spans of these rows"
            )
        steps = spans.diff(prepend=spans[:1])
        if len(spans) and not bool(((steps == 0) | (steps == 1)).all() & (spans[0] == 0)):
            raise UserError(
                f"{function}: expected {side} spans 0, 1, ... in order and without gaps, got {spans.tolist()[:8]}...; "
                "number the spans of a chunk from 0"
            )
        counts.append(int(spans[-1]) + 1 if len(spans) else 0)
    if counts[0] != counts[1]:
        raise UserError(
            f"{function}: expected the same spans on both sides, got {counts[0]} of the student and {counts[1]} of "
            "the teacher; pass whole spans"
        )
    return counts[0]


def check_ids(function: str, side: str, ids: torch.Tensor, vocab_size: int) -> None:
    """Refuse ids that a vocabulary does not have."""
    if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < vocab_size:
        raise UserError(
            f"{function}: expected {side} ids from 0 to {vocab_size - 1}, the width of its logits, got "
            f"{int(ids.min())} to {int(ids.max())}; pass the ids of the {side}'s own tokenizer"
        )


def check_pairs(
    function: str, student_ids: torch.Tensor, teacher_ids: torch.Tensor, student_size: int, teacher_size: int
) -> None:
    """Refuse lists of common tokens that do not pair up."""
    check_ids(function, "student", student_ids, student_size)
    check_ids(function, "teacher", teacher_ids, teacher_size)
    if student_ids.shape != teacher_ids.shape or student_ids.dim() != 1:
        raise UserError(
            f"{function}: expected one teacher id per student id, got shapes {tuple(student_ids.shape)} and "
            f"{tuple(teacher_ids.shape)}; pass both lists of the same pairs"
        )


def rows_at_edge(spans: torch.Tensor, num_spans: int, row: Literal["first", "last"]) -> torch.Tensor:
    """Return the index of the first or last row of each span, `[N]`."""
    numbers = torch.arange(num_spans, device=spans.device)
    return torch.searchsorted(spans, numbers) if row == "first" else torch.searchsorted(spans, numbers, right=True) - 1


def sum_spans(values: torch.Tensor, spans: torch.Tensor, num_spans: int) -> torch.Tensor:
    """Add up the rows of each span: `[rows, ...]` to `[N, ...]`."""
    return values.new_zeros(num_spans, *values.shape[1:]).index_add(0, spans, values)


def average_spans(values: torch.Tensor, spans: torch.Tensor, num_spans: int) -> torch.Tensor:
    """Average the rows of each span: `[rows, V]` to `[N, V]`."""
    counts = torch.bincount(spans, minlength=num_spans)
    return sum_spans(values, spans, num_spans) / counts[:, None]


def average_logprobs(logits: torch.Tensor, spans: torch.Tensor, num_spans: int, temperature: float) -> torch.Tensor:
    """Average log-probabilities over each span, `[N, V]`, and renormalise: the rows' normalisers drop out of it."""
    return torch.log_softmax(average_spans(at_least_fp32(logits) / temperature, spans, num_spans), dim=-1)
