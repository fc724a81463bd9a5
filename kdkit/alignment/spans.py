"""Spans: which student and teacher positions of a batch predict the same text, and how to cut them into chunks.

A row is a position that predicts a token. A span is the shortest stretch of text that both tokenizers start and end
together; its first student row and its first teacher row have read the same bytes. With one tokenizer every row is a
span of its own.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch


@dataclass(frozen=True)
class Spans:
    """The rows of both models, span after span, sequence after sequence; on the CPU."""

    student_rows: torch.Tensor
    """int64, `[student_rows]`: positions in the flattened batch, `[B * S]`."""
    teacher_rows: torch.Tensor
    """int64, `[teacher_rows]`: positions in the flattened batch, `[B * T]`."""
    student_starts: torch.Tensor
    """int64, `[N + 1]`: index of each span's first student row; the last one is the number of rows."""
    teacher_starts: torch.Tensor
    """int64, `[N + 1]`: the same for the teacher's rows."""
    same_token: torch.Tensor
    """bool, `[N]`: the span is one token on both sides, and the same entry of the common vocabulary."""
    sequence_starts: torch.Tensor
    """int64, `[B + 1]`: index of each sequence's first span."""

    @property
    def student_lengths(self) -> torch.Tensor:
        """Student rows of each span, int64, `[N]`."""
        return self.student_starts.diff()

    def first(self, count: int) -> "Spans":
        """Return the first sequences alone."""
        ends = self.sequence_starts[: count + 1]
        last = int(ends[-1])
        return Spans(
            self.student_rows[: int(self.student_starts[last])],
            self.teacher_rows[: int(self.teacher_starts[last])],
            self.student_starts[: last + 1],
            self.teacher_starts[: last + 1],
            self.same_token[:last],
            ends,
        )

    def span_of_student_rows(self) -> torch.Tensor:
        """Return the span of every student row, int64, `[student_rows]`."""
        return torch.repeat_interleave(torch.arange(len(self.student_starts) - 1), self.student_lengths)

    def span_of_teacher_rows(self) -> torch.Tensor:
        """Return the span of every teacher row, int64, `[teacher_rows]`."""
        return torch.repeat_interleave(torch.arange(len(self.teacher_starts) - 1), self.teacher_starts.diff())


@dataclass(frozen=True)
class SequenceSpans:
    """The spans of one sequence, by the positions of its rows."""

    num_student: int
    """Student rows: its tokens, less the last one, which predicts nothing."""
    num_teacher: int
    student_starts: np.ndarray
    """int64, `[N]`: first student row of each span."""
    teacher_starts: np.ndarray
    """int64, `[N]`: first teacher row of each span."""
    same_token: np.ndarray
    """bool, `[N]`: see `Spans.same_token`."""


def join_spans(sequences: Sequence[SequenceSpans], student_width: int, teacher_width: int) -> Spans:
    """Put the spans of a batch's sequences one after the other.

    Args:
        student_width: S of the batch, padding included.
        teacher_width: T of the batch.
    """
    student_rows, teacher_rows, student_starts, teacher_starts, same, counts = [], [], [], [], [], [0]
    num_student = num_teacher = 0
    for place, sequence in enumerate(sequences):
        student_rows.append(place * student_width + np.arange(sequence.num_student))
        teacher_rows.append(place * teacher_width + np.arange(sequence.num_teacher))
        student_starts.append(num_student + sequence.student_starts)
        teacher_starts.append(num_teacher + sequence.teacher_starts)
        same.append(sequence.same_token)
        counts.append(len(sequence.student_starts))
        num_student, num_teacher = num_student + sequence.num_student, num_teacher + sequence.num_teacher
    return Spans(
        _tensor(student_rows),
        _tensor(teacher_rows),
        _tensor([*student_starts, [num_student]]),
        _tensor([*teacher_starts, [num_teacher]]),
        torch.from_numpy(np.concatenate(same)),
        torch.from_numpy(np.cumsum(counts)),
    )


def chunk_spans(spans: Spans, size: int) -> Iterator[slice]:
    """Cut the student's rows into chunks of whole spans with at most `size` rows of either model.

    A span with more rows than that is a chunk of its own.
    """
    student, teacher = spans.student_starts.numpy(), spans.teacher_starts.numpy()
    start, stop = 0, len(student) - 1
    while start < stop:
        end = min(
            np.searchsorted(student, student[start] + size, side="right"),
            np.searchsorted(teacher, teacher[start] + size, side="right"),
        )
        end = min(max(int(end) - 1, start + 1), stop)
        yield slice(int(student[start]), int(student[end]))
        start = end


def chunk_sequences(spans: Spans) -> Iterator[slice]:
    """Cut the student's rows into whole sequences."""
    bounds = spans.student_starts[spans.sequence_starts].tolist()
    yield from (slice(a, b) for a, b in pairwise(bounds))


def _tensor(parts: Sequence[np.ndarray | list[int]]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate(parts).astype(np.int64))
