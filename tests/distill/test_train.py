"""The distillation stage: fair baselines, exact resume, cropped heads, a teacher that stays as it was."""

import copy
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from kdkit.config.language import Config
from kdkit.distill import open_teacher as source
from kdkit.distill import train as stage
from kdkit.distill.student import make_student
from kdkit.distill.trainer import DistillationTrainer
from kdkit.machine.hardware import Hardware
from kdkit.runs.folder import Run
from kdkit.teachers.prepare import Teacher
from kdkit.training.progress import Progress
from tests.crossed import cut_unevenly
from tests.processes import join_group, run_two
from tests.tiny import (
    make_config,
    make_data,
    make_plan,
    make_run,
    make_teacher,
    make_trainer,
    plan_stages,
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run with a student and both baselines."""
    folder = tmp_path_factory.mktemp("distill")
    config = make_config(folder)
    data, run = make_data(config, folder), make_run(folder)
    teacher = make_teacher(data)
    before = [parameter.clone() for parameter in teacher.model.parameters()]
    results = [
        stage.distill(make_plan(config, run, data), teacher),
        stage.train_baseline(make_plan(config, run, data)),
        stage.train_equal_time_baseline(make_plan(config, run, data)),
    ]
    return config, data, run, teacher, before, results


def weights(run: Run, phase: str) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(run.path / phase).state_dict()


def test_student_and_baseline_start_from_the_same_weights(finished):
    config, data, *_ = finished
    first, second = make_student(config, data).state_dict(), make_student(config, data).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_another_seed_gives_other_weights(finished):
    config, data, *_ = finished
    first = make_student(config, data).state_dict()
    second = make_student(config.model_copy(update={"seed": 1}), data).state_dict()
    assert any(not torch.equal(first[name], second[name]) for name in first)


def test_student_and_baseline_see_the_same_data_in_the_same_order(finished, tmp_path):
    config, data, _, teacher, *_ = finished
    run = make_run(tmp_path)
    orders = []
    for asked in (teacher, None):
        trainer = make_trainer(config, run, data, asked)
        orders.append([batch["input_ids"].tolist() for batch in trainer.get_train_dataloader()])
    assert orders[0] == orders[1]


def test_a_kd_ratio_of_zero_is_the_baseline(finished, tmp_path):
    config, data, run, teacher, *_ = finished
    config = config.model_copy(update={"distill": config.distill.model_copy(update={"kd_ratio": 0.0})})
    alone = make_run(tmp_path)
    stage.distill(make_plan(config, alone, data), teacher)
    expected = weights(run, "baseline")
    assert all(torch.allclose(value, expected[name], atol=1e-6) for name, value in weights(alone, "student").items())


def test_the_student_differs_from_the_baseline(finished):
    run = finished[2]
    expected = weights(run, "baseline")
    assert any(not torch.allclose(value, expected[name], atol=1e-4) for name, value in weights(run, "student").items())


def test_the_teacher_is_not_changed(finished):
    teacher, before = finished[3], finished[4]
    assert all(torch.equal(a, b) for a, b in zip(teacher.model.parameters(), before, strict=True))


def test_the_equal_time_baseline_takes_as_many_steps_as_fit(finished):
    results = {result.phase: result for result in finished[5]}
    seconds_a_step = results["baseline"].seconds / results["baseline"].steps
    steps = results["baseline_equal_time"].steps
    assert (steps - 1) * seconds_a_step <= results["student"].seconds <= steps * seconds_a_step * 1.001


def test_the_saved_student_loads_with_its_tokenizer(finished):
    _, data, run, *_ = finished
    tokenizer = AutoTokenizer.from_pretrained(run.path / "student")
    assert tokenizer("the quick fox").input_ids == data.student_tokenizer("the quick fox").input_ids
    assert not (run.path / "checkpoints" / "student").exists()


def test_metrics_hold_every_phase_with_its_terms(finished):
    metrics = finished[2].read_metrics()
    student = [line for line in metrics if line["phase"] == "student" and "loss" in line]
    assert [line["step"] for line in student] == [1, 2, 3, 4, 5, 6]
    assert all({"ce_loss", "kd_loss", "grad_norm", "learning_rate", "seconds"} <= line.keys() for line in student)
    baseline = [line for line in metrics if line["phase"] == "baseline" and "loss" in line]
    assert baseline and all("kd_loss" not in line for line in baseline)
    assert next(line["step"] for line in metrics if "evaluation_bits_per_byte" in line) == 0


def test_a_resumed_training_equals_an_uninterrupted_one(finished, tmp_path, monkeypatch):
    config, data, run, teacher, *_ = finished
    broken = make_run(tmp_path)
    on_step_end = Progress.on_step_end

    def stop_at_five(self, args, state, control, **rest):
        on_step_end(self, args, state, control, **rest)
        if state.global_step == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Progress, "on_step_end", stop_at_five)
        stage.distill(make_plan(config, broken, data), teacher)
    assert not (broken.path / "student").exists()
    assert (broken.path / "checkpoints" / "student" / "checkpoint-3").is_dir()
    # stopped while it saved: the newer checkpoint is not complete
    (broken.path / "checkpoints" / "student" / "checkpoint-5").mkdir()
    (broken.path / "checkpoints" / "student" / "checkpoint-5" / "config.json").write_text("{}")
    stage.distill(make_plan(config, broken, data), teacher, resume=True)
    expected = weights(run, "student")
    assert all(torch.equal(value, expected[name]) for name, value in weights(broken, "student").items())
    steps = [line["step"] for line in broken.read_metrics() if "loss" in line]
    assert steps == [1, 2, 3, 4, 5, 6]
    whole = [line["loss"] for line in run.read_metrics() if line["phase"] == "student" and "loss" in line]
    resumed = [line for line in broken.read_metrics() if "loss" in line]
    assert [line["loss"] for line in resumed] == pytest.approx(whole, rel=1e-6)
    terms = [line["ce_loss"] for line in run.read_metrics() if line["phase"] == "student" and "loss" in line]
    assert [line["ce_loss"] for line in resumed] == pytest.approx(terms, rel=1e-6)


def test_resuming_a_finished_phase_trains_nothing(finished, monkeypatch):
    config, data, run, teacher, _, results = finished
    monkeypatch.setattr(stage, "make_trainer", lambda *arguments: pytest.fail("trained again"))
    assert stage.distill(make_plan(config, run, data), teacher, resume=True) == results[0]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_gradient_checkpointing_changes_no_result(finished, tmp_path, precision):
    config, data, _, teacher, *_ = finished
    hardware = Hardware("cpu", "cpu", precision, "cpu", "test")
    losses = []
    for checkpointing in (False, True):
        changed = config.train.model_copy(update={"gradient_checkpointing": checkpointing})
        run = make_run(tmp_path, f"{checkpointing}")
        changed_config = config.model_copy(update={"train": changed})
        trainer = make_trainer(changed_config, run, data, teacher, steps=3, hardware=hardware)
        trainer.train()
        assert next(trainer.model.parameters()).dtype == torch.float32
        losses.append([line["loss"] for line in trainer.state.log_history if "loss" in line])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_heads_padded_beyond_the_tokenizer_are_cropped(finished, tmp_path):
    config, data, _, teacher, *_ = finished
    student = make_student(config, data)
    padded, padded_teacher = copy.deepcopy(student), copy.deepcopy(teacher.model)
    for model, tokenizer in ((padded, data.student_tokenizer), (padded_teacher, data.teacher_tokenizer)):
        model.resize_token_embeddings(len(tokenizer) + 7)
        with torch.no_grad():
            model.get_output_embeddings().weight[len(tokenizer) :] = 50.0
    results = []
    for name, model, asked in (("as it is", student, teacher.model), ("padded", padded, padded_teacher)):
        asked, run = Teacher(asked, "tiny", True), make_run(tmp_path, name)
        plan = make_plan(config, run, data)
        trainer = stage.make_trainer(plan, plan.stages[0], model, asked)
        assert isinstance(trainer, DistillationTrainer)
        loss, terms = trainer.compute_step(model, trainer.data_collator([0, 1]), 20)
        loss.backward()
        gradient = model.get_output_embeddings().weight.grad
        results.append(({name: value.item() for name, value in terms.items()}, gradient))
    (expected, gradient), (got, padded_gradient) = results
    assert got == pytest.approx(expected)
    assert torch.allclose(padded_gradient[: len(gradient)], gradient, atol=1e-6)
    assert (padded_gradient[len(gradient) :] == 0).all()


SMALL = {"hidden_size": 16, "num_layers": 1, "intermediate_size": 32}
CASES = {
    "one tokenizer": {"student": {"build": SMALL | {"tokenizer": "teacher"}}, "distill": {"loss": "forward_kl"}},
    "projected": {"distill": {"loss": "projected_kl"}},
    "spans": {"distill": {"loss": "uld"}},
    "cached": {"distill": {"loss": "projected_kl"}, "cache": {"enabled": True, "top_k": 16}},
    "layers": {
        "distill": {
            "weights": {"feature": 1.0, "attention": 1.0, "layerwise": 1.0, "contrastive": 1.0},
            "balance": True,
        }
    },
}


def configure_cases(folder: Path, batch_size: int) -> dict[str, Config]:
    train = {"batch_size": batch_size, "save_every": 100}
    return {case: make_config(folder, train=train, **changes) for case, changes in CASES.items()}


def train_cases(configs: dict[str, Config], folder: Path, name: str) -> dict[str, list[dict[str, float]]]:
    """Train three steps of each case in this process, or in as many as there are; return what was logged."""
    lines = {}
    for case, config in configs.items():
        data, run = cut_unevenly(make_data(config, folder)), Run(folder / "runs" / f"{name} {case}", folder / "cache")
        teacher = source.open_teacher(make_plan(config, run, data)) if config.cache.enabled else make_teacher(data)
        trainer = make_trainer(config, run, data, teacher, steps=3)
        trainer.train()
        lines[case] = [line for line in trainer.state.log_history if "loss" in line]
    return lines


def train_as_process(rank: int, port: int, configs: dict[str, Config], folder: Path) -> None:
    """Train as one of two processes; the first one writes what was logged."""
    join_group(rank, port)
    lines = train_cases(configs, folder, "two")
    if rank == 0:
        (folder / "two.json").write_text(json.dumps(lines))


def test_two_processes_of_two_equal_one_of_four(tmp_path, monkeypatch):
    """Gloo on this machine; sequences are dealt out in turn, so the optimizer steps see the same ones."""
    data = cut_unevenly(make_data(make_config(tmp_path), tmp_path))
    monkeypatch.setattr(source, "prepare_teacher", lambda *_: make_teacher(data))
    one = train_cases(configure_cases(tmp_path, 4), tmp_path, "one")  # builds the cache that the others read
    # made here once: making a configuration writes the corpus
    run_two(train_as_process, configure_cases(tmp_path, 2), tmp_path, preload=("tests.crossed", "tests.tiny"))
    two = json.loads((tmp_path / "two.json").read_text())
    assert two.keys() == one.keys() == CASES.keys()
    for case in CASES:
        for name in ["loss", "grad_norm", *(name for name in one[case][0] if name.endswith(("_loss", "_weighted")))]:
            expected = pytest.approx([line[name] for line in one[case]], rel=1e-3)
            assert [line[name] for line in two[case]] == expected, (case, name)


def test_without_stages_the_steps_follow_the_epochs_unless_max_steps_is_set(finished):
    config, data, *_ = finished
    assert [plan.steps for plan in plan_stages(config, data)] == [6]
    epochs = config.train.model_copy(update={"max_steps": None, "num_train_epochs": 2.0})
    expected = -(-2 * len(data.train) // 8)
    assert [plan.steps for plan in plan_stages(config.model_copy(update={"train": epochs}), data)] == [expected]
