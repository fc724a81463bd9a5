"""Conversations as the models read them, for a reader: what is template, what is read, what is learnt."""

from itertools import groupby

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
