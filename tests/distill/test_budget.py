"""A time budget in the trainings of language models: what is saved goes on to the same losses and weights."""

import shutil
from contextlib import nullcontext

import pytest
import torch

from kdkit.data.prepare import build_data, open_data
from kdkit.distill import open_teacher, train
from kdkit.machine import budget
from kdkit.runs.carried import carry_over
from kdkit.runs.folder import Run, fingerprint_files
from kdkit.teachers.prepare import prepare_teacher
from tests.distill.test_stop import same_weights
from tests.runs.test_carried import make_read_only
from tests.tiny import make_config, make_data, make_plan, make_run, make_session

TRAIN = {"max_steps": 7, "log_every": 1, "save_every": 100, "time_budget_hours": 1.0}
CACHE = {"enabled": True, "mode": "top_k", "top_k": 8, "samples_per_chunk": 4}


@pytest.fixture
def sessions(monkeypatch):
    """Give every session the time for so many steps, looked at once behind each."""

    def begin(steps):
        seconds = iter(range(10_000))
        # the first look knows no step yet: 3600 s less one for the longest step are used up at the last look
        monkeypatch.setattr(budget, "elapsed", lambda: 3600.0 - steps + next(seconds))

    return begin


def short_teacher(config):
    """Build a teacher in nine steps."""
    build = config.teacher.build.model_copy(update={"max_steps": 9})
    return config.model_copy(update={"teacher": config.teacher.model_copy(update={"build": build})})


def losses(run, phase="student"):
    """Return what was logged of each step."""
    names = ("loss", "ce_loss", "kd_loss", "grad_norm", "learning_rate")
    lines = [line for line in run.read_metrics() if line["phase"] == phase and "loss" in line]
    return [(line["step"], *(line.get(name) for name in names)) for line in lines]


@pytest.mark.parametrize("steps", [2, 3])
def test_sessions_that_end_early_add_up_to_one_that_did_not(tmp_path, sessions, capsys, steps):
    config = short_teacher(make_config(tmp_path, train=TRAIN))
    data = make_data(config, tmp_path)
    teacher = prepare_teacher(make_session(config, make_run(tmp_path, "teacher")), data)
    whole, run = make_run(tmp_path, "whole"), make_run(tmp_path, "parts")
    sessions(10_000)
    train.distill(make_plan(config, whole, data), teacher)
    ends = []
    for number in range(9):
        sessions(steps)
        try:
            train.distill(make_plan(config, run, data), teacher, resume=number > 0)
        except SystemExit as stop:
            said = run.progress()
            assert stop.code == 0 and said["resume_needed"] and said["phase"] == "student"
            assert said["reason"] == f"time budget of 1 h used up; student: step {said['step']} of 7 is saved"
            assert said["command"] in capsys.readouterr().out
            ends.append(said["step"])
        else:
            break
    assert ends == list(range(steps, 7, steps))
    assert losses(run) == losses(whole) and len(losses(run)) == 7
    assert same_weights(run, whole, "student")
    assert (run.progress()["state"], run.progress()["resume_needed"]) == ("finished", False)


def test_a_built_teacher_is_stopped_too(tmp_path, sessions, capfd):
    config = short_teacher(make_config(tmp_path, train=TRAIN))
    data = make_data(config, tmp_path)
    run = make_run(tmp_path)
    sessions(4)
    with pytest.raises(SystemExit):
        prepare_teacher(make_session(config, run), data)
    assert "teacher: step 4 of 9 is saved" in run.progress()["reason"]
    assert "Writing" not in capfd.readouterr().err, "no bar of a checkpoint, which a saved notebook would keep"
    sessions(10_000)
    stopped = prepare_teacher(make_session(config, run), data).model.state_dict()
    whole = prepare_teacher(make_session(config, make_run(tmp_path / "other")), data).model.state_dict()
    assert all(torch.equal(value, whole[name]) for name, value in stopped.items())


def test_the_answers_of_a_teacher_are_kept_chunk_by_chunk(tmp_path, sessions, monkeypatch):
    config = short_teacher(make_config(tmp_path, train=TRAIN, cache=CACHE))
    data = make_data(config, tmp_path)
    run = make_run(tmp_path)
    plan = make_plan(config, run, data)
    sessions(10_000)
    prepare_teacher(plan.session, data)
    sessions(2)
    with pytest.raises(SystemExit):
        open_teacher.build_cache(plan)
    stopped = run.progress()["reason"]
    made = []
    make = open_teacher.SignalMaker.make
    monkeypatch.setattr(open_teacher.SignalMaker, "make", lambda maker, keys: made.append(1) or make(maker, keys))
    sessions(10_000)
    open_teacher.build_cache(plan)
    chunks = int(stopped.partition("cache: 2 of ")[2].split()[0])
    assert chunks > 10 and len(made) == 2 + chunks - 2, "two to announce it, and the chunks that were missing"


def test_sessions_of_kaggle_go_on_from_inputs_that_cannot_be_written(tmp_path, sessions):
    """Each session has an empty disk, and what the one before left is mounted where Kaggle decides."""
    config = short_teacher(make_config(tmp_path, train=TRAIN))
    data = make_data(config, tmp_path)
    whole, elsewhere = make_run(tmp_path, "whole"), make_session(config, make_run(tmp_path, "teacher"))
    sessions(10_000)
    train.distill(make_plan(config, whole, data), prepare_teacher(elsewhere, data))
    inputs = []
    for number in range(3):
        kaggle = tmp_path / str(number)
        run = Run(kaggle / "working" / "runs" / "r", kaggle / "working" / ".cache")
        run.path.parent.mkdir(parents=True)
        if number:
            left = shutil.copytree(tmp_path / str(number - 1) / "working", kaggle / "input" / "datasets" / "me" / "03")
            make_read_only(left)
            inputs.append((left, fingerprint_files(left)))
        assert len(carry_over(run.path.parent, "r", kaggle)) == (number > 0)
        run.path.mkdir(exist_ok=True)
        (run.path / "config.yaml").write_text("cache_dir: .cache\n")
        data = open_data(build_data(config, run.cache_path))
        sessions(10_000)
        teacher = prepare_teacher(make_session(config, run), data)
        sessions(3)
        with pytest.raises(SystemExit) if number < 2 else nullcontext():
            train.distill(make_plan(config, run, data), teacher, resume=number > 0)
    assert losses(run) == losses(whole) and len(losses(run)) == 7
    assert same_weights(run, whole, "student")
    assert [fingerprint_files(left) for left, _ in inputs] == [before for _, before in inputs]
