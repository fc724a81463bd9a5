"""Data and a teacher that several test files use."""

import pytest

from kdkit.alignment.spans import Spans
from kdkit.training.batches import WindowCollator
from tests.crossed import cross_data, cut_unevenly
from tests.tiny import make_config, make_teacher


@pytest.fixture(scope="module")
def crossed(tmp_path_factory):
    """Data whose tokens cross, cut unevenly, and a teacher."""
    folder = tmp_path_factory.mktemp("layers")
    data = cut_unevenly(cross_data(make_config(folder), folder))
    return data, make_teacher(data)


@pytest.fixture(scope="module")
def spans(crossed) -> tuple[Spans, tuple[int, int]]:
    """The spans of a batch of five sequences, and the widths of both sides."""
    batch = WindowCollator(crossed[0].train, with_teacher=True)([3, 0, 11, 5, 6])
    assert batch["spans"].student_lengths.max() > 1
    return batch["spans"], (batch["input_ids"].shape[1], batch["teacher_input_ids"].shape[1])
