"""Trainings of language models in W&B: real runs there, offline, that agree with metrics.jsonl after a stop too."""

import pytest
import wandb

from kdkit.distill import train as stage
from kdkit.machine.interrupt import Stopped
from kdkit.teachers.prepare import prepare_teacher
from kdkit.training.progress import Progress
from tests.routed import SAME_TOKENIZER, make_scene
from tests.tiny import make_config, make_data, make_plan, make_run, make_session
from tests.wandb_files import read_config, read_rows, read_run

pytestmark = pytest.mark.usefixtures("one_thread")

DERIVED = ("steps_per_second", "router/entropy", "router/share/")


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """Let W&B keep its runs here, as it does where there is no key."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    yield
    wandb.teardown()


def copied(run, phase):
    """Return the rows of a training's copy, without what is computed for it."""
    folder = run.path / run.read_json("wandb.json")["copies"][phase]["folder"]
    rows = [{k: v for k, v in row.items() if not k.startswith(DERIVED)} for row in read_rows(folder)]
    return folder, rows


def written(run, *phases):
    """Return the lines of phases as rows; columns of all but the first begin with the phase's name."""
    return [
        {
            name if line["phase"] == phases[0] or name == "step" else f"{line['phase']}/{name}": value
            for name, value in line.items()
            if name != "phase"
        }
        for line in run.read_metrics()
        if line["phase"] in phases
    ]


def test_a_routed_student_that_was_stopped_and_its_baseline(tmp_path, monkeypatch):
    scene = make_scene(tmp_path, **SAME_TOKENIZER)
    changes = {"router": {"kind": "student_aware", "update_every": 2}, "train": {"max_steps": 6, "log_every": 1}}
    config = scene.config.model_copy(
        update={name: getattr(scene.config, name).model_copy(update=values) for name, values in changes.items()}
    )
    run = make_run(tmp_path)
    on_step_end = Progress.on_step_end

    def stop_at_three(self, args, state, control, **rest):
        on_step_end(self, args, state, control, **rest)
        control.should_save = control.should_save or state.global_step == 3
        if state.global_step == 5:
            raise Stopped("two steps more are not saved")

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(Progress, "on_step_end", stop_at_three)
        stage.distill(make_plan(config, run, scene.data), scene.teacher)
    stage.distill(make_plan(config, run, scene.data), scene.teacher, resume=True)
    stage.train_baseline(make_plan(config, run, scene.data))
    folder, rows = copied(run, "student")
    assert rows == written(run, "student", "router")
    losses = [row for row in rows if "loss" in row]
    assert [row["step"] for row in losses] == [1, 2, 3, 4, 5, 6] and {"kd_loss", "learning_rate"} <= losses[0].keys()
    assert {"router/shares", "router/entropy", "router/share/3"} <= {name for row in read_rows(folder) for name in row}
    assert any("evaluation_bits_per_byte" in row for row in rows)
    assert read_run(folder).run_group == run.name and read_config(folder)["router"]["kind"] == "student_aware"
    assert copied(run, "baseline")[1] == written(run, "baseline")


def test_a_built_teacher_and_a_student_in_stages(tmp_path):
    stages = [{"name": "first", "max_steps": 2}, {"name": "second", "max_steps": 2}]
    config = make_config(tmp_path, train={"stages": stages, "max_steps": None})
    build = config.teacher.build.model_copy(update={"max_steps": 5, "num_experts": 4, "num_experts_per_tok": 2})
    config = config.model_copy(update={"teacher": config.teacher.model_copy(update={"build": build})})
    data, run = make_data(config, tmp_path), make_run(tmp_path)
    teacher = prepare_teacher(make_session(config, run), data)
    stage.distill(make_plan(config, run, data), teacher)
    assert copied(run, "teacher")[1] == written(run, "teacher") != []
    rows = copied(run, "student")[1]
    assert rows == written(run, "student") and [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4]
    assert len(list((run.path / "wandb").glob("offline-run-*"))) == 2, "both stages are one run there"
