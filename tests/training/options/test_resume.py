"""Every option of a training acts, on the student and its twin without a teacher, and a stop changes nothing."""

import pytest
import torch
from safetensors.torch import load_file

from kdkit.distill import train
from kdkit.machine.interrupt import Stopped
from kdkit.training.options.batch_plan import plan_batches
from tests.distill.test_stop import go, press_at, same_weights
from tests.tiny import make_config, make_data, make_plan, make_run, make_teacher

pytestmark = pytest.mark.usefixtures("one_thread")

TRAIN = {"max_steps": 6, "log_every": 3, "save_every": 100, "warmup_steps": 1}
OPTIONS = {
    "muon": {"optimizer": "muon"},
    "8 bits": {"optimizer": "adamw_8bit"},
    "betas": {"adam_betas": [0.5, 0.9]},
    "schedule": {"lr_schedule": "warmup_stable_decay", "lr_schedule_options": {"decay_share": 0.5}},
    "weight decay": {"weight_decay": 0.5, "weight_decay_end": 0.0},
    "ema": {"average": {"kind": "ema", "decay": 0.5}},
    "uniform": {"average": {"kind": "uniform", "start": 0.4}},
    "further tokens": {"multi_token": {"num_tokens": 2}},
    "batch": {"batch_schedule": {0: 2, 0.5: 4}},
    "length": {"length_schedule": {0: 8, 0.5: 24}},
    "all": {
        "optimizer": "muon",
        "weight_decay_end": 0.0,
        "average": {"kind": "ema", "decay": 0.5},
        "multi_token": {"num_tokens": 1},
        "batch_schedule": {0: 2, 0.5: 4},
        "length_schedule": {0: 8, 0.5: 24},
    },
}
STAGED = {"stages": [{"name": "first", "max_steps": 3}, {"name": "second", "max_steps": 3}], "max_steps": None}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a folder with a prepared corpus, its data, a teacher, and what the plain recipe gives in both phases."""
    folder = tmp_path_factory.mktemp("options")
    config = make_config(folder, train=TRAIN)
    data = make_data(config, folder)
    teacher, run = make_teacher(data), make_run(folder, "plain")
    for phase in ("student", "baseline"):
        go(make_plan(config, run, data), teacher, phase)
    return folder, data, teacher, run


def test_whole_passes_with_a_schedule_go_on_where_they_stopped(place, tmp_path, monkeypatch):
    folder, data, teacher, _ = place
    config = make_config(
        folder, train=TRAIN | OPTIONS["batch"] | {"max_steps": None, "num_train_epochs": 45 / len(data.train)}
    )
    whole, run = make_run(tmp_path, "whole"), make_run(tmp_path, "stopped")
    plan = make_plan(config, whole, data)
    (stage,) = plan.stages
    batches = plan_batches(config.train, stage.steps)
    assert (stage.num_sequences, batches.num_sequences, batches.sizes[-1]) == (45, 48, 4)
    expected = go(plan, teacher, "student")
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        press_at(patch, expected.steps - 1)  # what is left is the step that is not full
        go(make_plan(config, run, data), teacher, "student")
    result = go(make_plan(config, run, data), teacher, "student", resume=True)
    assert same_weights(run, whole, "student") and result.tokens == expected.tokens


@pytest.mark.parametrize(("phase", "stages"), [("student", {}), ("baseline", {}), ("student", STAGED)])
@pytest.mark.parametrize("name", OPTIONS)
def test_it_acts_and_stopped_and_resumed_equals_uninterrupted(place, tmp_path, monkeypatch, name, phase, stages):
    folder, data, teacher, plain = place
    config = make_config(folder, train=TRAIN | OPTIONS[name] | stages)
    whole, run = make_run(tmp_path, "whole"), make_run(tmp_path, "stopped")
    expected = go(make_plan(config, whole, data), teacher, phase)
    assert not same_weights(whole, plain, phase), "with the option other weights come out"
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        press_at(patch, 4)
        go(make_plan(config, run, data), teacher, phase)
    result = go(make_plan(config, run, data), teacher, phase, resume=True)
    assert same_weights(run, whole, phase)
    assert result.tokens == expected.tokens
    if "average" in OPTIONS[name]:
        assert same_weights(run, whole, f"{phase}_last")


def test_what_stands_behind_a_stop_at_the_last_step_is_the_average(place, tmp_path, monkeypatch):
    """A checkpoint of the last step is not trained on: what it holds is what is saved."""
    folder, data, teacher, _ = place
    config = make_config(folder, train=TRAIN | OPTIONS["ema"] | {"save_every": 3})
    whole, run = make_run(tmp_path, "whole"), make_run(tmp_path, "stopped")
    go(make_plan(config, whole, data), teacher, "baseline")
    with monkeypatch.context() as patch:
        patch.setattr(train, "save_trained", lambda *_: pytest.fail("stop here"))
        with pytest.raises(pytest.fail.Exception):
            go(make_plan(config, run, data), teacher, "baseline")
    go(make_plan(config, run, data), teacher, "baseline", resume=True)
    assert same_weights(run, whole, "baseline") and same_weights(run, whole, "baseline_last")


def test_the_student_that_is_saved_has_no_heads_of_the_training(place, tmp_path):
    folder, data, teacher, plain = place
    config = make_config(folder, train=TRAIN | OPTIONS["further tokens"])
    go(make_plan(config, run := make_run(tmp_path), data), teacher, "student")
    mine, theirs = (load_file(each.path / "student" / "model.safetensors") for each in (run, plain))
    assert {name: value.shape for name, value in mine.items()} == {name: value.shape for name, value in theirs.items()}
    lines = [line for line in run.read_metrics() if "multi_token_loss" in line]
    assert lines and all(
        line["multi_token_weighted"] == pytest.approx(0.2 * line["multi_token_loss"]) for line in lines
    )


def test_the_average_is_scored_and_the_last_weights_are_kept(place, tmp_path):
    folder, data, teacher, plain = place
    config = make_config(folder, train=TRAIN | OPTIONS["ema"])
    go(make_plan(config, run := make_run(tmp_path), data), teacher, "baseline")
    worth = run.read_json("training.json")["baseline_average"]
    points = [line for line in run.read_metrics() if "averaged_bits_per_byte" in line]
    assert points[-1]["averaged_bits_per_byte"] == pytest.approx(worth["averaged"])
    assert points[-1]["evaluation_bits_per_byte"] == pytest.approx(worth["last"])
    assert worth["last"] != worth["averaged"]
    last, expected = (
        load_file(path / "model.safetensors") for path in (run.path / "baseline_last", plain.path / "baseline")
    )
    assert all(torch.equal(last[name], expected[name]) for name in expected), "averaging changes no step"
    go(make_plan(make_config(folder, train=TRAIN), run, data), teacher, "baseline")
    assert not (run.path / "baseline_last").exists(), "a training that starts over leaves nothing of the one before"
    assert "baseline_average" not in run.read_json("training.json")
