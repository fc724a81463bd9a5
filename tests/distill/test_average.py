"""A teacher that follows the student: its formula step by step, exact resume over stages, and what is refused."""

import pytest
import torch
from safetensors.torch import load_file

from kdkit.config.language import config_from_values
from kdkit.distill import train
from kdkit.distill.open_teacher import open_teacher
from kdkit.distill.student import make_student
from kdkit.distill.trainer import AVERAGE_FILE
from kdkit.errors import UserError
from kdkit.losses.chunked.engine import Head
from kdkit.machine.interrupt import Stopped
from kdkit.teachers.average import AveragedTeacher
from tests.distill.test_stop import press_at, same_weights
from tests.tiny import make_config, make_data, make_llama, make_plan, make_run

pytestmark = pytest.mark.usefixtures("one_thread")

REST = {"max_steps": 6, "log_every": 1, "save_every": 2}
STAGES = {"stages": [{"name": "first", "max_steps": 3}, {"name": "second", "max_steps": 3}]}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a function that makes the configuration of a self-distillation, and its data."""
    folder = tmp_path_factory.mktemp("average")
    first = make_data(make_config(folder), folder)
    model = folder / "model"
    make_llama(len(first.teacher_tokenizer)).save_pretrained(model)
    first.teacher_tokenizer.save_pretrained(model)

    def configure(decay: float | None = 0.9, **rest):
        pair = {"teacher": {"path": str(model), "average_decay": decay}, "student": {"path": str(model)}}
        return make_config(folder, **pair, train=REST | rest)

    return configure, make_data(configure(), folder)


def weights(run):
    return load_file(run.path / "student" / "model.safetensors")


def distil(config, data, run, resume=False):
    plan = make_plan(config, run, data)
    return train.distill(plan, open_teacher(plan), resume)


def test_after_every_step_the_teacher_is_the_average_of_the_students_so_far(place, tmp_path, monkeypatch):
    configure, data = place
    seen, follow = [], AveragedTeacher.follow

    def look(self, student):
        follow(self, student)
        copies = ({n: p.detach().clone() for n, p in model.named_parameters()} for model in (student, self.model))
        seen.append(tuple(copies))

    monkeypatch.setattr(AveragedTeacher, "follow", look)
    config = configure(0.75)
    distil(config, data, make_run(tmp_path))
    expected = dict(make_student(config, data).named_parameters())
    assert len(seen) == 6
    for student, teacher in seen:
        expected = {name: 0.75 * expected[name] + 0.25 * student[name] for name in expected}
        assert all(torch.allclose(teacher[name], expected[name], atol=1e-6) for name in expected)
    assert any((student[name] - teacher[name]).abs().max() > 1e-3 for name in student)


def test_it_acts(place, tmp_path):
    configure, data = place
    results = {}
    for decay in (None, 0.5, 0.9):
        run = make_run(tmp_path, str(decay))
        distil(configure(decay), data, run)
        results[decay] = weights(run)
    for one, other in ((None, 0.5), (0.5, 0.9)):
        assert any(not torch.equal(results[one][name], results[other][name]) for name in results[one])


@pytest.mark.parametrize(("staged", "step"), [(False, 3), (True, 2), (True, 3), (True, 5)])
def test_stopped_and_resumed_equals_uninterrupted(place, tmp_path, monkeypatch, staged, step):
    configure, data = place
    config = configure(**({"max_steps": None} | STAGES if staged else {}))
    whole, run = make_run(tmp_path, "whole"), make_run(tmp_path, "stopped")
    distil(config, data, whole)
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        press_at(patch, step)
        distil(config, data, run)
    saved = list((run.path / "checkpoints").rglob(AVERAGE_FILE))
    assert saved
    distil(config, data, run, resume=True)
    assert same_weights(run, whole, "student")


def test_a_second_training_with_the_same_teacher_starts_from_the_students_weights(place, tmp_path):
    configure, data = place
    first, second = make_run(tmp_path, "first"), make_run(tmp_path, "second")
    plan = make_plan(configure(), first, data)
    teacher = open_teacher(plan)
    train.distill(plan, teacher)
    train.distill(make_plan(configure(), second, data), teacher)
    assert same_weights(first, second, "student")


def test_a_head_that_was_copied_in_another_precision_is_copied_anew():
    weight = torch.ones(3, 2)
    head = Head(weight, 3)
    assert head.on(weight.device, torch.bfloat16).weight.sum() == 6
    weight.mul_(2)
    head.drop_copies()
    assert head.on(weight.device, torch.bfloat16).weight.sum() == 12


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": {"path": "other"}}, "expected teacher.path and student.path to name one pretrained model"),
        ({"student": {"path": "build"}, "teacher": {"path": "build"}}, "got 'build' and 'build'"),
        ({"cache": {"enabled": True}}, "got cache.enabled"),
        ({"router": {"kind": "all_experts"}}, "got router.kind=all_experts"),
        ({"teacher": {"average_decay": 1.0}}, "teacher.average_decay: expected"),
        ({"teacher": {"average_decay": 0.0}}, "teacher.average_decay: expected"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    values = {"teacher": {"path": "mine", "average_decay": 0.9}, "student": {"path": "mine"}}
    for section, content in changes.items():
        values[section] = values.get(section, {}) | content
    with pytest.raises(UserError, match=message):
        config_from_values(values)
