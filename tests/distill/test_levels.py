"""A curriculum by the levels of problems: easy ones first in every pass, also where the training was stopped."""

import pytest

from kdkit.config.language import config_from_values
from kdkit.data.problems import TRAIN
from kdkit.distill import train
from kdkit.distill.curriculum import sequence_order
from kdkit.distill.open_teacher import open_teacher
from kdkit.errors import UserError
from kdkit.machine.interrupt import Stopped
from tests.distill.test_stop import press_at, same_weights
from tests.tiny import make_config, make_data, make_plan, make_run, save_teacher

pytestmark = pytest.mark.usefixtures("one_thread")

PROBLEMS = {"templates": ["linear_equation"], "held_out_templates": [], "levels": [1, 2, 3], "num_held_out": 2}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A function that makes configurations, and the data of all of them."""
    folder = tmp_path_factory.mktemp("levels")

    def configure(**changes):
        values = make_config(folder, data={"path": "kdkit-maths", "max_length": 200}, train=changes).model_dump()
        values["teacher"] |= {"path": str(folder / "teacher")} if (folder / "teacher").is_dir() else {}
        return config_from_values(values | {"maths": {"problems": PROBLEMS | {"num_problems": 30}}})

    first = make_data(configure(), folder)
    save_teacher(first, folder / "teacher")
    return configure, make_data(configure(), folder)


def levels_read(place, run, **changes):
    configure, data = place
    plan = make_plan(configure(curriculum="level", **changes), run, data)
    levels = [problem.level for problem in data.problems(TRAIN)]
    return [levels[row] for row in sequence_order(plan, plan.stages[0])]


def losses_by_step(run):
    """Return the logged loss of every step of the student, bit by bit."""
    return {line["step"]: line["loss"] for line in run.read_metrics() if line["phase"] == "student" and "loss" in line}


def test_every_pass_begins_with_easy_problems(place, tmp_path):
    levels = levels_read(place, make_run(tmp_path), max_steps=None, num_train_epochs=2.0)
    first, second = levels[:30], levels[30:]
    assert first == second == sorted(first)
    assert set(first) == {1, 2, 3}


def test_a_short_training_still_goes_from_easy_to_hard(place, tmp_path):
    levels = levels_read(place, make_run(tmp_path), max_steps=2)
    assert levels == sorted(levels)
    assert levels[0] < levels[-1]


def test_stopped_and_resumed_equals_uninterrupted(place, tmp_path, monkeypatch):
    configure, data = place
    config = configure(curriculum="level", max_steps=6, save_every=100, log_every=1)

    def distil(run, resume=False):
        plan = make_plan(config, run, data)
        train.distill(plan, open_teacher(plan), resume)

    whole, run = make_run(tmp_path, "whole"), make_run(tmp_path, "stopped")
    distil(whole)
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        press_at(patch, 3)
        distil(run)
    distil(run, resume=True)
    assert same_weights(run, whole, "student")
    losses = losses_by_step(whole)
    assert sorted(losses) == [1, 2, 3, 4, 5, 6] and len(set(losses.values())) == 6
    assert losses_by_step(run) == losses


def test_text_has_no_levels(tmp_path):
    config = make_config(tmp_path, train={"curriculum": "level"})
    data = make_data(config, tmp_path)
    with pytest.raises(UserError, match=r"train\.curriculum: expected maths problems with levels for 'level'"):
        make_plan(config, make_run(tmp_path), data)
