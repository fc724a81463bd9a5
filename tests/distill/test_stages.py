"""Training in stages: what each one inherits, and what is refused before any is trained."""

import math

import pytest

from kdkit.config.language import config_from_values
from kdkit.config.losses import ALM, ForwardKL, JensenShannon, ProjectedKL
from kdkit.config.training import ParameterRule
from kdkit.distill import train
from kdkit.distill.plan import Stage, stretch
from kdkit.errors import UserError
from kdkit.training.options.batch_plan import sequences_per_step
from kdkit.training.trainer import LanguageModelTrainer
from tests.distill.staged import with_stages
from tests.tiny import make_config, make_data, make_plan, make_run, plan_stages, save_teacher

pytestmark = pytest.mark.usefixtures("one_thread")

# the plan


def test_without_stages_there_is_one_with_the_settings_of_the_training(parts):
    config, data, _ = parts
    rule = ParameterRule(pattern="norm", lr_multiplier=2.0)
    config = with_stages(config, parameter_lr_multipliers=[rule])
    assert plan_stages(config, data) == [Stage("", 6, 0, 0.005, [rule], ProjectedKL(), 0.5, 1.0)]


def test_a_stage_is_as_long_as_its_steps_or_its_passes(parts):
    config, data, _ = parts
    per_step = sequences_per_step(config.train)
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
    assert stage == Stage("a", 1, 0, 0.02, rules, ProjectedKL(), 0.7, 2.0)


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
    return Stage(f"from{first_step}", steps, first_step, 1.0, [], ForwardKL(), 0.5, 1.0)


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
        lambda run: train.distill(make_plan(config, run, data), teacher),
        lambda run: train.train_baseline(make_plan(config, run, data)),
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
    with pytest.raises(UserError, match="expected losses that compare student tokens, which the cache holds") as caught:
        make_plan(config, run, data)
    assert "stage 'second', which compares common tokens" in str(caught.value)
