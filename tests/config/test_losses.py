"""Losses and their options, stages, rules and the cache, as they are written in a configuration."""

import re
from typing import get_args

import pytest
import torch
import yaml

from kdkit.config.language import Config, DistillConfig, config_from_values, dump_config, load_config
from kdkit.config.losses import LossSettings, loss_options
from kdkit.distill.choose_loss import divergence_of
from kdkit.errors import UserError
from kdkit.losses.closed_forms import MEASURES
from kdkit.losses.measures import make_measure
from tests.references import random_logits

OPTIONS = {
    "auto": [],
    "forward_kl": [],
    "reverse_kl": [],
    "jsd": ["teacher_weight"],
    "skewed_forward_kl": ["skew"],
    "skewed_reverse_kl": ["skew"],
    "tvd": [],
    "adaptive_kl": ["head_mass"],
    "overlap_kl": ["divergence"],
    "projected_kl": ["divergence"],
    "xtoken_p_kl": ["kept_teacher_ids"],
    "xtoken_h_kl": ["min_weight", "kept_uncommon"],
    "alm": ["likelihood_temperature"],
    "gold": ["teacher_weight"],
    "uld": [],
    "cdm": ["top_k"],
}


def loss_of(value: object) -> LossSettings:
    return config_from_values({"distill": {"loss": value}}).distill.loss


def refusal(values: dict) -> str:
    """Return the message with which a configuration is refused; it must fit one line."""
    with pytest.raises(UserError) as caught:
        config_from_values(values)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_loss_takes_its_own_options_and_no_other():
    assert loss_options() == OPTIONS
    for name, options in OPTIONS.items():
        foreign = next(option for others in OPTIONS.values() for option in others if option not in options)
        message = refusal({"distill": {"loss": {"name": name, foreign: 0.5}}})
        takes = ", ".join(options) or "no option"
        assert message == (
            f"distill.loss.{foreign}: expected an option that '{name}' takes ({takes}), got '{foreign}'; leave it out"
        )


@pytest.mark.parametrize("name", OPTIONS)
def test_a_loss_is_its_name_or_a_section_with_that_name(name):
    assert loss_of(name) == loss_of({"name": name})
    assert loss_of(name).name == name


@pytest.mark.parametrize("name", OPTIONS)
def test_the_documentation_of_the_setting_names_every_loss(name):
    assert re.search(rf"\b{name}\b", DistillConfig.model_fields["loss"].description)


def test_every_loss_and_option_says_what_it_is():
    union, *_ = get_args(LossSettings)
    for member in get_args(union):
        assert member.__doc__ and "\n\n" not in member.__doc__, member
        assert all(field.description for name, field in member.model_fields.items() if name != "name"), member


def test_the_losses_over_one_vocabulary_are_the_divergences_that_others_take_inside():
    for outer in ("overlap_kl", "projected_kl"):
        for name in MEASURES:
            inside = divergence_of(loss_of({"name": outer, "divergence": name}))
            assert inside == loss_of(name) == divergence_of(loss_of(name))
    message = refusal({"distill": {"loss": {"name": "projected_kl", "divergence": "uld"}}})
    assert message.startswith("distill.loss.divergence: expected 'forward_kl'") and "got 'uld'" in message


def test_a_divergence_inside_a_loss_takes_its_options():
    value = {"name": "projected_kl", "divergence": {"name": "jsd", "teacher_weight": 0.2}}
    assert divergence_of(loss_of(value)).teacher_weight == 0.2
    value["divergence"] = {"name": "jsd", "skew": 0.2}
    expected = "distill.loss.divergence.skew: expected an option that 'jsd' takes (teacher_weight)"
    assert refusal({"distill": {"loss": value}}).startswith(expected)


@pytest.mark.parametrize(("name", "option"), [(name, option) for name in MEASURES for option in OPTIONS[name]])
def test_the_option_of_a_divergence_changes_what_it_computes(name, option):
    logprobs = [torch.log_softmax(random_logits(4, 9, seed=seed), -1) for seed in (0, 1)]
    values = [make_measure(loss_of({"name": name, option: value}))(*logprobs)[0] for value in (0.2, 0.9)]
    assert not torch.allclose(*values)


@pytest.mark.parametrize("name", MEASURES)
def test_the_default_options_of_a_divergence_are_those_of_its_function(name):
    logprobs = [torch.log_softmax(random_logits(4, 9, seed=seed), -1) for seed in (0, 1)]
    assert torch.equal(make_measure(loss_of(name))(*logprobs)[0], MEASURES[name](*logprobs)[0])


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ("kl", "distill.loss: expected 'auto', 'forward_kl'"),
        ({"name": "kl"}, "distill.loss: expected 'auto', 'forward_kl'"),
        ({"teacher_weight": 0.1}, "distill.loss: expected a name, or {name: ..., options}"),
        (3, "distill.loss: expected"),
        (None, "distill.loss: expected"),
        ({"name": "jsd", "teacher_weight": 0}, "distill.loss.teacher_weight: expected greater than 0"),
        ({"name": "jsd", "teacher_weight": 1.0}, "distill.loss.teacher_weight: expected less than 1"),
        ({"name": "skewed_forward_kl", "skew": "much"}, "distill.loss.skew: expected"),
        ({"name": "alm", "likelihood_temperature": 0.0}, "distill.loss.likelihood_temperature: expected greater"),
        ({"name": "alm", "likelihood_temperature": ".inf"}, "distill.loss.likelihood_temperature: expected"),
        ({"name": "cdm", "top_k": 0}, "distill.loss.top_k: expected greater than or equal to 1"),
        ({"name": "cdm", "top_k": 2.5}, "distill.loss.top_k: expected"),
        ({"name": "xtoken_h_kl", "min_weight": 1.1}, "distill.loss.min_weight: expected less than or equal to 1"),
    ],
    ids=str,
)
def test_a_loss_that_cannot_be_read_is_refused_with_its_path(loss, message):
    assert refusal({"distill": {"loss": loss}}).startswith(message)


def test_a_loss_can_be_set_on_the_command_line(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("distill: {loss: uld}")
    assert load_config(path, ["distill.loss=jsd"]).distill.loss == loss_of("jsd")
    loss = load_config(path, ["distill.loss={name: jsd, teacher_weight: 0.1}"]).distill.loss
    assert loss == loss_of({"name": "jsd", "teacher_weight": 0.1})
    path.write_text("distill: {loss: {name: jsd, teacher_weight: 0.1}}")
    assert load_config(path, ["distill.loss.teacher_weight=3e-1"]).distill.loss.teacher_weight == 0.3


@pytest.mark.parametrize("name", OPTIONS)
def test_a_dumped_loss_is_read_back(name):
    config = config_from_values({"distill": {"loss": name}, "train": {"stages": [{"name": "a", "max_steps": 1}]}})
    assert config_from_values(yaml.safe_load(dump_config(config))) == config


def test_a_loss_cannot_be_changed_once_loaded():
    with pytest.raises(ValueError, match="frozen"):
        loss_of("jsd").teacher_weight = 0.3


# ---- stages, rules, cache ----


def test_a_stage_says_how_long_it_lasts_and_takes_the_rest_from_the_training():
    config = config_from_values({"train": {"stages": [{"name": "first", "max_steps": 5, "loss": "alm"}]}})
    (stage,) = config.train.stages
    assert stage.loss == loss_of("alm")
    others = {name: value for name, value in stage if name not in ("name", "max_steps", "loss")}
    assert set(others.values()) == {None}


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([{"name": "a"}], "train.stages: expected max_steps or num_train_epochs in stage 'a', got neither"),
        ([{"name": "a", "max_steps": 0}], "train.stages: expected max_steps or num_train_epochs in stage 'a'"),
        ([{"name": "../a", "max_steps": 1}], "train.stages.0.name: expected"),
        ([{"max_steps": 1}], "train.stages.0.name: expected"),
        ([{"name": "a", "max_steps": 1, "loss": "jds"}], "train.stages.0.loss: did you mean 'jsd'? Got 'jds', "),
        ([{"name": "a", "max_steps": 1, "kd_ratio": 2}], "train.stages.0.kd_ratio: expected less than or equal to 1"),
        ([{"name": "a", "max_steps": 1, "on_policy": {"share": 0}}], "train.stages.0.on_policy.share: expected"),
        ([{"name": "a", "max_steps": 1, "steps": 2}], "train.stages.0.steps: expected a known key"),
        ([{"name": "a", "max_steps": 1}] * 2, "train.stages: expected a name of its own for every stage, got 'a'"),
    ],
    ids=str,
)
def test_a_stage_that_cannot_be_read_is_refused(stages, message):
    assert refusal({"train": {"stages": stages}}).startswith(message)


def test_a_rule_with_a_broken_pattern_is_refused_with_the_reason():
    message = refusal({"train": {"parameter_lr_multipliers": [{"pattern": "(", "lr_multiplier": 1}]}})
    assert "expected a regular expression, got '('" in message and "unterminated" in message


def test_a_rule_cannot_have_a_negative_learning_rate():
    message = refusal({"train": {"parameter_lr_multipliers": [{"pattern": ".", "lr_multiplier": -1}]}})
    assert message.startswith("train.parameter_lr_multipliers.0.lr_multiplier: expected greater than or equal to 0")


@pytest.mark.parametrize(
    ("key", "value"),
    [("mode", "topk"), ("tail", "ghosts"), ("top_k", 0), ("num_samples", 256), ("samples_per_chunk", 0)],
)
def test_a_cache_that_cannot_be_made_is_refused(key, value):
    message = refusal({"cache": {key: value}})
    assert message.startswith(f"cache.{key}: ") and "expected " in message and repr(value) in message


def test_no_cache_is_used_unless_it_is_asked_for():
    assert Config().cache.enabled is False
