"""Ctrl-C in the trainings of language models: the present step is kept, and going on gives the very same weights."""

import json
import os
import signal

import pytest
import torch
from safetensors.torch import load_file

from kdkit.distill import train
from kdkit.machine.interrupt import Stopped
from kdkit.runs.costs import read_cost
from kdkit.teachers.prepare import Teacher, prepare_teacher
from kdkit.training.progress import Progress
from tests.tiny import make_config, make_data, make_plan, make_run, make_session

TRAIN = {"max_steps": 7, "log_every": 4, "save_every": 100}
STAGES = {"stages": [{"name": "first", "max_steps": 3}, {"name": "second", "max_steps": 4}]}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a folder with a prepared corpus, a configuration, its data and a built teacher, a mixture of experts."""
    folder = tmp_path_factory.mktemp("stop")
    config = make_config(folder, train=TRAIN)
    build = config.teacher.build.model_copy(update={"max_steps": 9, "num_experts": 4, "num_experts_per_tok": 2})
    config = config.model_copy(update={"teacher": config.teacher.model_copy(update={"build": build})})
    data = make_data(config, folder)
    return folder, config, data, prepare_teacher(make_session(config, make_run(folder, "teacher")), data)


def press_at(monkeypatch, step, presses=1):
    """Send SIGINT to this process in the middle of what follows a step, over all stages."""
    on_step_end = Progress.on_step_end

    def hook(self, args, state, control, **rest):
        if self.first_step + state.global_step == step:
            for _ in range(presses):
                os.kill(os.getpid(), signal.SIGINT)
        on_step_end(self, args, state, control, **rest)

    monkeypatch.setattr(Progress, "on_step_end", hook)


def go(plan, teacher: Teacher, phase: str, resume: bool = False):
    """Train a phase."""
    return train.distill(plan, teacher, resume) if phase == "student" else train.train_baseline(plan, resume)


def same_weights(run, other, phase):
    """Return whether two runs have saved the same bits."""
    mine, theirs = (load_file(each.path / phase / "model.safetensors") for each in (run, other))
    return all(torch.equal(mine[name], theirs[name]) for name in theirs) and mine.keys() == theirs.keys()


def lines_of(run):
    """Return the metrics of a run without their times."""
    return [{name: value for name, value in line.items() if name != "seconds"} for line in run.read_metrics()]


@pytest.mark.parametrize(
    ("phase", "staged", "step"),
    [("student", False, 5), ("student", True, 2), ("student", True, 3), ("student", True, 6), ("baseline", False, 1)],
)
def test_stopped_and_resumed_equals_uninterrupted(place, tmp_path, monkeypatch, capsys, phase, staged, step):
    folder, config, data, teacher = place
    if staged:
        config = make_config(folder, train=TRAIN | {"max_steps": None} | STAGES)
    whole, run = make_run(tmp_path, "whole"), make_run(tmp_path, "stopped")
    expected = go(make_plan(config, whole, data), teacher, phase)
    with monkeypatch.context() as patch, pytest.raises(Stopped, match=f"{phase}: step {step} of 7 is saved"):
        press_at(patch, step)
        go(make_plan(config, run, data), teacher, phase)
    assert not (run.path / phase).exists()
    capsys.readouterr()
    result = go(make_plan(config, run, data), teacher, phase, resume=True)
    assert f"note: {phase}: goes on from step {step} of 7" in capsys.readouterr().out
    assert same_weights(run, whole, phase)
    assert (result.steps, result.tokens) == (expected.steps, expected.tokens)
    assert lines_of(run) == lines_of(whole)


def test_dropout_goes_on_with_the_random_numbers_of_the_step(place, tmp_path, monkeypatch):
    folder, _, data, teacher = place
    build = {"vocab_size": 290, "hidden_size": 16, "num_layers": 1, "intermediate_size": 32}
    config = make_config(folder, train=TRAIN, student={"build": build | {"dropout": 0.3}})
    whole, run, plain = (make_run(tmp_path, name) for name in ("whole", "stopped", "plain"))
    go(make_plan(config, whole, data), teacher, "student")
    go(make_plan(make_config(folder, train=TRAIN), plain, data), teacher, "student")
    assert not same_weights(plain, whole, "student"), "there is dropout"
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        press_at(patch, 3)
        go(make_plan(config, run, data), teacher, "student")
    torch.rand(5)  # another process has other random numbers
    go(make_plan(config, run, data), teacher, "student", resume=True)
    assert same_weights(run, whole, "student")


def test_the_scale_of_losses_in_fp16_goes_on(place, tmp_path, monkeypatch):
    """Accelerate makes a scaler for a GPU only, so each trainer is given the one of a CPU, which grows in 4 steps."""
    _, config, data, teacher = place
    make, scalers = train.make_trainer, []

    def make_scaled(*arguments):
        trainer = make(*arguments)
        trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=4)
        scalers.append(trainer.accelerator.scaler)
        return trainer

    monkeypatch.setattr(train, "make_trainer", make_scaled)
    whole, run = make_run(tmp_path, "whole"), make_run(tmp_path, "stopped")
    go(make_plan(config, whole, data), teacher, "student")
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        press_at(patch, 5)
        go(make_plan(config, run, data), teacher, "student")
    go(make_plan(config, run, data), teacher, "student", resume=True)
    expected, _, resumed = (scaler.state_dict() for scaler in scalers)
    assert expected["scale"] == 2.0**11 and resumed == expected
    assert same_weights(run, whole, "student")


def test_at_the_last_step_the_phase_is_finished_first(place, tmp_path, monkeypatch):
    _, config, data, teacher = place
    run = make_run(tmp_path)
    with monkeypatch.context() as patch, pytest.raises(Stopped, match="student: its 7 steps are done and saved"):
        press_at(patch, 7)
        train.distill(make_plan(config, run, data), teacher)
    assert (run.path / "student" / "model.safetensors").is_file()
    assert "student" in json.loads((run.path / "training.json").read_text())


def test_a_second_one_saves_nothing_and_the_next_try_says_so(place, tmp_path, monkeypatch, capsys):
    _, config, data, teacher = place
    run = make_run(tmp_path)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt) as stop:
        press_at(patch, 5, presses=2)
        train.distill(make_plan(config, run, data), teacher)
    assert stop.type is KeyboardInterrupt
    capsys.readouterr()
    train.distill(make_plan(config, run, data), teacher, resume=True)
    assert "note: student: no checkpoint is there to go on from, so it starts at step 0 of 7" in capsys.readouterr().out


def test_starting_over_says_which_checkpoint_is_dropped(place, tmp_path, monkeypatch, capsys):
    _, config, data, teacher = place
    run = make_run(tmp_path)
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        press_at(patch, 5)
        train.distill(make_plan(config, run, data), teacher)
    capsys.readouterr()
    train.distill(make_plan(config, run, data), teacher)
    assert "note: student: starts over and drops the checkpoint at step 5" in capsys.readouterr().out


def test_a_training_that_starts_over_and_is_stopped_leaves_nothing_of_the_one_before(place, tmp_path, monkeypatch):
    _, config, data, teacher = place
    run = make_run(tmp_path)
    train.distill(make_plan(config, run, data), teacher)
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        press_at(patch, 3)
        train.distill(make_plan(config, run, data), teacher)
    assert not (run.path / "student").exists()
    result = train.distill(make_plan(config, run, data), teacher, resume=True)
    steps = [line["step"] for line in run.read_metrics() if "evaluation_bits_per_byte" in line]
    assert result.steps == 7 and steps == sorted(set(steps)) and (steps[0], steps[-1]) == (0, 7)


@pytest.mark.parametrize("step", [1, 6])
def test_a_built_teacher_goes_on_in_any_run_and_equals_an_uninterrupted_one(place, tmp_path, monkeypatch, capsys, step):
    """Its experts too, which Trainer's own loading of a checkpoint leaves as they were made."""
    folder, config, data, whole = place
    first = make_run(tmp_path, "first")  # another cache
    with monkeypatch.context() as patch, pytest.raises(Stopped, match=f"teacher: step {step} of 9 is saved"):
        press_at(patch, step)
        prepare_teacher(make_session(config, first), data)
    teacher = prepare_teacher(make_session(config, make_run(tmp_path, "second")), data)
    assert f"note: teacher: goes on from step {step} of 9" in capsys.readouterr().out
    expected = whole.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in teacher.model.state_dict().items())
    built, other = (
        next(cache.glob("*/cost.json")).parent for cache in (tmp_path / "cache/teachers", folder / "cache/teachers")
    )
    assert read_cost(built)["tokens"] == read_cost(other)["tokens"]
    assert not list((tmp_path / "cache" / "teachers").glob("*.checkpoints"))


def test_a_teacher_stopped_at_its_last_step_is_built(place, tmp_path, monkeypatch):
    _, config, data, _ = place
    run = make_run(tmp_path)
    with monkeypatch.context() as patch, pytest.raises(Stopped, match="teacher: built and saved"):
        press_at(patch, 9)
        prepare_teacher(make_session(config, run), data)
    monkeypatch.setattr("kdkit.teachers.build._build", lambda *arguments: pytest.fail("built again"))
    prepare_teacher(make_session(config, run), data)
