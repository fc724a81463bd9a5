"""Data, teachers and trainers that several test files use; no test changes what it is given."""

import itertools

import pytest
import torch

from kdkit.distill import train
from kdkit.distill.on_policy import OnPolicyTrainer
from kdkit.distill.student import make_student
from tests.crossed import cross_data
from tests.distill.objectives import Pair
from tests.distill.own_text import on_policy
from tests.distill.staged import STAGES, Parts
from tests.tiny import make_config, make_data, make_plan, make_run, make_teacher


@pytest.fixture(scope="session")
def pairs(tmp_path_factory) -> dict[str, Pair]:
    """One tokenizer; a finer student; a finer teacher; tokens that cross."""
    folder = tmp_path_factory.mktemp("objective")

    def prepare(student, teacher, prepare_data=make_data):
        values = {"tokenizer": student} if student == "teacher" else {"vocab_size": student}
        config = make_config(folder, student={"build": values}, teacher={"build": {"vocab_size": teacher}})
        data = prepare_data(config, folder)
        return Pair(data, make_teacher(data))

    return {
        "same": prepare("teacher", 320),
        "finer student": prepare(290, 320),
        "finer teacher": prepare(320, 290),
        "crossed": prepare(290, 320, cross_data),
    }


@pytest.fixture(scope="session")
def parts(tmp_path_factory) -> Parts:
    """A configuration with two stages, its data for two tokenizers, and a teacher."""
    folder = tmp_path_factory.mktemp("stages")
    config = make_config(folder, train={"save_every": 2, "evaluate_every": 4, "stages": STAGES, "learning_rate": 0.005})
    data = make_data(config, folder)
    return config, data, make_teacher(data)


@pytest.fixture(scope="session")
def parts_of(tmp_path_factory) -> dict[str, Parts]:
    """Configuration, data and teacher for one tokenizer and for two."""
    made = {}
    for name, tokenizer in (("same", "teacher"), ("two", "own")):
        folder = tmp_path_factory.mktemp(name)
        build = {"vocab_size": 290, "hidden_size": 16, "num_layers": 1, "intermediate_size": 32, "tokenizer": tokenizer}
        config = make_config(folder, student={"build": build})
        data = make_data(config, folder)
        made[name] = (config, data, make_teacher(data))
    assert made["same"][1].same_tokenizer and not made["two"][1].same_tokenizer
    return made


@pytest.fixture
def trainer_of(parts_of, tmp_path):
    """Return a function that makes the trainer of an on-policy stage."""
    numbers = itertools.count()

    def make(name: str, student: torch.nn.Module | None = None, **changes: object) -> OnPolicyTrainer:
        config, data, teacher = parts_of[name]
        config = on_policy(config, **changes)
        plan = make_plan(config, make_run(tmp_path, str(next(numbers))), data)
        student = student or make_student(config, data)
        trainer = train.make_trainer(plan, plan.stages[0], student, teacher)
        assert isinstance(trainer, OnPolicyTrainer)
        return trainer

    return make
