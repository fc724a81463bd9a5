"""Find the spans of a batch of windows: stretches of text that both tokenizers start and end together."""

import numpy as np

from kdkit.alignment.spans import SequenceSpans, Spans, join_spans
from kdkit.data.windows import PAD, Windows


def find_spans(windows: Windows, rows: list[int], student_width: int, teacher_width: int) -> Spans:
    """Collect the spans of windows that stand in one batch.

    Args:
        rows: row numbers of the windows.
        student_width: S of the batch, padding included.
        teacher_width: T of the batch.
    """
    return join_spans([_of_window(windows, row) for row in rows], student_width, teacher_width)


def _of_window(windows: Windows, row: int) -> SequenceSpans:
    # the last token predicts nothing
    last = int((windows.student_ids[row] != PAD).sum()) - 1
    teacher_last = int((windows.teacher_ids[row] != PAD).sum()) - 1
    positions = np.asarray(windows.teacher_positions[row, :last])
    starts = np.flatnonzero(positions != PAD)
    same = np.asarray(windows.same_token[row, :last])[starts]
    return SequenceSpans(last, teacher_last, starts, positions[starts], same)
