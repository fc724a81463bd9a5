"""The penalty on own tokens that complete an n-gram of the training text: its value, its gradient, what it changes."""

import numpy as np
import pytest
import torch

from kdkit.config.language import config_from_values
from kdkit.distill.on_policy import known_ngrams
from kdkit.errors import UserError
from kdkit.losses.cross_entropy import IGNORE_INDEX
from tests.distill.own_text import PROMPT, batches_of, writes

pytestmark = pytest.mark.usefixtures("one_thread")

LENGTH = 3


def copies(monkeypatch, trainer, length: int = 9) -> None:
    """Let the student write on as the first training sequence does, and after it something else."""
    text = trainer.data.train.student_ids[0, 1 + PROMPT : 1 + PROMPT + length].tolist()
    (odd,) = trainer.data.student_tokenizer("q").input_ids
    writes(monkeypatch, trainer, [*text, odd, odd, odd])


def by_hand(trainer, batch: dict) -> torch.Tensor:
    """Return which own tokens complete an n-gram of the training text, bool, `[B, S]`."""
    known = set()
    for row in trainer.data.train.student_ids.tolist():
        end = trainer.data.student_tokenizer.eos_token_id
        grams = [tuple(row[i : i + LENGTH]) for i in range(1, len(row) - LENGTH + 1)]
        known |= {gram for gram in grams if min(gram) >= 0 and end not in gram}
    found = torch.zeros_like(batch["labels"], dtype=torch.bool)
    for row, ids in enumerate(batch["input_ids"].tolist()):
        for place in range(LENGTH, len(ids)):
            found[row, place] = tuple(ids[place - LENGTH + 1 : place + 1]) in known
    return found & (batch["labels"] != IGNORE_INDEX)


@pytest.mark.parametrize(("name", "loss"), [("same", "reverse_kl"), ("two", "projected_kl"), ("two", "alm")])
def test_the_penalty_is_added_with_its_value_and_its_gradient(trainer_of, monkeypatch, name, loss):
    changes = {"loss": loss, "anti_copy_length": LENGTH, "seed": 3}
    trainer, plain = (trainer_of(name, anti_copy=weight, **changes) for weight in (0.5, 0.0))
    copies(monkeypatch, trainer)
    (batch, *_), _, _ = batches_of(trainer, 1)
    got, terms = trainer.compute_step(trainer.model, dict(batch), 37)
    without, _ = plain.compute_step(plain.model, dict(batch), 37)
    copied = by_hand(trainer, batch)
    assert 0 < copied.sum() < (batch["labels"] != IGNORE_INDEX).sum()
    q = torch.softmax(trainer.model(input_ids=batch["input_ids"]).logits.double(), dim=-1)
    probability = q[:, :-1].gather(2, batch["input_ids"][:, 1:, None]).squeeze(2)[copied[:, 1:]]
    penalty = -(1 - probability).log().sum() / 37
    assert got.item() == pytest.approx(without.item() + 0.5 * penalty.item(), rel=1e-5)
    assert terms["copy_loss"].item() == pytest.approx(penalty.item(), rel=1e-5)
    assert terms["copy_weighted"].item() == pytest.approx(0.5 * penalty.item(), rel=1e-5)
    assert terms["copied_share"].item() == pytest.approx(copied.sum().item() / 37, rel=1e-6)
    got.backward()
    without.backward()
    (expected,) = torch.autograd.grad(0.5 * penalty, trainer.model.lm_head.weight)
    difference = trainer.model.lm_head.weight.grad - plain.model.lm_head.weight.grad
    assert torch.allclose(difference, expected.float(), atol=1e-6) and difference.abs().max() > 1e-5


def test_it_adds_to_the_weights_of_importance(trainer_of, monkeypatch):
    changes = {"loss": "reverse_kl", "anti_copy_length": LENGTH, "importance": 0.5}
    trainer, plain = (trainer_of("same", anti_copy=weight, **changes) for weight in (0.5, 0.0))
    copies(monkeypatch, trainer)
    (batch, *_), _, _ = batches_of(trainer, 1)
    got, terms = trainer.compute_step(trainer.model, dict(batch), 37)
    without, plain_terms = plain.compute_step(plain.model, dict(batch), 37)
    assert got.item() == pytest.approx(without.item() + terms["copy_weighted"].item(), rel=1e-5)
    assert terms["kd_weighted"].item() == pytest.approx(plain_terms["kd_weighted"].item(), rel=1e-5)


def test_what_is_copied_becomes_less_likely_than_without_it(trainer_of, monkeypatch):
    likelihood = {}
    for weight in (0.0, 2.0):
        trainer = trainer_of("same", loss="reverse_kl", anti_copy=weight, anti_copy_length=LENGTH)
        copies(monkeypatch, trainer)
        (batch, *_), num_items, _ = batches_of(trainer, 1)
        copied = by_hand(trainer, batch)
        optimizer = torch.optim.AdamW(trainer.model.parameters(), lr=0.02)
        for _ in range(40):  # it learns the text by heart
            optimizer.zero_grad()
            trainer.model(input_ids=batch["input_ids"], labels=batch["labels"]).loss.backward()
            optimizer.step()
        for _ in range(8):
            optimizer.zero_grad()
            trainer.compute_step(trainer.model, dict(batch), num_items)[0].backward()
            optimizer.step()
        logprobs = torch.log_softmax(trainer.model(input_ids=batch["input_ids"]).logits, dim=-1)
        of_text = logprobs[:, :-1].gather(2, batch["input_ids"][:, 1:, None]).squeeze(2)
        likelihood[weight] = of_text[copied[:, 1:]].mean().item()
    assert likelihood[2.0] < likelihood[0.0] - 0.1


def test_text_from_the_data_is_never_discouraged(trainer_of):
    trainer = trainer_of("same", anti_copy=5.0, anti_copy_length=LENGTH, share=0.01)
    batches, num_items, _ = batches_of(trainer)
    assert not any(batch.get("is_own_text") for batch in batches)
    _, terms = trainer.compute_step(trainer.model, batches[0], num_items)
    assert "copy_loss" not in terms


def test_no_ngram_holds_the_start_or_the_end_of_a_document(trainer_of):
    trainer = trainer_of("same", anti_copy=1.0)
    rows, end = trainer.data.train.student_ids, trainer.data.student_tokenizer.eos_token_id
    found = known_ngrams(trainer.data.train, [end], LENGTH).completed(rows)
    assert not found[:, :LENGTH].any() and found[:, LENGTH:].any()
    for row, place in np.argwhere(rows[:, 1:] == end):
        assert not found[row, 1 + place : 1 + place + LENGTH].any()


def test_it_is_refused_beside_the_control_that_asks_no_teacher():
    own = {"advantage": "constant", "anti_copy": 0.5}
    with pytest.raises(UserError, match="expected anti_copy=0 with advantage=constant"):
        config_from_values({"train": {"stages": [{"name": "own", "max_steps": 2, "on_policy": own}]}})
