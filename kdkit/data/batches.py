"""Batches of windows as tensors.

Rows are padded on the right and no attention mask is built: under causal attention no real position
ever sees the padding after it, and padded positions are masked out of every loss by their labels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from kdkit.alignment.spans import Spans
from kdkit.data.windows import PAD, Windows
from kdkit.losses.cross_entropy import IGNORE_INDEX, shift_labels

Side = Literal["student", "teacher"]


@dataclass(frozen=True)
class WindowCollator:
    """Turn row numbers of windows into a batch; the data set itself is `range(len(windows))`."""

    windows: Windows
    side: Side = "student"
    """Whose tokens are `input_ids` and `labels`."""
    with_teacher: bool = False
    """Also deliver the teacher's ids and the spans of both."""
    signals: Callable[[list[int]], dict[str, torch.Tensor]] | None = None
    """Also deliver what this returns for the row numbers, such as a cache's `CachedSignals.read`."""

    def __call__(self, rows: list[int]) -> dict[str, Any]:
        """Build a batch.

        Returns:
            `input_ids` and `labels`, int64, `[B, S]`, not shifted; ignored are the labels of position 0, a start
            token that nothing predicts, and of what is not in the loss (see `Windows.in_loss`). `windows` are
            the row numbers, `lengths` the tokens of each, lists. With `with_teacher` also `teacher_input_ids`,
            `[B, T]`, `spans` (see `Spans`) and
            `counted` (see `counted_rows`); where not all tokens are labels also `teacher_counted`, bool,
            `[teacher_rows]`; with `signals` what it returns.
        """
        input_ids = _trim(self._ids[rows])
        is_label = self.windows.labels(rows, self.side == "teacher")[:, : input_ids.shape[1]]
        labels = input_ids.masked_fill(~torch.from_numpy(is_label), IGNORE_INDEX)
        batch = {"input_ids": input_ids, "labels": labels, "windows": list(rows), "lengths": self.lengths(rows)}
        if self.with_teacher:
            batch["teacher_input_ids"] = _trim(self.windows.teacher_ids[rows])
            widths = input_ids.shape[1], batch["teacher_input_ids"].shape[1]
            spans = find_spans(self.windows, rows, *widths)
            batch |= {"spans": spans, "counted": counted_rows(labels, spans)}
            if self.windows.in_loss.shape[1]:
                is_label = self.windows.labels(rows, of_teacher=True)[:, 1 : widths[1]]
                batch["teacher_counted"] = is_label[np.asarray(self.windows.teacher_ids[rows])[:, 1 : widths[1]] != PAD]
        if self.signals is not None:
            batch |= self.signals(rows)
        return batch

    def lengths(self, rows: list[int]) -> list[int]:
        """Return the tokens of each sequence, the start token included."""
        return (self._ids[rows] != PAD).sum(axis=1).tolist()

    @property
    def _ids(self) -> np.ndarray:
        return self.windows.student_ids if self.side == "student" else self.windows.teacher_ids


def counted_rows(labels: torch.Tensor, spans: Spans) -> np.ndarray:
    """Return which student rows are in the loss, bool, `[student_rows]`.

    An array, since Trainer moves tensors to the student's device, and where a loss is cut into chunks the host would
    have to wait for them. Whoever masks labels of a batch counts anew.

    Args:
        labels: int64, `[B, S]`, on the CPU.
    """
    return (shift_labels(labels).flatten()[spans.student_rows] != IGNORE_INDEX).numpy()


def _trim(ids: np.ndarray) -> torch.Tensor:
    """Cut rows to the longest one; return ids with padding as 0."""
    is_token = ids != PAD
    longest = int(is_token.sum(axis=1).max())
    return torch.from_numpy(np.where(is_token, ids, 0)[:, :longest].astype(np.int64))


def longest_sequence(side: Side, *parts: Windows) -> int:
    """Return the tokens of the longest sequence in some windows, the start token included; 0 for none."""
    ids = [part.student_ids if side == "student" else part.teacher_ids for part in parts]
    return max(int((each != PAD).sum(axis=1).max(initial=0)) for each in ids)


def find_spans(windows: Windows, rows: list[int], student_width: int, teacher_width: int) -> Spans:
    """Collect the spans of windows that stand in one batch.

    Args:
        rows: row numbers of the windows.
        student_width: S of the batch, padding included.
        teacher_width: T of the batch.
    """
    # the last token predicts nothing
    num_student, num_teacher = (
        (ids[rows] != PAD).sum(axis=1) - 1 for ids in (windows.student_ids, windows.teacher_ids)
    )
    positions = np.array(windows.teacher_positions[rows])
    positions[np.arange(positions.shape[1]) >= num_student[:, None]] = PAD
    places, starts = np.nonzero(positions != PAD)
    student_ends, teacher_ends = num_student.cumsum(), num_teacher.cumsum()
    student_starts = (student_ends - num_student)[places] + starts
    teacher_starts = (teacher_ends - num_teacher)[places] + positions[places, starts]
    return Spans(
        student_rows=_rows_of(num_student, student_width),
        teacher_rows=_rows_of(num_teacher, teacher_width),
        student_starts=torch.from_numpy(np.append(student_starts, student_ends[-1])),
        teacher_starts=torch.from_numpy(np.append(teacher_starts, teacher_ends[-1])),
        same_token=torch.from_numpy(windows.same_token[rows][places, starts]),
        sequence_starts=torch.from_numpy(np.append(0, np.bincount(places, minlength=len(rows)).cumsum())),
    )


def _rows_of(counts: np.ndarray, width: int) -> torch.Tensor:
    """Return the first places of each row of a batch, counted through the flattened batch."""
    return torch.from_numpy(np.flatnonzero(np.arange(width) < counts[:, None]))
