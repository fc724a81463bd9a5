"""What ends a training of an embedding model, and what a training that goes on takes up."""

import json
from dataclasses import replace

import pytest
import torch

from kdkit.embeddings.training.trainer import EmbeddingTrainer
from kdkit.errors import TrainingError
from kdkit.machine import budget
from tests.embeddings.training.test_train import distil, folder, losses, open_run
from tests.embeddings.training.test_trainer import make_trainer, run, weights

__all__ = ["folder"]
pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_training_whose_time_is_up_goes_on_to_the_same_losses(folder, monkeypatch):
    options = "train.max_steps=5", "train.time_budget_hours=1"
    config, run = open_run(folder, "unhurried", *options)
    monkeypatch.setattr(budget, "elapsed", lambda: 0.0)
    distil(config, run)
    config, broken = open_run(folder, "hurried", *options)
    seconds = iter(range(100))
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr(budget, "elapsed", lambda: 3597.0 + next(seconds))
        distil(config, broken)
    said = broken.progress()
    assert stop.value.code == 0 and said["resume_needed"] and said["step"] == 3
    assert said["reason"] == "time budget of 1 h used up; cosine: step 3 of 5 is saved"
    distil(config, broken, resume=True)
    assert losses(broken) == losses(run) and len(losses(run)) == 5
    assert (broken.progress()["state"], broken.progress()["step"]) == ("finished", 5)


def test_the_scale_of_losses_in_fp16_goes_on(tmp_path):
    first, second, whole = (make_trainer(train={"save_every": 1, "max_steps": 9}) for _ in range(3))
    for trainer in (first, second, whole):
        trainer.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=4)
    run(whole, tmp_path / "whole")
    run(first, tmp_path / "first", until=7)
    second.load(tmp_path / "first" / "checkpoint.pt")
    run(second, tmp_path / "first")
    assert second.scaler.state_dict() == whole.scaler.state_dict() and whole.scaler.get_scale() == 2.0**12
    assert torch.equal(weights(second), weights(whole))


def test_many_steps_that_are_no_numbers_end_it_with_their_sentences(folder, monkeypatch):
    config, broken = open_run(folder, "spoilt", "train.max_steps=6", "train.max_skipped_in_a_row=2")
    make = EmbeddingTrainer._make_views

    def spoil(trainer, rows):
        views = make(trainer, rows)
        return replace(views, student=replace(views.student, pooled=views.student.pooled * torch.nan))

    monkeypatch.setattr(EmbeddingTrainer, "_make_views", spoil)
    with pytest.raises(TrainingError, match="cosine: the loss or its gradient was not a number in 2 steps in a row"):
        distil(config, broken)
    saved = json.loads((broken.path / "cosine_not_finite.json").read_text())
    assert saved["step"] == 2 and len(saved["rows"]) == 8
    assert broken.progress()["state"] == "failed"
