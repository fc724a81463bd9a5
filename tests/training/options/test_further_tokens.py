"""Multi-token prediction: the right token at the right place, the gradients of a plain computation, nothing drawn."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from kdkit.config.recipe.settings import MultiTokenConfig
from kdkit.losses.cross_entropy import IGNORE_INDEX
from kdkit.models.heads import find_head
from kdkit.training.options.further_tokens import FurtherTokens
from tests.tiny import CPU, make_config, make_data, make_llama, make_run, make_teacher, make_trainer

pytestmark = pytest.mark.usefixtures("one_thread")


def plain_loss(model, heads: FurtherTokens, ids: torch.Tensor, labels: torch.Tensor, num_items: int) -> torch.Tensor:
    """Compute the loss by whole logits: position i with head k predicts the label at i + 2 + k."""
    hidden, total = model.base_model(input_ids=ids).last_hidden_state, torch.zeros(())
    for number, block in enumerate(heads.blocks):
        distance = number + 2
        logits = model.lm_head(hidden + F.silu(block(hidden)))[:, :-distance]
        wanted = labels[:, distance:]
        total = total + F.cross_entropy(
            logits.flatten(0, 1), wanted.flatten(), ignore_index=IGNORE_INDEX, reduction="sum"
        )
    return heads.weight * total / num_items


def test_loss_and_gradients_are_those_of_whole_logits():
    model, heads = make_llama(40), FurtherTokens(MultiTokenConfig(num_tokens=3, weight=0.3), 16)
    torch.manual_seed(1)
    for block in heads.blocks:
        torch.nn.init.normal_(block.weight, std=0.2)
    ids = torch.randint(40, (3, 11))
    labels = ids.clone()
    labels[:, 0], labels[0, 7:], labels[2, 3] = IGNORE_INDEX, IGNORE_INDEX, IGNORE_INDEX
    plain_loss(model, heads, ids, labels, 20).backward()
    parameters = [*model.parameters(), *heads.parameters()]
    expected = [parameter.grad.clone() for parameter in parameters]
    value = plain_loss(model, heads, ids, labels, 20)
    for parameter in parameters:
        parameter.grad = None
    hidden = model.base_model(input_ids=ids).last_hidden_state.flatten(0, 1)
    loss, terms = heads.loss_of(hidden, labels, find_head(model, 40), 20)
    loss.backward()
    assert loss.item() == pytest.approx(value.item(), rel=1e-5) == terms["multi_token_weighted"].item()
    assert terms["multi_token_loss"].item() == pytest.approx(value.item() / 0.3 / 3, rel=1e-5)
    for parameter, gradient in zip(parameters, expected, strict=True):
        assert torch.allclose(parameter.grad, gradient, atol=1e-6)


def test_sequences_shorter_than_the_distance_have_no_loss():
    model, heads = make_llama(40), FurtherTokens(MultiTokenConfig(num_tokens=4), 16)
    ids = torch.randint(40, (2, 2))
    hidden = model.base_model(input_ids=ids).last_hidden_state.flatten(0, 1)
    loss, _ = heads.loss_of(hidden, ids, find_head(model, 40), None)
    loss.backward()
    assert loss.item() == 0.0


@pytest.mark.parametrize("with_teacher", [True, False])
def test_micro_batches_sum_to_the_step_and_the_heads_learn(tmp_path, with_teacher):
    config = make_config(tmp_path, train={"multi_token": {"num_tokens": 2, "weight": 0.5}, "weight_decay": 0.0})
    data = make_data(config, tmp_path)
    teacher = make_teacher(data) if with_teacher else None
    whole = make_config(
        tmp_path,
        train={
            "multi_token": {"num_tokens": 2, "weight": 0.5},
            "weight_decay": 0.0,
            "batch_size": 8,
            "gradient_accumulation_steps": 1,
        },
    )
    found = []
    for number, each in enumerate((config, whole)):
        torch.manual_seed(0)
        trainer = make_trainer(each, make_run(tmp_path, str(number)), data, teacher, steps=3)
        state = torch.get_rng_state()
        assert all((block.weight == 0.0).all() for block in trainer.options.further.blocks)
        assert torch.equal(state, torch.get_rng_state())
        trainer.train()
        found.append([block.weight.detach().clone() for block in trainer.options.further.blocks])
        assert all((weight != 0.0).any() for weight in found[-1])
    for mine, theirs in zip(*found, strict=True):
        assert torch.allclose(mine, theirs, atol=2e-4), "two micro-batches are one of twice the size"


def test_in_half_precision_too(tmp_path):
    config = make_config(tmp_path, train={"multi_token": {"num_tokens": 1}, "precision": "bf16"})
    data = make_data(config, tmp_path)
    trainer = make_trainer(config, make_run(tmp_path), data, steps=2, hardware=replace(CPU, precision="bf16"))
    trainer.train()
    assert (trainer.options.further.blocks[0].weight != 0.0).any()
