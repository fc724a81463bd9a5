"""Stages that are trained: each with an optimizer of its own, and a stop anywhere is harmless."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kdkit.config.losses import ALM
from kdkit.distill import train
from kdkit.distill.student import make_student
from kdkit.distill.trainer import DistillationTrainer
from kdkit.runs.folder import Run
from kdkit.training.progress import Progress
from kdkit.training.trainer import LanguageModelTrainer
from tests.distill.staged import FROZEN, STAGES, metrics, weights, with_stages
from tests.tiny import make_plan, make_run, plan_stages

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def finished(parts, tmp_path_factory, one_thread) -> Run:
    """A run of which student and baseline went through both stages."""
    config, data, teacher = parts
    run = make_run(tmp_path_factory.mktemp("finished"))
    train.distill(make_plan(config, run, data), teacher)
    train.train_baseline(make_plan(config, run, data))
    return run


@pytest.fixture
def trainers(monkeypatch) -> list[LanguageModelTrainer]:
    """Collect the trainers of all stages that are trained from here on."""
    made: list[LanguageModelTrainer] = []
    make = train.make_trainer
    monkeypatch.setattr(train, "make_trainer", lambda *arguments: made.append(make(*arguments)) or made[-1])
    return made


# training


def test_every_stage_has_the_loss_and_the_weights_that_it_was_given(parts, tmp_path, trainers):
    config, data, teacher = parts
    train.distill(make_plan(config, make_run(tmp_path), data), teacher)
    first, second = trainers
    assert isinstance(first, DistillationTrainer) and isinstance(second, DistillationTrainer)
    assert (first.objective.events.name, first.objective.kd_ratio) == ("student tokens", 0.5)
    assert (second.objective.span_loss.settings, second.objective.kd_ratio) == (ALM(), 0.3)
    assert [trainer.state.global_step for trainer in trainers] == [3, 4]
    assert first.model is second.model


def test_every_stage_has_an_optimizer_and_a_learning_rate_of_its_own(parts, tmp_path, trainers):
    config, data, teacher = parts
    train.distill(make_plan(config, run := make_run(tmp_path), data), teacher)
    first, second = trainers
    assert first.optimizer is not second.optimizer
    assert {int(state["step"]) for state in first.optimizer.optimizer.state.values()} == {3}
    assert {int(state["step"]) for state in second.optimizer.optimizer.state.values()} == {4}
    rates = metrics(run, name="learning_rate")
    for index, (stage, got) in enumerate(zip(plan_stages(config, data), (rates[:3], rates[3:]), strict=True)):
        alone = make_run(tmp_path, f"alone{index}")
        train.train_baseline(
            make_plan(with_stages(config, max_steps=stage.steps, learning_rate=stage.learning_rate), alone, data)
        )
        assert got == metrics(alone, "baseline", "learning_rate")
    assert max(rates[:3]) > max(rates[3:]) > 0.0


def test_frozen_weights_stay_in_the_first_stage_and_move_in_the_second(parts, tmp_path, monkeypatch):
    config, data, teacher = parts
    at_the_end: list[dict[str, torch.Tensor]] = []
    save = train.save_stage

    def keep(folder, student, *rest):
        at_the_end.append({name: value.clone() for name, value in student.state_dict().items()})
        save(folder, student, *rest)

    monkeypatch.setattr(train, "save_stage", keep)
    train.distill(make_plan(config, run := make_run(tmp_path), data), teacher)
    before, (between,), after = make_student(config, data).state_dict(), at_the_end, weights(run)
    frozen = {"model.embed_tokens.weight", "lm_head.weight"}
    assert {name for name, value in before.items() if torch.equal(value, between[name])} == frozen
    assert not any(torch.equal(value, after[name]) for name, value in between.items())


def test_metrics_count_the_steps_of_all_stages(finished):
    for phase in ("student", "baseline"):
        assert metrics(finished, phase, "step") == [1, 2, 3, 4, 5, 6, 7]
        points = [line["step"] for line in metrics(finished, phase) if "evaluation_bits_per_byte" in line]
        # at the start, at every fourth step of the whole, and at the end of each stage
        assert points == [0, 3, 4, 7]


def test_the_result_counts_all_stages_and_the_table_says_what_was_frozen(finished, parts):
    results = finished.read_json("training.json")
    assert results["student"]["steps"] == results["baseline"]["steps"] == 7
    table = results["student_parameters"]
    assert [(row["stage"], row["pattern"]) for row in table if not row["lr_multiplier"]] == [("frozen", FROZEN)]
    assert {row["learning_rate"] for row in table if row["stage"] == "whole"} == {0.005}
    assert results["baseline_parameters"] == table
    num_parameters = sum(parameter.numel() for parameter in make_student(*parts[:2]).parameters())
    for name in ("frozen", "whole"):
        assert sum(row["parameters"] for row in table if row["stage"] == name) == num_parameters


def test_nothing_is_left_of_the_stages_but_the_trained_models(finished):
    assert not (finished.path / "checkpoints").exists() or not list((finished.path / "checkpoints").iterdir())
    assert {"student", "baseline"} <= {path.name for path in finished.path.iterdir()}
    assert not list(finished.path.glob(".*"))


def test_the_baseline_goes_through_the_same_stages_without_a_teacher(finished, parts, tmp_path, trainers):
    config, data, _ = parts
    train.train_baseline(make_plan(config, make_run(tmp_path), data))
    assert [type(trainer) for trainer in trainers] == [LanguageModelTrainer] * 2
    assert [trainer.rules for trainer in trainers] == [stage.rules for stage in plan_stages(config, data)]
    assert metrics(finished, "baseline", "learning_rate") == metrics(finished, "student", "learning_rate")
    assert not any("kd_loss" in line for line in metrics(finished, "baseline"))


def test_student_and_baseline_read_the_same_sequences_in_every_stage(parts, tmp_path):
    config, data, teacher = parts
    read: dict[str, list] = {}
    for stage in plan_stages(config, data):
        for asked in (teacher, None):
            student = make_student(config, data)
            plan = make_plan(config, make_run(tmp_path, f"{stage.name}{asked is None}"), data)
            trainer = train.make_trainer(plan, stage, student, asked, "x")
            batches = [batch["input_ids"].tolist() for batch in trainer.get_train_dataloader()]
            assert read.setdefault(stage.name, batches) == batches
    assert read["frozen"][0] != read["whole"][0]


def test_the_equal_time_baseline_stretches_the_stages(parts, tmp_path, trainers):
    config, data, _ = parts
    run = make_run(tmp_path)
    cost = {"steps": 7, "tokens": 0, "skipped_steps": 0}
    results = {
        "student": cost | {"phase": "student", "seconds": 2.0},
        "baseline": cost | {"phase": "baseline", "seconds": 1.0},
    }
    run.write_json("training.json", results)
    assert train.train_equal_time_baseline(make_plan(config, run, data)).steps == 14
    assert [trainer.state.global_step for trainer in trainers] == [6, 8]
    assert metrics(run, "baseline_equal_time", "step") == list(range(1, 15))


def test_a_kd_ratio_of_zero_in_every_stage_is_the_baseline(parts, finished, tmp_path):
    config, data, teacher = parts
    stages = [{**stage, "kd_ratio": 0.0} for stage in STAGES]
    train.distill(make_plan(with_stages(config, *stages), run := make_run(tmp_path), data), teacher)
    expected = weights(finished, "baseline")
    assert all(torch.allclose(value, expected[name], atol=1e-6) for name, value in weights(run).items())


def test_one_stage_with_nothing_set_is_the_training_without_stages(parts, tmp_path):
    config, data, teacher = parts
    results = []
    for name, stages in (("none", []), ("one", [{"name": "only", "max_steps": 6}])):
        train.distill(make_plan(with_stages(config, *stages), run := make_run(tmp_path, name), data), teacher)
        results.append((metrics(run), weights(run)))
    assert results[0][0] == results[1][0]
    assert all(torch.equal(value, results[1][1][name]) for name, value in results[0][1].items())


# resuming


def stop_at_step(step: int) -> Callable:
    """Stop when an optimizer step of the whole training is done."""

    def patch(monkeypatch) -> None:
        on_step_end = Progress.on_step_end

        def stop(self, args, state, control, **rest):
            on_step_end(self, args, state, control, **rest)
            if self.first_step + state.global_step == step:
                raise KeyboardInterrupt

        monkeypatch.setattr(Progress, "on_step_end", stop)

    return patch


def stop_in(function: str, call: int = 1, after: bool = False) -> Callable:
    """Stop at a call of a function of the stage, before or after it did its work."""

    def patch(monkeypatch) -> None:
        original, calls = getattr(train, function), []

        def stop(*arguments):
            calls.append(function)
            if len(calls) == call and not after:
                raise KeyboardInterrupt
            result = original(*arguments)
            if len(calls) == call:
                raise KeyboardInterrupt
            return result

        monkeypatch.setattr(train, function, stop)

    return patch


def stop_while_the_weights_are_saved(monkeypatch) -> None:
    """Stop when the weights of the first stage are written, but the folder has not its name yet."""
    rename = Path.rename

    def stop(self, target):
        if self.name == ".finished.partial":
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", stop)


STOPS = {
    "step 1, no checkpoint": stop_at_step(1),
    "step 2": stop_at_step(2),
    "step 3, the last of the first stage": stop_at_step(3),
    "before the weights are kept": stop_in("save_stage"),
    "while the weights are kept": stop_while_the_weights_are_saved,
    "after the weights were kept": stop_in("save_stage", after=True),
    "before the second stage": stop_in("make_trainer", call=2),
    "step 4, the first of the second stage": stop_at_step(4),
    "step 6, after a checkpoint": stop_at_step(6),
    "step 7, the last": stop_at_step(7),
    "before the model is saved": stop_in("save_trained"),
    "after the model was saved": stop_in("save_trained", after=True),
}


@pytest.mark.parametrize(
    ("phase", "point"),
    [*(("student", point) for point in STOPS), ("baseline", "step 2"), ("baseline", "step 6, after a checkpoint")],
)
def test_a_training_stopped_anywhere_resumes_to_the_same_bits(parts, finished, tmp_path, monkeypatch, phase, point):
    config, data, teacher = parts
    run = make_run(tmp_path)

    def go(resume: bool) -> None:
        if phase == "student":
            train.distill(make_plan(config, run, data), teacher, resume)
        else:
            train.train_baseline(make_plan(config, run, data), resume)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        STOPS[point](patch)
        go(resume=False)
    assert phase not in (run.read_json("training.json") if (run.path / "training.json").is_file() else {})
    go(resume=True)
    expected = weights(finished, phase)
    assert all(torch.equal(value, expected[name]) for name, value in weights(run, phase).items())
    assert metrics(run, phase) == metrics(finished, phase)
    table = f"{phase}_parameters"
    assert run.read_json("training.json")[table] == finished.read_json("training.json")[table]
    assert not list((run.path / "checkpoints").glob("*"))


def stopped_at_step_5(parts, tmp_path, monkeypatch):
    """Return the plan of a training that was stopped in its second stage, and its teacher."""
    config, data, teacher = parts
    plan = make_plan(config, make_run(tmp_path), data)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_at_step(5)(patch)
        train.distill(plan, teacher)
    return plan, teacher


def test_a_finished_stage_is_not_trained_again(parts, tmp_path, monkeypatch, trainers):
    plan, teacher = stopped_at_step_5(parts, tmp_path, monkeypatch)
    trainers.clear()
    train.distill(plan, teacher, resume=True)
    assert [trainer.args.max_steps for trainer in trainers] == [4]


def test_without_resume_everything_is_trained_anew(parts, finished, tmp_path, monkeypatch, trainers):
    plan, teacher = stopped_at_step_5(parts, tmp_path, monkeypatch)
    trainers.clear()
    train.distill(plan, teacher)
    assert [trainer.args.max_steps for trainer in trainers] == [3, 4]
    assert metrics(plan.session.run) == metrics(finished)


def test_the_teacher_is_the_same_after_all_stages(parts, tmp_path):
    config, data, teacher = parts
    before = [parameter.clone() for parameter in teacher.model.parameters()]
    train.distill(make_plan(config, make_run(tmp_path), data), teacher)
    assert all(torch.equal(a, b) for a, b in zip(teacher.model.parameters(), before, strict=True))
