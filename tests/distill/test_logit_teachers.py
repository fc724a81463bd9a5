"""A teacher that gives logits and no hidden states: every loss on predictions, and a refusal of the others."""

import pytest
import torch

from kdkit.errors import UserError
from kdkit.losses.chunked.signals import LogitSignals
from tests.distill.objectives import CPU, Batch, every_loss, objective_for, pair_for
from tests.own_teacher import LogitsOnly


def logits_only(pair):
    return LogitsOnly(pair.teacher, pair.data.teacher_tokenizer)


def answered(batch, teacher, size):
    """The same batch with the answers of another teacher."""
    batch.signals = teacher.online(size).answer(batch.inputs, CPU)
    return batch


@every_loss
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_a_loss_and_its_gradient_are_those_of_hidden_states_and_a_head(pairs, loss, temperature):
    pair = pair_for(pairs, loss)
    objective = objective_for(loss, pair.data, temperature=temperature)
    batch = Batch(pair, [3, 0, 5, 6], masked={1: 4})
    expected, gradients = batch.compute(objective)
    teacher = logits_only(pair)
    terms, got = answered(batch, teacher, len(pair.data.teacher_tokenizer)).compute(objective)
    assert isinstance(batch.signals, LogitSignals)
    assert terms.tolist() == pytest.approx(expected.tolist(), rel=1e-5)
    for ours, theirs in zip(got, gradients, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    # the sequences of a batch are read in order, each of them once
    assert teacher.read == 4


@pytest.mark.parametrize("name", ["finer student", "finer teacher"])
def test_events_of_either_tokenizer_are_made_of_logits_too(pairs, name):
    pair = pairs[name]
    objective = objective_for("projected_kl", pair.data, temperature=1.0)
    batch = Batch(pair, [1, 2, 7])
    expected, _ = batch.compute(objective)
    terms, _ = answered(batch, logits_only(pair), len(pair.data.teacher_tokenizer)).compute(objective)
    assert terms.tolist() == pytest.approx(expected.tolist(), rel=1e-5)


def test_nan_names_the_teacher_and_the_sequence(pairs):
    pair = pairs["same"]

    class Broken(LogitsOnly):
        def get_logits(self, input_ids):
            return super().get_logits(input_ids).index_fill(1, torch.tensor([2]), torch.nan)

    broken = Broken(pair.teacher, pair.data.teacher_tokenizer)
    batch = answered(Batch(pair, [3, 0]), broken, len(pair.data.teacher_tokenizer))
    with pytest.raises(UserError, match=r"training sequence 3; check the weights of Broken"):
        batch.compute(objective_for("forward_kl", pair.data))
