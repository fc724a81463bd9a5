"""A time budget in the training of embedding models."""

import pytest

from kdkit.machine import budget
from tests.embeddings.training.test_train import distil, folder, losses, open_run

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
