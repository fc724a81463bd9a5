"""Steps whose loss or gradient is not a number: one changes nothing, many in a row end the training."""

import json
import math
from itertools import pairwise

import pytest
import torch

from kdkit.distill import train
from kdkit.errors import TrainingError
from kdkit.machine.interrupt import StopRequest
from kdkit.training.trainer import LanguageModelTrainer
from tests.embeddings.training.test_trainer import make_trainer, weights
from tests.tiny import make_config, make_data, make_plan, make_run

TRAIN = {"max_steps": 6, "gradient_accumulation_steps": 2, "warmup_steps": 0, "lr_schedule": "constant"}


def poison(monkeypatch, steps, kind="loss", value=math.nan):
    """Make the loss, or only its gradient, no number in the second micro-batch of some steps."""
    compute_step = LanguageModelTrainer.compute_step
    seen = []

    def hook(self, model, inputs, num_items_in_batch):
        loss, terms = compute_step(self, model, inputs, num_items_in_batch)
        step = self.state.global_step
        is_second = step in seen
        seen.append(step)
        if step + 1 in steps and is_second:
            if kind == "gradient":
                loss.register_hook(lambda gradient: gradient * value)
            else:
                loss = loss * value
                terms = {name: term * value for name, term in terms.items()}
        return loss, terms

    monkeypatch.setattr(LanguageModelTrainer, "compute_step", hook)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A prepared corpus and its configuration."""
    folder = tmp_path_factory.mktemp("finite")
    config = make_config(folder, train=TRAIN)
    return folder, config, make_data(config, folder)


@pytest.mark.parametrize(("kind", "value"), [("loss", math.nan), ("loss", math.inf), ("gradient", math.nan)])
def test_a_bad_step_changes_nothing_and_is_no_part_of_what_is_logged(place, tmp_path, monkeypatch, capsys, kind, value):
    _, config, data = place
    states = {}
    step = torch.optim.AdamW.step

    def remember(optimizer, *arguments):
        result = step(optimizer, *arguments)
        group = optimizer.param_groups[0]
        states[len(states) + 1] = (
            [parameter.detach().clone() for parameter in group["params"]],
            [{k: v.clone() for k, v in optimizer.state[p].items()} for p in group["params"]],
        )
        return result

    monkeypatch.setattr(torch.optim.AdamW, "step", remember)
    poison(monkeypatch, {3}, kind, value)
    run = make_run(tmp_path)
    result = train.train_baseline(make_plan(config, run, data))
    assert result.skipped_steps == 1 and result.steps == 6
    (before, moments), (after, later), (made, _) = states[2], states[3], states[4]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(torch.equal(m[k], n[k]) for m, n in zip(moments, later, strict=True) for k in m)
    assert not all(torch.equal(a, b) for a, b in zip(after, made, strict=True))
    lines = [line for line in run.read_metrics() if "loss" in line]
    assert [line["step"] for line in lines] == [1, 2, 4, 5, 6]
    assert all(math.isfinite(line[name]) for line in lines for name in ("loss", "ce_loss", "grad_norm"))
    assert "note: baseline: step 3 is left out, its loss or gradient is not a number (1 in a row)" in (
        capsys.readouterr().out
    )


def test_the_schedule_waits_and_means_are_those_of_the_steps_made(place, tmp_path, monkeypatch):
    folder, *_ = place
    config = make_config(folder, train=TRAIN | {"lr_schedule": "linear", "log_every": 1, "learning_rate": 6e-3})
    data = make_data(config, folder)
    rates, means = {}, {}
    for name, bad, every in (("good", (), 1), ("bad", {3}, 1), ("sparse", {3}, 6)):
        with monkeypatch.context() as patch:
            poison(patch, set(bad))
            changed = config.model_copy(update={"train": config.train.model_copy(update={"log_every": every})})
            run = make_run(tmp_path, name)
            train.train_baseline(make_plan(changed, run, data))
        lines = [line for line in run.read_metrics() if "loss" in line]
        rates[name] = [line["learning_rate"] for line in lines]
        means[name] = sum(line["loss"] for line in lines) / len(lines)
    assert rates["bad"] == rates["good"][:5]
    assert means["sparse"] == pytest.approx(means["bad"], rel=1e-5)


def test_many_in_a_row_end_the_training_with_their_rows(place, tmp_path, monkeypatch):
    folder, *_ = place
    config = make_config(folder, train=TRAIN | {"max_skipped_in_a_row": 2})
    data = make_data(config, folder)
    poison(monkeypatch, {2, 4, 5})
    run = make_run(tmp_path)
    with pytest.raises(TrainingError, match="baseline: the loss or its gradient was not a number in 2 steps in a row"):
        train.train_baseline(make_plan(config, run, data))
    saved = json.loads((run.path / "baseline_not_finite.json").read_text())
    assert saved["step"] == 5 and len(saved["rows"]) == 8 and set(saved["rows"]) <= set(range(len(data.train)))
    assert not (run.path / "baseline").exists() and run.progress()["state"] == "failed"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_embedding_step_whose_loss_is_no_number_changes_nothing(tmp_path, monkeypatch, value):
    trainer = make_trainer(method={"name": "cosine"}, train={"max_steps": 4, "log_every": 1, "warmup_steps": 0})
    seen, logs = [weights(trainer)], []
    forward = type(trainer.method).forward

    def broken(method, views):
        return {name: term * (value if trainer.step == 1 else 1) for name, term in forward(method, views).items()}

    monkeypatch.setattr(type(trainer.method), "forward", broken)

    def on_step(step, line):
        seen.append(weights(trainer))
        logs.append(line)

    trainer.train(on_step, tmp_path / "checkpoint.pt", StopRequest())
    changed = [not torch.equal(a, b) for a, b in pairwise(seen)]
    assert changed == [True, False, True, True] and trainer.skipped_steps == 1
    assert ["loss" in line for line in logs] == [True, False, True, True]
