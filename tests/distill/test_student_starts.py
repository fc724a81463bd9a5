"""Students made from the teacher, in a run: made once, shown before training, counted, resumed to the same bits."""

import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from kdkit.distill import student as stage
from kdkit.distill import train
from kdkit.distill.costs import equal_time
from kdkit.distill.open_teacher import open_teacher
from kdkit.distill.student import describe_student, num_student_layers
from kdkit.errors import UserError
from kdkit.machine.interrupt import Stopped
from kdkit.models.loading import load_causal_lm
from kdkit.teachers.prepare import prepare_teacher
from tests.distill.test_stop import press_at, same_weights
from tests.tiny import make_config, make_data, make_plan, make_run, make_session, save_teacher

PRUNED = {"kind": "prune", "num_layers": 1, "hidden_size": 8, "tokenizer": "own", "calibration_sequences": 4}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a folder, and the name of a teacher's inside it: an untrained mixture of two layers."""
    folder = tmp_path_factory.mktemp("starts")
    return folder, str(save_teacher(make_data(make_config(folder), folder), folder / "teacher"))


def configure(place, start="layers", lora=None, **changes):
    """Return a configuration whose student is made from the teacher, and its data."""
    folder, path = place
    config = make_config(
        folder,
        teacher={"path": path, "build": {}, "max_length": 24},
        student={"from_teacher": start, "lora": lora, "build": {"vocab_size": 290}},
        **changes,
    )
    return config, make_data(config, folder)


def still(**more):
    """Return settings of a training that moves nothing."""
    return {"max_steps": 1, "learning_rate": 1e-12, **more}


@pytest.mark.parametrize("start", ["layers", PRUNED])
def test_the_student_starts_as_parts_of_the_teacher_and_the_baseline_from_random_weights(
    place, tmp_path, capsys, start
):
    config, data = configure(place, start, train=still())
    plan = make_plan(config, run := make_run(tmp_path), data)
    teacher = open_teacher(plan)
    train.distill(plan, teacher)
    train.train_baseline(plan)
    student, baseline, made = (
        load_file(run.path / name / "model.safetensors") for name in ("student", "baseline", "start")
    )
    assert all(torch.allclose(student[name], made[name], atol=1e-6) for name in made)
    shapes = {name: value.shape for name, value in made.items()}
    assert shapes == {name: value.shape for name, value in baseline.items()}
    drawn = [name for name in made if "norm" not in name]
    assert not any(torch.allclose(baseline[name], made[name], atol=1e-2) for name in drawn)
    facts = run.read_json("training.json")["start"]
    assert facts["kind"] == config.student.from_teacher.kind and len(facts["layers"]) == 1
    points = {line["phase"]: line["evaluation_bits_per_byte"] for line in run.read_metrics() if line["step"] == 0}
    assert facts["bits_per_byte"] == pytest.approx(points["student"], rel=1e-4)
    assert facts["random_bits_per_byte"] == pytest.approx(points["baseline"], rel=1e-4)
    assert f"{facts['bits_per_byte']:.3f} bits per byte of held-out text before any training" in capsys.readouterr().out
    if start == "layers":
        layer = teacher.model.model.layers[facts["layers"][0]].self_attn.q_proj.weight
        assert torch.equal(made["model.layers.0.self_attn.q_proj.weight"], layer)


def test_it_is_made_once_and_its_time_is_counted(place, tmp_path, monkeypatch):
    config, data = configure(place, train={"max_steps": 2})
    plan = make_plan(config, run := make_run(tmp_path), data)
    train.distill(plan, open_teacher(plan))
    made = {"seconds": 100.0, "tokens": 7}
    (run.path / "start" / "cost.json").write_text(json.dumps(made))
    seconds = run.read_json("training.json")["student"]["seconds"]
    assert equal_time(plan).counted == pytest.approx(seconds + 100.0)
    assert equal_time(plan).reused == pytest.approx(
        seconds + 100.0 - run.read_json("training.json")["student"]["teacher_seconds"]
    )
    monkeypatch.setattr(stage, "make_start", None)  # is not called again
    train.distill(plan, open_teacher(plan))
    rows = {row["item"]: row for row in run.read_json("training.json")["costs"]}
    assert rows["student, made from the teacher"]["seconds"] == 100.0


@pytest.mark.parametrize(
    ("start", "lora", "staged"),
    [(PRUNED, None, False), ("layers", {"rank": 2, "dropout": 0.2}, False), ("layers", {"rank": 2}, True)],
)
def test_stopped_and_resumed_equals_uninterrupted(place, tmp_path, monkeypatch, start, lora, staged):
    stages = [{"name": "first", "max_steps": 2}, {"name": "second", "max_steps": 3}] if staged else []
    changes = {"max_steps": None if staged else 5, "stages": stages, "save_every": 100}
    config, data = configure(place, start, lora, train=changes)
    whole, run = make_run(tmp_path, "whole"), make_run(tmp_path, "stopped")
    teacher = open_teacher(plan := make_plan(config, whole, data))
    train.distill(plan, teacher)
    with monkeypatch.context() as patch, pytest.raises(Stopped, match="student: step 3 of 5 is saved"):
        press_at(patch, 3)
        train.distill(make_plan(config, run, data), teacher)
    train.distill(make_plan(config, run, data), teacher, resume=True)
    assert same_weights(run, whole, "student")
    assert run.read_json("training.json")["start"]["layers"] == whole.read_json("training.json")["start"]["layers"]


def test_a_resumed_training_with_other_adapters_is_refused(place, tmp_path, monkeypatch):
    runs = {}
    for rank in (2, 4):
        config, data = configure(place, "layers", {"rank": rank}, train={"max_steps": 5, "save_every": 100})
        runs[rank] = make_plan(config, make_run(tmp_path) if not runs else runs[2].session.run, data)
    teacher = open_teacher(runs[2])
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        press_at(patch, 3)
        train.distill(runs[2], teacher)
    with pytest.raises(UserError, match=r"resume: expected a checkpoint with the adapters of student.lora .*\[4, 16\]"):
        train.distill(runs[4], teacher, resume=True)


def test_adapters_learn_and_the_rest_stands_still(place, tmp_path):
    config, data = configure(place, "layers", {"rank": 2}, train={"max_steps": 3, "learning_rate": 1e-2})
    plan = make_plan(config, run := make_run(tmp_path), data)
    train.distill(plan, open_teacher(plan))
    train.train_baseline(plan)
    student, made = (load_file(run.path / name / "model.safetensors") for name in ("student", "start"))
    changed = {name for name in made if not torch.equal(student[name], made[name])}
    assert changed == {f"model.layers.0.self_attn.{name}_proj.weight" for name in "qkvo"}
    assert not (run.path / "baseline_adapter").exists()  # random weights learn whole
    base = AutoModelForCausalLM.from_pretrained(run.path / "start")
    again = PeftModel.from_pretrained(base, run.path / "student_adapter").merge_and_unload()
    assert all(
        torch.allclose(value, student[name], atol=1e-6) for name, value in again.state_dict().items() if name in changed
    )


def test_a_student_from_a_cached_teacher_is_the_same(place, tmp_path):
    config, data = configure(place, train=still())
    weights = []
    for cached in (False, True):
        changed = config.model_copy(update={"cache": config.cache.model_copy(update={"enabled": cached})})
        run = make_run(tmp_path / str(cached))  # each with a cache of its own
        plan = make_plan(changed, run, data)
        train.distill(plan, open_teacher(plan))
        weights.append(load_file(run.path / "start" / "model.safetensors"))
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_a_pretrained_student_with_adapters_has_a_baseline_with_adapters(place, tmp_path):
    folder, path = place
    config = make_config(
        folder,
        teacher={"path": path, "build": {}, "max_length": 24},
        student={"path": path, "layers": 1, "lora": {"rank": 2}, "build": {}},
        train={"max_steps": 2},
    )
    plan = make_plan(config, run := make_run(tmp_path), make_data(config, folder))
    train.train_baseline(plan)
    assert (run.path / "baseline_adapter" / "adapter_config.json").is_file()
    assert load_causal_lm(str(run.path / "baseline"), "student.path").config.num_hidden_layers == 1


def test_its_sizes_are_known_before_it_is_made(place):
    config, data = configure(place)
    assert num_student_layers(config) == 1
    model = prepare_teacher(make_session(config), data).model
    layer = sum(parameter.numel() for parameter in model.model.layers[0].parameters())
    expected = f"student, made from the teacher (layers): {model.num_parameters() - layer:,} parameters"
    assert describe_student(config, data).startswith(expected)


@pytest.mark.parametrize(
    ("start", "changes", "message"),
    [
        ({"kind": "layers", "num_layers": 3}, {}, "student.from_teacher.num_layers: expected at most the teacher's 2"),
        ({"kind": "prune", "hidden_size": 12}, {}, "student.from_teacher.hidden_size: expected a multiple of 8"),
        ("layers", {"distill": {"start_from_teacher": True}}, "start_from_teacher: .* got student.from_teacher=layers"),
    ],
)
def test_what_cannot_be_made_is_refused_before_anything_is_trained(place, tmp_path, start, changes, message):
    config, data = configure(place, start, **changes)
    with pytest.raises(UserError, match=message):
        make_plan(config, make_run(tmp_path), data)
