"""Spans that several test files use."""

import pytest

from kdkit.alignment.spans import Spans
from kdkit.data.batches import WindowCollator


@pytest.fixture(scope="module")
def spans(crossed) -> tuple[Spans, tuple[int, int]]:
    """The spans of a batch of five sequences, and the widths of both sides."""
    batch = WindowCollator(crossed[0].train, with_teacher=True)([3, 0, 11, 5, 6])
    assert batch["spans"].student_lengths.max() > 1
    return batch["spans"], (batch["input_ids"].shape[1], batch["teacher_input_ids"].shape[1])
