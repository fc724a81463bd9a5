"""Training in stages: what each one inherits, its own optimizer, and that a stop anywhere is harmless."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from kdkit.config.language import Config, config_from_values
from kdkit.config.losses import ALM, ForwardKL, JensenShannon, ProjectedKL
from kdkit.config.training import ParameterRule, StageSettings
from kdkit.data.prepare import PreparedData
from kdkit.distill import open_teacher as source
from kdkit.distill import train
from kdkit.distill.stages import Stage, plan_stages, sequences_per_step, stretch
from kdkit.distill.student import make_student
from kdkit.distill.trainer import DistillationTrainer
from kdkit.errors import UserError
from kdkit.runs.folder import Run
from kdkit.teachers.prepare import Teacher
from kdkit.training.progress import Progress
from kdkit.training.trainer import LanguageModelTrainer
from tests.tiny import make_config, make_data, make_run, make_session, make_teacher, save_teacher

pytestmark = pytest.mark.usefixtures("one_thread")

FROZEN = "embed_tokens|lm_head"
STAGES = [
    {
        "name": "frozen",
        "max_steps": 3,
        "learning_rate": 0.01,
        "parameter_lr_multipliers": [{"pattern": FROZEN, "lr_multiplier": 0.0}],
    },
    {"name": "whole", "max_steps": 4, "loss": "alm", "kd_ratio": 0.3},
]
Parts = tuple[Config, PreparedData, Teacher]


def with_stages(config: Config, *stages: dict, **train_settings: object) -> Config:
    changes = {"stages": [StageSettings.model_validate(stage) for stage in stages], **train_settings}
    return config.model_copy(update={"train": config.train.model_copy(update=changes)})


def weights(run: Run, phase: str = "student") -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(run.path / phase).state_dict()


def metrics(run: Run, phase: str = "student", name: str = "") -> list:
    """Return a phase's metrics without their times; or one value of its lines of losses."""
    lines = [line for line in run.read_metrics() if line["phase"] == phase]
    if name:
        return [line[name] for line in lines if "loss" in line]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Parts:
    """A configuration with two stages, its data for two tokenizers, and a teacher."""
    folder = tmp_path_factory.mktemp("stages")
    config = make_config(folder, train={"save_every": 2, "evaluate_every": 4, "stages": STAGES, "learning_rate": 0.005})
    data = make_data(config, folder)
    return config, data, make_teacher(data)


@pytest.fixture(scope="module")
def finished(parts, tmp_path_factory, one_thread) -> Run:
    """A run of which student and baseline went through both stages."""
    config, data, teacher = parts
    run = make_run(tmp_path_factory.mktemp("finished"))
    train.distill(make_session(config, run), data, teacher)
    train.train_baseline(make_session(config, run), data)
    return run


@pytest.fixture
def trainers(monkeypatch) -> list[LanguageModelTrainer]:
    """Collect the trainers of all stages that are trained from here on."""
    made: list[LanguageModelTrainer] = []
    make = train.make_trainer
    monkeypatch.setattr(train, "make_trainer", lambda *arguments: made.append(make(*arguments)) or made[-1])
    return made


# the plan


def test_without_stages_there_is_one_with_the_settings_of_the_training(parts):
    config, data, _ = parts
    rule = ParameterRule(pattern="norm", lr_multiplier=2.0)
    config = with_stages(config, parameter_lr_multipliers=[rule])
    assert plan_stages(config, data) == [Stage("", 6, ProjectedKL(), 0.5, 1.0, 0.005, [rule], None, 0)]


def test_a_stage_is_as_long_as_its_steps_or_its_passes(parts):
    config, data, _ = parts
    per_step = sequences_per_step(config)
    assert per_step == 8 and len(data.train) % 8
    stages = plan_stages(
        with_stages(
            config,
            {"name": "a", "max_steps": 5},
            {"name": "b", "num_train_epochs": 2.0},
            {"name": "c", "num_train_epochs": 0.01},
            {"name": "d", "num_train_epochs": 9.0, "max_steps": 2},
        ),
        data,
    )
    passes = math.ceil(2 * len(data.train) / 8)
    assert [stage.steps for stage in stages] == [5, passes, 1, 2]
    assert [stage.first_step for stage in stages] == [0, 5, 5 + passes, 6 + passes]


def test_a_stage_inherits_what_it_does_not_set(parts):
    config, data, _ = parts
    rules = [ParameterRule(pattern="norm", lr_multiplier=2.0)]
    distill = config.distill.model_copy(update={"kd_ratio": 0.7, "temperature": 2.0, "loss": ProjectedKL()})
    config = with_stages(config, {"name": "a", "max_steps": 1}, parameter_lr_multipliers=rules, learning_rate=0.02)
    (stage,) = plan_stages(config.model_copy(update={"distill": distill}), data)
    assert stage == Stage("a", 1, ProjectedKL(), 0.7, 2.0, 0.02, rules, None, 0)


def test_a_stage_keeps_what_it_sets(parts):
    config, data, _ = parts
    settings = {
        "name": "a",
        "max_steps": 1,
        "learning_rate": 0.5,
        "loss": {"name": "projected_kl", "divergence": "jsd"},
        "kd_ratio": 0.0,
        "temperature": 3.0,
        "parameter_lr_multipliers": [],
        "on_policy": {"prompt_length": 3},
    }
    config = with_stages(config, settings, parameter_lr_multipliers=[ParameterRule(pattern="x", lr_multiplier=2.0)])
    (stage,) = plan_stages(config, data)
    assert stage.loss == ProjectedKL(divergence=JensenShannon())
    assert (stage.learning_rate, stage.kd_ratio, stage.temperature, stage.rules) == (0.5, 0.0, 3.0, [])
    assert stage.on_policy.prompt_length == 3 and stage.on_policy.share == 1.0


def test_auto_in_a_stage_is_the_loss_of_the_training(parts):
    config, data, _ = parts
    config = config.model_copy(update={"distill": config.distill.model_copy(update={"loss": ALM()})})
    first, second = plan_stages(
        with_stages(config, {"name": "a", "max_steps": 1, "loss": "auto"}, {"name": "b", "max_steps": 1}), data
    )
    assert first.loss == second.loss == ALM()


def stage_of(steps: int, first_step: int) -> Stage:
    return Stage(f"from{first_step}", steps, ForwardKL(), 0.5, 1.0, 1.0, [], None, first_step)


@pytest.mark.parametrize("total", [1, 2, 3, 7, 10, 20, 33, 1000])
def test_stretched_stages_keep_their_proportions_and_come_to_the_total(total):
    stages = [stage_of(3, 0), stage_of(5, 3), stage_of(2, 8)]
    stretched = stretch(stages, total)
    assert sum(stage.steps for stage in stretched) == total
    assert all(stage.steps > 0 for stage in stretched)
    starts = [0]
    for stage in stretched:
        assert stage.first_step == starts[-1]
        starts.append(starts[-1] + stage.steps)
        share = next(before.steps for before in stages if before.name == stage.name) / 10
        assert abs(stage.steps - share * total) <= 1
    if total == 10:
        assert stretched == stages
    if total == 20:
        assert [stage.steps for stage in stretched] == [6, 10, 4]


def test_a_single_stage_is_stretched_to_the_total():
    assert stretch([stage_of(6, 0)], 17) == [stage_of(17, 0)]


# what is refused


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        (
            [{"name": "a", "max_steps": 1}, {"name": "a", "max_steps": 2}],
            "expected a name of its own for every stage, got 'a' twice",
        ),
        ([{"name": "a"}], "expected max_steps or num_train_epochs in stage 'a', got neither"),
        ([{"name": "a", "max_steps": 0}], "expected max_steps or num_train_epochs in stage 'a'"),
        ([{"name": "a", "max_steps": -1}], "max_steps: expected greater than or equal to 1, got -1"),
        ([{"name": "a", "num_train_epochs": -1.0}], "num_train_epochs: expected greater than 0, got -1.0"),
        ([{"name": "a b", "max_steps": 1}], "name: expected"),
        ([{"name": "../a", "max_steps": 1}], "name: expected"),
        ([{"max_steps": 1}], "name"),
        ([{"name": "a", "max_steps": 1, "steps": 2}], "known key"),
        ([{"name": "a", "max_steps": 1, "loss": "forward_lk"}], "forward_lk"),
        ([{"name": "a", "max_steps": 1, "on_policy": {"share": 0.0}}], "share: expected greater than 0, got 0.0"),
        ([{"name": "a", "max_steps": 1, "on_policy": {"prompt_length": 0}}], "prompt_length: expected greater"),
        (["a"], "train.stages"),
    ],
)
def test_stages_that_make_no_sense_are_refused_when_the_configuration_is_read(stages, words):
    with pytest.raises(UserError) as caught:
        config_from_values({"train": {"stages": stages}})
    message = str(caught.value)
    assert words in message and "\n" not in message and message.startswith("train.stages")


@pytest.mark.parametrize(
    ("stage", "cache", "words"),
    [
        ({"loss": "forward_kl"}, {}, "expected one tokenizer for 'forward_kl'"),
        ({"loss": "jsd", "on_policy": {}}, {}, "expected one tokenizer for 'jsd'"),
        ({"loss": "jsd", "on_policy": {}, "kd_ratio": 0.0}, {}, "expected one tokenizer for 'jsd'"),
        ({"loss": "alm", "temperature": 2.0}, {}, "distill.temperature: expected 1 for 'alm'"),
        ({"loss": "uld"}, {"enabled": True}, "got 'uld', which needs the teacher's whole row"),
        ({"loss": "alm"}, {"enabled": True}, "cache.mode: expected true_token for 'alm'"),
        ({"on_policy": {}}, {"enabled": True}, "the on-policy stage 'second', got a cache"),
        ({"on_policy": {}, "kd_ratio": 0.0}, {"enabled": True}, "the on-policy stage 'second', got a cache"),
    ],
)
def test_a_stage_that_cannot_be_trained_is_refused_by_the_plan(parts, stage, cache, words):
    config, data, _ = parts
    config = with_stages(config, {"name": "first", "max_steps": 1}, {"name": "second", "max_steps": 1, **stage})
    config = config.model_copy(update={"cache": config.cache.model_copy(update=cache)})
    with pytest.raises(UserError) as caught:
        plan_stages(config, data)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_loss_that_is_never_asked_needs_no_fitting_tokenizer(parts):
    config, data, _ = parts
    config = with_stages(config, {"name": "a", "max_steps": 1, "loss": "jsd", "kd_ratio": 0.0})
    assert plan_stages(config, data)[0].kd_ratio == 0.0


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ({"parameter_lr_multipliers": [{"pattern": "nothing", "lr_multiplier": 0.0}]}, "a pattern that matches"),
        ({"parameter_lr_multipliers": [{"pattern": ".", "lr_multiplier": 0.0}]}, "a rule that lets something learn"),
    ],
)
def test_a_wrong_rule_of_the_second_stage_is_found_before_the_first_is_trained(
    parts, tmp_path, monkeypatch, second, words
):
    config, data, teacher = parts
    config = with_stages(config, {"name": "first", "max_steps": 1}, {"name": "second", "max_steps": 1, **second})
    monkeypatch.setattr(LanguageModelTrainer, "train", lambda *_, **__: pytest.fail("trained"))
    for function in (
        lambda run: train.distill(make_session(config, run), data, teacher),
        lambda run: train.train_baseline(make_session(config, run), data),
    ):
        with pytest.raises(UserError, match=words):
            function(make_run(tmp_path, str(len(list(tmp_path.rglob("*"))))))


def test_a_stage_that_asks_what_the_cache_does_not_hold_is_found_before_the_first_is_trained(
    parts, tmp_path, monkeypatch
):
    _, data, _ = parts
    folder = tmp_path / "teacher"
    config = make_config(
        tmp_path,
        teacher={"path": str(save_teacher(data, folder))},
        cache={"enabled": True, "top_k": 8},
        train={"stages": [{"name": "first", "max_steps": 1}, {"name": "second", "max_steps": 1, "loss": "overlap_kl"}]},
    )
    data, run = make_data(config, tmp_path), make_run(tmp_path)
    signals = source.open_teacher(make_session(config, run), data)
    monkeypatch.setattr(LanguageModelTrainer, "train", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(UserError, match="expected losses that compare student tokens, which the cache holds") as caught:
        train.distill(make_session(config, run), data, signals)
    assert "stage 'second', which compares common tokens" in str(caught.value)


# training


def test_every_stage_has_the_loss_and_the_weights_that_it_was_given(parts, tmp_path, trainers):
    config, data, teacher = parts
    train.distill(make_session(config, make_run(tmp_path)), data, teacher)
    first, second = trainers
    assert isinstance(first, DistillationTrainer) and isinstance(second, DistillationTrainer)
    assert (first.objective.settings, first.objective.kd_ratio) == (ProjectedKL(), 0.5)
    assert (second.objective.settings, second.objective.kd_ratio) == (ALM(), 0.3)
    assert [trainer.state.global_step for trainer in trainers] == [3, 4]
    assert first.model is second.model


def test_every_stage_has_an_optimizer_and_a_learning_rate_of_its_own(parts, tmp_path, trainers):
    config, data, teacher = parts
    train.distill(make_session(config, run := make_run(tmp_path)), data, teacher)
    first, second = trainers
    assert first.optimizer is not second.optimizer
    assert {int(state["step"]) for state in first.optimizer.optimizer.state.values()} == {3}
    assert {int(state["step"]) for state in second.optimizer.optimizer.state.values()} == {4}
    rates = metrics(run, name="learning_rate")
    for index, (stage, got) in enumerate(zip(plan_stages(config, data), (rates[:3], rates[3:]), strict=True)):
        alone = make_run(tmp_path, f"alone{index}")
        train.train_baseline(
            make_session(with_stages(config, max_steps=stage.steps, learning_rate=stage.learning_rate), alone), data
        )
        assert got == metrics(alone, "baseline", "learning_rate")
    assert max(rates[:3]) > max(rates[3:]) > 0.0


def test_frozen_weights_stay_in_the_first_stage_and_move_in_the_second(parts, tmp_path, monkeypatch):
    config, data, teacher = parts
    at_the_end: list[dict[str, torch.Tensor]] = []
    save = train._save_finished

    def keep(folder, student, *rest):
        at_the_end.append({name: value.clone() for name, value in student.state_dict().items()})
        save(folder, student, *rest)

    monkeypatch.setattr(train, "_save_finished", keep)
    train.distill(make_session(config, run := make_run(tmp_path)), data, teacher)
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
    train.train_baseline(make_session(config, make_run(tmp_path)), data)
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
            trainer = train.make_trainer(
                make_session(config, make_run(tmp_path, f"{stage.name}{asked is None}")),
                data,
                student,
                asked,
                "x",
                stage,
            )
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
    assert train.train_equal_time_baseline(make_session(config, run), data).steps == 14
    assert [trainer.state.global_step for trainer in trainers] == [6, 8]
    assert metrics(run, "baseline_equal_time", "step") == list(range(1, 15))


def test_a_kd_ratio_of_zero_in_every_stage_is_the_baseline(parts, finished, tmp_path):
    config, data, teacher = parts
    stages = [{**stage, "kd_ratio": 0.0} for stage in STAGES]
    train.distill(make_session(with_stages(config, *stages), run := make_run(tmp_path)), data, teacher)
    expected = weights(finished, "baseline")
    assert all(torch.allclose(value, expected[name], atol=1e-6) for name, value in weights(run).items())


def test_one_stage_with_nothing_set_is_the_training_without_stages(parts, tmp_path):
    config, data, teacher = parts
    results = []
    for name, stages in (("none", []), ("one", [{"name": "only", "max_steps": 6}])):
        train.distill(make_session(with_stages(config, *stages), run := make_run(tmp_path, name)), data, teacher)
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
    "before the weights are kept": stop_in("_save_finished"),
    "while the weights are kept": stop_while_the_weights_are_saved,
    "after the weights were kept": stop_in("_save_finished", after=True),
    "before the second stage": stop_in("make_trainer", call=2),
    "step 4, the first of the second stage": stop_at_step(4),
    "step 6, after a checkpoint": stop_at_step(6),
    "step 7, the last": stop_at_step(7),
    "before the model is saved": stop_in("_save_model"),
    "after the model was saved": stop_in("_save_model", after=True),
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
            train.distill(make_session(config, run), data, teacher, resume)
        else:
            train.train_baseline(make_session(config, run), data, resume)

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


def test_a_finished_stage_is_not_trained_again(parts, tmp_path, monkeypatch, trainers):
    config, data, teacher = parts
    run = make_run(tmp_path)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_at_step(5)(patch)
        train.distill(make_session(config, run), data, teacher)
    trainers.clear()
    train.distill(make_session(config, run), data, teacher, resume=True)
    assert [trainer.args.max_steps for trainer in trainers] == [4]


def test_without_resume_everything_is_trained_anew(parts, finished, tmp_path, monkeypatch, trainers):
    config, data, teacher = parts
    run = make_run(tmp_path)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_at_step(5)(patch)
        train.distill(make_session(config, run), data, teacher)
    trainers.clear()
    train.distill(make_session(config, run), data, teacher)
    assert [trainer.args.max_steps for trainer in trainers] == [3, 4]
    assert metrics(run) == metrics(finished)


def test_the_teacher_is_the_same_after_all_stages(parts, tmp_path):
    config, data, teacher = parts
    before = [parameter.clone() for parameter in teacher.model.parameters()]
    train.distill(make_session(config, make_run(tmp_path)), data, teacher)
    assert all(torch.equal(a, b) for a, b in zip(teacher.model.parameters(), before, strict=True))
