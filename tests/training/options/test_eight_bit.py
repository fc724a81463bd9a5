"""AdamW in 8 bits: what it keeps of which parameter, how near it stays to AdamW, and what is said without it."""

import importlib.util
from copy import deepcopy

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from kdkit.config.language import config_from_values
from kdkit.errors import UserError
from kdkit.planning.memory import OPTIMIZERS
from kdkit.training.options.bundle import check_options
from kdkit.training.options.eight_bit import make_eight_bit
from kdkit.training.trainer import group_by_rules

pytestmark = pytest.mark.usefixtures("one_thread")

OPTIONS = {"lr": 0.001, "betas": (0.9, 0.999), "eps": 1e-8}


def make_model():
    """Return a model whose matrices are large enough for bytes: bitsandbytes keeps 32 bits below 4,096 numbers."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=80, tie_word_embeddings=False, **sizes))


def groups_of(model):
    return group_by_rules(model, [], OPTIONS["lr"], 0.01)[0]


def train(model, optimizer, steps, seed=0):
    """Learn one batch by heart; return the loss of every step."""
    input_ids = torch.randint(80, (4, 16), generator=torch.Generator().manual_seed(seed))
    losses = []
    for _ in range(steps):
        loss = model(input_ids=input_ids, labels=input_ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def test_matrices_are_kept_in_bytes_embeddings_and_head_in_fp32():
    model = make_model()
    optimizer = make_eight_bit(model, groups_of(model), OPTIONS)
    train(model, optimizer, 1)
    kept = {name: optimizer.state[p]["state1"].dtype for name, p in model.named_parameters()}
    assert len(kept) == len(list(model.parameters()))
    matrices = {name for name, dtype in kept.items() if dtype == torch.uint8}
    assert matrices == {name for name in kept if "_proj" in name}
    assert kept["model.embed_tokens.weight"] == kept["lm_head.weight"] == torch.float32


def test_its_size_is_what_the_planner_reckons_with():
    model = make_model()
    optimizer = make_eight_bit(model, groups_of(model), OPTIONS)
    train(model, optimizer, 1)
    matrices = [p for name, p in model.named_parameters() if "_proj" in name]
    # the two maps from bytes to numbers, 2 kB a parameter, are left out: they do not grow with it
    parts = ("state1", "state2", "absmax1", "absmax2")
    kept = sum(optimizer.state[p][part].nbytes for p in matrices for part in parts)
    numbers = sum(p.numel() for p in matrices)
    assert kept == 8 * numbers - OPTIMIZERS["adamw_8bit"][1] * numbers


def test_it_learns_as_adamw_does_and_the_tables_take_its_very_steps():
    ours, theirs = make_model(), make_model()
    eight = make_eight_bit(ours, groups_of(ours), OPTIONS)
    whole = torch.optim.AdamW(groups_of(theirs), **OPTIONS)
    first = train(ours, eight, 1), train(theirs, whole, 1)
    assert first[0] == first[1]
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        torch.testing.assert_close(ours.get_parameter(name), theirs.get_parameter(name), rtol=1e-5, atol=1e-7)
    end = train(ours, eight, 60)[-1], train(theirs, whole, 60)[-1]
    assert end[0] == pytest.approx(end[1], rel=0.05) and end[0] < 0.5 * first[0][0]


def test_no_later_optimizer_is_changed_by_it():
    from bitsandbytes.optim import GlobalOptimManager

    model = make_model()
    train(model, make_eight_bit(model, groups_of(model), OPTIONS), 1)
    manager = GlobalOptimManager.get_instance()
    assert not (manager.pid2config or manager.index2config or manager.module_weight_config_triple)


def test_a_saved_state_goes_on_to_the_bit():
    whole, parted = make_model(), make_model()
    expected = train(whole, make_eight_bit(whole, groups_of(whole), OPTIONS), 8)
    first = make_eight_bit(parted, groups_of(parted), OPTIONS)
    losses = train(parted, first, 4)
    second = make_eight_bit(parted, groups_of(parted), OPTIONS)
    second.load_state_dict(deepcopy(first.state_dict()))
    assert losses + train(parted, second, 4) == expected


def test_without_its_package_it_is_refused_before_a_training(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    config = config_from_values({"train": {"optimizer": "adamw_8bit"}})
    with pytest.raises(UserError, match="expected the package bitsandbytes for adamw_8bit, got none installed; pip"):
        check_options(config.train, is_chat=False)
