"""Which run notebooks 04 and 05 judge."""

import os

import pytest

from kdkit.config.language import dump_config
from kdkit.errors import UserError
from kdkit.runs.trained_run import open_trained_run
from tests.tiny import make_config


@pytest.fixture
def runs(tmp_path):
    """A folder of runs, and a function that puts a run there."""

    def make(name, age, student=True, method=False):
        path = tmp_path / "runs" / name
        (path / "student").mkdir(parents=True)
        text = "method: dskd\n" if method else dump_config(make_config(tmp_path))
        (path / "config.yaml").write_text(text)
        if student:
            (path / "student" / "config.json").write_text("{}")
            (path / "training.json").write_text("{}")
            os.utime(path / "training.json", (1000 - age, 1000 - age))
        return path

    make.folder = tmp_path / "runs"
    return make


def test_the_run_that_was_trained_last_is_opened(runs):
    (
        runs("older", age=20),
        runs("newest", age=1),
        runs("untrained", age=0, student=False),
        runs("vectors", 0, method=True),
    )
    assert open_trained_run(runs_dir=runs.folder)[1].name == "newest"
    assert open_trained_run("older", runs_dir=runs.folder)[1].name == "older"


def test_settings_that_judge_may_change_and_stay_with_the_run(runs):
    runs("one", age=1)
    items = "evaluate.top_k=7 report.title='My student' maths.judging.num_samples=9"
    config, _ = open_trained_run("one", items, runs.folder)
    assert (config.evaluate.top_k, config.report.title) == (7, "My student")
    assert config.maths.judging.num_samples == 9
    assert open_trained_run("one", runs_dir=runs.folder)[0].evaluate.top_k == 7


def test_settings_that_its_training_decided_are_refused(runs):
    path = runs("one", age=1)
    before = (path / "config.yaml").read_bytes()
    with pytest.raises(
        UserError, match=r"expected settings of evaluate, report or maths.judging, got 'distill.temperature=4'.*--name"
    ):
        open_trained_run("one", "distill.temperature=4", runs.folder)
    with pytest.raises(UserError, match=r"got 'maths\.problems\.num_problems=4'"):
        open_trained_run("one", "maths.problems.num_problems=4", runs.folder)
    assert (path / "config.yaml").read_bytes() == before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("newset", "did you mean 'newest'"),
        ("zzz", "there are newest"),
        ("untrained", "expected a trained student, got none; train it: python -m kdkit run .*untrained/config.yaml"),
        ("vectors", "got an embedding model; notebook 06"),
        ("../x", "no path"),
    ],
)
def test_a_name_that_cannot_be_judged_says_why(runs, name, message):
    runs("newest", age=1), runs("untrained", age=0, student=False), runs("vectors", 0, method=True)
    with pytest.raises(UserError, match=message):
        open_trained_run(name, runs_dir=runs.folder)


def test_a_folder_without_runs_says_how_to_make_one(tmp_path):
    with pytest.raises(UserError, match=r"expected a run with a student in .*; make one: python -m kdkit run quick"):
        open_trained_run(runs_dir=tmp_path / "nothing")
