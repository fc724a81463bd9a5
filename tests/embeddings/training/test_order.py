"""The order of sentences: whole passes, and batches of about equal length."""

import numpy as np
import pytest
import torch

from kdkit.embeddings.training.batches import Order
from tests.embeddings.training.test_trainer import make_trainer, run, weights


@pytest.mark.parametrize("by_length", [True, False])
def test_every_row_is_seen_once_in_a_pass_and_passes_differ(by_length):
    order = Order(np.arange(20) % 7, 5, 0, by_length)
    first = [row for number in range(4) for row in order.rows(number)]
    second = [row for number in range(4, 8) for row in order.rows(number)]
    assert sorted(first) == sorted(second) == list(range(20)) and first != second


def test_batches_hold_sentences_of_about_equal_length():
    lengths = np.random.default_rng(0).integers(3, 60, size=640)
    padding = {}
    for by_length in (True, False):
        order = Order(lengths, 32, 0, by_length)
        batches = [lengths[order.rows(number)] for number in range(20)]
        padding[by_length] = sum(32 * batch.max() for batch in batches) / lengths.sum()
    assert padding[True] < 1.15 < 1.5 < padding[False]


@pytest.mark.parametrize(("accumulation", "epochs", "steps", "read"), [(4, 3, 4, 15), (8, 1, 1, 5), (1, 0.5, 3, 3)])
def test_passes_are_whole_under_accumulation(tmp_path, monkeypatch, accumulation, epochs, steps, read):
    """40 sentences are 5 micro-batches: the last step has what is left of the passes, and is their mean."""
    train = {"max_steps": None, "num_train_epochs": epochs, "gradient_accumulation_steps": accumulation}
    trainer, seen = make_trainer(train=train), []
    rows = trainer.order.rows
    monkeypatch.setattr(trainer.order, "rows", lambda number: seen.append(number) or rows(number))
    run(trainer, tmp_path)
    assert (trainer.step, seen) == (steps, list(range(read)))
    if accumulation == 8:
        as_many = make_trainer(train={"max_steps": 1, "gradient_accumulation_steps": 5})
        run(as_many, tmp_path)
        torch.testing.assert_close(weights(trainer), weights(as_many), rtol=0, atol=0)
