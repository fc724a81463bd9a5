"""Find the spans of a batch: stretches of text that both tokenizers start and end together."""

import numpy as np
import torch

from kdkit.alignment.spans import Spans
from kdkit.data.windows import PAD, Windows


def find_spans(windows: Windows, rows: list[int], student_width: int, teacher_width: int) -> Spans:
    """Collect the spans of some windows that stand in one batch.

    Args:
        rows: row numbers of the windows.
        student_width: s of the batch, padding included.
        teacher_width: t of the batch.
    """
    student_rows, teacher_rows, student_starts, teacher_starts, same, counts = [], [], [], [], [], [0]
    num_student = num_teacher = 0
    for place, row in enumerate(rows):
        # the last token predicts nothing
        last = int((windows.student_ids[row] != PAD).sum()) - 1
        teacher_last = int((windows.teacher_ids[row] != PAD).sum()) - 1
        positions = np.asarray(windows.teacher_positions[row, :last])
        starts = np.flatnonzero(positions != PAD)
        student_rows.append(place * student_width + np.arange(last))
        teacher_rows.append(place * teacher_width + np.arange(teacher_last))
        student_starts.append(num_student + starts)
        teacher_starts.append(num_teacher + positions[starts])
        same.append(np.asarray(windows.same_token[row, :last])[starts])
        counts.append(len(starts))
        num_student, num_teacher = num_student + last, num_teacher + teacher_last
    return Spans(
        _tensor(student_rows),
        _tensor(teacher_rows),
        _tensor([*student_starts, [num_student]]),
        _tensor([*teacher_starts, [num_teacher]]),
        torch.from_numpy(np.concatenate(same)),
        torch.from_numpy(np.cumsum(counts)),
    )


def _tensor(parts: list[np.ndarray | list[int]]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate(parts).astype(np.int64))
