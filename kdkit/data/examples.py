"""What the models read, for a reader: tokens side by side, and the stretches of a conversation that are learnt."""

from collections.abc import Iterator
from itertools import groupby, islice

import numpy as np

from kdkit.data.prepare import PreparedData
from kdkit.data.windows import PAD

Part = tuple[str, bool]
"""Text, and whether it is in the loss."""


def conversation_parts(data: PreparedData, number: int = 0, of_teacher: bool = False) -> list[Part]:
    """Return a held-out conversation in the stretches that are in the loss and those that are only read.

    Args:
        number: of the held-out window.
        of_teacher: as the teacher reads it, with its template; else as the student does.

    Returns:
        The stretches in order, special tokens by their names; a text that is no conversation is one stretch.
    """
    windows = data.evaluation
    tokenizer = data.teacher_tokenizer if of_teacher else data.student_tokenizer
    ids = np.asarray((windows.teacher_ids if of_teacher else windows.student_ids)[number])
    counted = windows.labels([number], of_teacher)[0]
    tokens = [(int(i), bool(learnt)) for i, learnt in zip(ids, counted, strict=True) if i != PAD]
    return [
        (tokenizer.decode([i for i, _ in part], skip_special_tokens=False), learnt)
        for learnt, part in groupby(tokens, key=lambda token: token[1])
    ]


def alignment_examples(data: PreparedData, count: int) -> list[dict[str, str]]:
    """Show evaluation tokens side by side, quoted, so that spaces and line ends can be seen."""
    return list(islice(_aligned_tokens(data), count))


def _aligned_tokens(data: PreparedData) -> Iterator[dict[str, str]]:
    """Yield, token by token, the student's text and the teacher's where one position predicts both."""
    windows, teacher, student = data.evaluation, data.teacher_tokenizer, data.student_tokenizer
    arrays = windows.student_ids, windows.teacher_ids, windows.teacher_positions, windows.same_token
    for number, (row, teacher_row, positions, same_token) in enumerate(zip(*arrays, strict=True)):
        is_label = windows.labels([number])[0, 1:]
        for token_id, position, same, counted in zip(row[1:], positions, same_token, is_label, strict=False):
            if counted:
                text = repr(teacher.decode(teacher_row[position + 1])) if same else "-"
                yield {"student": repr(student.decode(token_id)), "teacher": text}
