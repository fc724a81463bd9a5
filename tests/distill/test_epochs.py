"""Whole passes over the training sequences, and the tokens that were read, by training."""

from dataclasses import replace

import numpy as np
import pytest

from kdkit.data.batches import WindowCollator
from kdkit.data.windows import PAD
from kdkit.distill import train
from kdkit.runs.folder import Run
from tests.tiny import make_config, make_data, make_plan

pytestmark = pytest.mark.usefixtures("one_thread")


def train_on_seventeen(tmp_path, *stages, **settings):
    """Train the student without a teacher on 17 sequences, 4 x 8 at once; return what was read, and the result."""
    settings = {"batch_size": 4, "gradient_accumulation_steps": 8, "max_steps": None, "save_every": 100} | settings
    tmp_path.mkdir(exist_ok=True)
    config = make_config(tmp_path, train=settings | {"stages": list(stages)})
    data = make_data(config, tmp_path)
    data = replace(data, train=data.train.first(17))
    run = Run(tmp_path / "runs" / "run", tmp_path / "cache")
    run.path.mkdir(parents=True, exist_ok=True)
    plan = make_plan(config, run, data)
    read = []

    class Reader(WindowCollator):
        def __call__(self, rows):
            read.extend(rows)
            return super().__call__(rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "WindowCollator", Reader)
        return data, read, train.train_baseline(plan)


@pytest.mark.parametrize(
    ("epochs", "num_read", "steps"), [(3.0, 51, 2), (1.0, 17, 1), (2.5, 42, 2), (0.1, 2, 1), (6.0, 102, 4)]
)
def test_epochs_are_whole_under_accumulation_and_tokens_are_those_read(tmp_path, epochs, num_read, steps):
    data, read, result = train_on_seventeen(tmp_path, num_train_epochs=epochs)
    assert (len(read), result.steps) == (num_read, steps)
    passes = [read[start : start + 17] for start in range(0, num_read, 17)]
    assert all(sorted(each) == list(range(17)) for each in passes if len(each) == 17)
    lengths = (np.asarray(data.train.student_ids) != PAD).sum(axis=1) - 1
    assert result.tokens == lengths[read].sum()


def test_tokens_of_given_steps_are_those_read(tmp_path):
    """Trainer ends a step with a pass: 3 steps read the 17 sequences three times, not 96 of them."""
    data, read, result = train_on_seventeen(tmp_path, max_steps=3)
    lengths = (np.asarray(data.train.student_ids) != PAD).sum(axis=1) - 1
    assert result.tokens == 3 * lengths.sum() == lengths[read].sum()


def test_passes_are_shuffled_as_trainer_shuffles_them(tmp_path):
    """With a whole number of steps in a pass, given steps and epochs read the same sequences in the same order."""
    settings = {"batch_size": 4, "gradient_accumulation_steps": 1}
    rows = []
    for number, length in enumerate(({"max_steps": 10, "num_train_epochs": 1.0}, {"num_train_epochs": 2.0})):
        _, read, _ = train_on_seventeen(tmp_path / str(number), **settings, **length)
        rows.append(read)
    assert rows[0] == rows[1][: len(rows[0])] and len(rows[1]) == 34 == len(rows[0])


@pytest.mark.parametrize("schedule", [{0: 1, 0.5: 3}, {0: 3, 0.5: 1}])
def test_epochs_are_whole_with_a_schedule_of_batches(tmp_path, schedule):
    settings = {"num_train_epochs": 3.0, "batch_schedule": schedule, "gradient_accumulation_steps": 2}
    data, read, result = train_on_seventeen(tmp_path, **settings)
    passes = [read[start : start + 17] for start in range(0, len(read), 17)]
    assert len(passes) == 3 and all(sorted(each) == list(range(17)) for each in passes)
    lengths = (np.asarray(data.train.student_ids) != PAD).sum(axis=1) - 1
    assert result.tokens == 3 * lengths.sum()
    assert result.steps in (12, 13, 14)  # of 4 sequences in the mean
