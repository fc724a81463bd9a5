"""Adapters: they change nothing until they learn, are merged into an ordinary model, and are peft's own."""

import sys

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, GPT2Config

from kdkit.config.built.lora import LoraSettings
from kdkit.config.training import ParameterRule
from kdkit.errors import UserError
from kdkit.models.lora import (
    MARK,
    add_adapters,
    check_targets,
    count_adapters,
    find_targets,
    has_adapters,
    merged,
    save_adapters,
)
from kdkit.training.trainer import group_by_rules
from tests.pruned import IDS, make_model


def with_adapters(kind="llama", **settings):
    """Return a model with adapters that have learned something, and what it was without."""
    model = make_model(kind)
    before = model(input_ids=IDS).logits
    add_adapters(model, LoraSettings(**settings))
    assert torch.equal(model(input_ids=IDS).logits, before)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    return model.eval(), before


@pytest.mark.parametrize("kind", ["llama", "tied", "mixture"])
def test_adapters_are_merged_into_an_ordinary_model(kind, tmp_path):
    model, before = with_adapters(kind, rank=2, alpha=8)
    logits = model(input_ids=IDS).logits
    assert not torch.allclose(logits, before, atol=1e-2)
    merged(model).save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert not has_adapters(loaded) and has_adapters(model)
    assert loaded.state_dict().keys() == make_model(kind).state_dict().keys()
    assert torch.allclose(loaded(input_ids=IDS).logits, logits, atol=1e-4)


def test_what_is_kept_is_an_adapter_that_peft_reads(tmp_path):
    model, _ = with_adapters(rank=2, alpha=8)
    save_adapters(model, tmp_path)
    again = PeftModel.from_pretrained(make_model(), tmp_path)
    assert torch.allclose(again(input_ids=IDS).logits, model(input_ids=IDS).logits, atol=1e-5)


def test_adapters_alone_learn_and_a_rule_may_say_more():
    model, _ = with_adapters()
    group_by_rules(model, [], 0.1, 0.0)
    learns = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learns == {name for name, _ in model.named_parameters() if MARK in name}
    group_by_rules(model, [ParameterRule(pattern="norm", lr_multiplier=0.5)], 0.1, 0.0)
    more = {name for name, parameter in model.named_parameters() if parameter.requires_grad} - learns
    assert more == {name for name, _ in model.named_parameters() if "norm" in name}


def test_adapters_are_counted_by_the_architecture_alone():
    trained = sum(value.numel() for name, value in with_adapters(rank=3)[0].named_parameters() if MARK in name)
    assert count_adapters(make_model().config, LoraSettings(rank=3)) == trained


def test_auto_takes_linear_layers_inside_and_a_pattern_what_it_matches():
    inside = find_targets(make_model("mixture"), LoraSettings())
    assert {name.rpartition(".")[2] for name in inside} == {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert find_targets(make_model(), LoraSettings(target_modules=r".*\.1\.mlp\.up_proj")) == [
        "model.layers.1.mlp.up_proj"
    ]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("q_proj", "matches the whole name of a linear layer .* got 'q_proj'"), ("(", "a regular expression, got '\\('")],
)
def test_patterns_that_match_nothing_are_refused_by_the_architecture_alone(pattern, message):
    with pytest.raises(UserError, match=f"student.lora.target_modules: expected .*{message}"):
        check_targets(make_model().config, LoraSettings(target_modules=pattern))


def test_a_model_without_linear_layers_is_refused():
    with pytest.raises(UserError, match=r"student.lora: expected a model with linear layers"):
        check_targets(GPT2Config(n_embd=16, n_head=2, n_layer=1), LoraSettings())


def test_a_missing_package_is_named_with_its_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(
        UserError, match=r"student.lora: expected the package peft, got none; pip install 'kdkit\[lora\]'"
    ):
        check_targets(make_model().config, LoraSettings())
