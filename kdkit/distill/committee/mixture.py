"""The mean distribution of several teachers with one tokenizer, as one lesson."""

from collections.abc import Sequence

import numpy as np
import torch

from kdkit.distill.committee.loss import Lesson
from kdkit.losses.chunked.engine import to_device
from kdkit.losses.chunked.signals import DenseSignals
from kdkit.teachers.mixing import MixedSignals


def mix(lessons: Sequence[Lesson], device: torch.device) -> Lesson:
    """Return the lesson of the weighted mean of the teachers' distributions.

    Args:
        lessons: of teachers in memory with one tokenizer, so with the same rows.
    """
    first = lessons[0]
    weights = torch.stack([lesson.weights for lesson in lessons], dim=1)
    # a teacher row is weighed as the student's first row of its span
    rows = first.spans.student_starts[:-1][first.spans.span_of_teacher_rows()]
    of_rows = weights.index_select(0, to_device(rows, weights.device)).float()
    nobody = of_rows.sum(dim=1, keepdim=True) == 0.0  # such rows are in no loss of a teacher
    of_rows = torch.where(nobody, torch.ones_like(of_rows), of_rows)
    log_weights = (of_rows / of_rows.sum(dim=1, keepdim=True)).log()
    parts = tuple(lesson.signals for lesson in lessons)
    main = parts[0]
    assert isinstance(main, DenseSignals)
    fields = main.hidden, main.head, main.device, main.targets, main.windows
    signals = MixedSignals(*fields, name=main.name, parts=parts, log_weights=log_weights)
    taught = np.logical_or.reduce([lesson.taught for lesson in lessons])
    return Lesson(first.objective, first.spans, signals, weights.sum(dim=1), taught)
