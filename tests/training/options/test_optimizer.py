"""Muon with AdamW behind one face: which parameters go where, its formula, its state, and what is refused."""

from copy import deepcopy

import pytest
import torch
from transformers import get_scheduler

from kdkit.config.recipe.settings import MuonConfig
from kdkit.config.training import ParameterRule
from kdkit.distill import train
from kdkit.errors import UserError
from kdkit.training.options.bundle import check_options
from kdkit.training.options.optimizer import MuonWithAdamW, hidden_matrices, make_muon
from kdkit.training.trainer import group_by_rules
from tests.tiny import make_config, make_data, make_llama, make_plan, make_run, make_trainer

pytestmark = pytest.mark.usefixtures("one_thread")

MUON = {"optimizer": "muon", "muon": {"lr_multiplier": 2.0, "momentum": 0.9}}
OPTIONS = {"lr": 0.1, "betas": (0.9, 0.999), "eps": 1e-8}


@pytest.fixture
def model():
    return make_llama(40)


def groups_of(model, *rules: ParameterRule) -> list[dict]:
    return group_by_rules(model, list(rules), 0.1, 0.01)[0]


def fill_gradients(model, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.randn(parameter.shape, generator=generator)


def test_muon_gets_the_matrices_of_the_layers_and_nothing_else(model):
    names = {name for name, parameter in model.named_parameters() if parameter in hidden_matrices(model)}
    assert names == {
        *(f"model.layers.0.self_attn.{part}_proj.weight" for part in "qkvo"),
        *(f"model.layers.0.mlp.{part}_proj.weight" for part in ("gate", "up", "down")),
    }


def test_every_parameter_stands_in_one_group_with_the_rate_of_its_rule(model):
    rule = ParameterRule(pattern="mlp", lr_multiplier=0.5)
    optimizer = make_muon(model, groups_of(model, rule), MuonConfig(lr_multiplier=2.0), OPTIONS)
    found = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert len(found) == sum(len(group["params"]) for group in optimizer.param_groups)
    rates = {name: found[id(p)] for name, p in model.named_parameters()}
    assert rates["model.layers.0.mlp.up_proj.weight"] == pytest.approx(0.1)
    assert rates["model.layers.0.self_attn.q_proj.weight"] == pytest.approx(0.2)
    assert rates["lm_head.weight"] == rates["model.norm.weight"] == pytest.approx(0.1)
    assert optimizer.param_groups[0]["lr"] == 0.1, "the rate that is logged is the one that was set"


def test_a_step_is_torchs_muon_on_the_matrices_and_its_adamw_on_the_rest(model):
    other = make_llama(40)
    other.load_state_dict(model.state_dict())
    whole = make_muon(model, groups_of(model), MuonConfig(), OPTIONS)
    matrices = hidden_matrices(other)
    rest = [dict(g, params=[p for p in g["params"] if p not in matrices]) for g in groups_of(other)]
    parts = (
        torch.optim.Muon(
            [p for p in other.parameters() if p in matrices],
            lr=0.1,
            weight_decay=0.01,
            momentum=0.95,
            adjust_lr_fn="match_rms_adamw",
        ),
        torch.optim.AdamW([g for g in rest if g["params"]], **OPTIONS),
    )
    for seed in range(3):
        fill_gradients(model, seed)
        fill_gradients(other, seed)
        whole.step()
        for part in parts:
            part.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_a_schedule_moves_both_parts(model):
    optimizer = make_muon(model, groups_of(model), MuonConfig(), OPTIONS)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0 if step else 1.0)
    before = [parameter.clone() for parameter in model.parameters()]
    fill_gradients(model, 0)
    optimizer.step()
    moved = [parameter.clone() for parameter in model.parameters()]
    assert not any(torch.equal(a, b) for a, b in zip(before, moved, strict=True))
    schedule.step()
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(moved, model.parameters(), strict=True))


@pytest.mark.parametrize("rules", [[], [ParameterRule(pattern="embed|lm_head|norm", lr_multiplier=0.0)]])
@pytest.mark.parametrize(
    ("name", "options"), [("polynomial", {"lr_end": 0.01}), ("cosine_with_min_lr", {"min_lr": 0.01})]
)
def test_a_schedule_with_an_end_of_its_own_finds_the_rate_that_it_starts_from(model, rules, name, options):
    optimizer = make_muon(model, groups_of(model, *rules), MuonConfig(), OPTIONS)
    schedule = get_scheduler(name, optimizer, 0, 4, scheduler_specific_kwargs=options)
    for _ in range(4):
        optimizer.step()
        schedule.step()
    assert schedule.get_last_lr() == pytest.approx([0.01] * len(optimizer.param_groups))


def test_its_state_is_loaded_into_another_one(model):
    other = make_llama(40)
    first = make_muon(model, groups_of(model), MuonConfig(), OPTIONS)
    fill_gradients(model, 0)
    first.step()
    other.load_state_dict(model.state_dict())
    second = make_muon(other, groups_of(other), MuonConfig(), OPTIONS)
    second.load_state_dict(deepcopy(first.state_dict()))
    for each, optimizer in ((model, first), (other, second)):
        fill_gradients(each, 1)
        optimizer.param_groups[-1]["lr"] = 0.05
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_where_only_matrices_learn_muon_is_alone(model):
    frozen = ParameterRule(pattern="embed|lm_head|norm", lr_multiplier=0.0)
    optimizer = make_muon(model, groups_of(model, frozen), MuonConfig(), OPTIONS)
    assert isinstance(optimizer, torch.optim.Muon)
    with pytest.raises(UserError, match="expected matrices of hidden layers that learn for muon, got none"):
        make_muon(model, groups_of(model, ParameterRule(pattern="proj", lr_multiplier=0.0)), MuonConfig(), OPTIONS)


def test_an_old_torch_is_named_before_anything_is_trained(monkeypatch, tmp_path):
    monkeypatch.delattr(torch.optim, "Muon")
    config = make_config(tmp_path, train=MUON)
    with pytest.raises(UserError, match=r"expected torch 2.9 or newer for muon, got 2"):
        check_options(config.train, is_chat=False)
    data = make_data(config, tmp_path)
    with pytest.raises(UserError, match=r"train.optimizer: .*pip install -U torch, or set train.optimizer=adamw"):
        make_plan(config, make_run(tmp_path), data)


def test_student_and_baseline_are_trained_with_it(tmp_path):
    config = make_config(tmp_path, train=MUON)
    data = make_data(config, tmp_path)
    trainer = make_trainer(config, make_run(tmp_path), data)
    optimizer = trainer.create_optimizer()
    assert isinstance(optimizer, MuonWithAdamW) and optimizer.param_groups[-1]["momentum"] == 0.9
    plain = make_trainer(make_config(tmp_path), make_run(tmp_path, "plain"), data)
    assert type(plain.create_optimizer()) is torch.optim.AdamW
    train.train_baseline(make_plan(config, run := make_run(tmp_path, "trained"), data))
    rates = [line["learning_rate"] for line in run.read_metrics() if "learning_rate" in line]
    assert max(rates) == pytest.approx(config.train.learning_rate)
