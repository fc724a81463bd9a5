"""Mixtures of experts whose routing is known: the first feature of every hidden state is the same positive number."""

import torch
from transformers import PreTrainedModel

from kdkit.losses.cross_entropy import shift_labels
from kdkit.models.from_teacher.text import TextBatch
from kdkit.models.moe_blocks import MoeBlock, find_blocks
from kdkit.models.taps import decoder_layers

INPUT_IDS = torch.randint(64, (3, 12), generator=torch.Generator().manual_seed(5))
TEXT = [TextBatch(rows, shift_labels(rows)) for rows in INPUT_IDS.split(2)]
"""The same; behind the last token of a row nothing is predicted, and nothing is measured on it."""


def fix_routing(model: PreTrainedModel, open_experts: list[int]) -> list[MoeBlock]:
    """Let a router send every token to some experts alone, with equal weights, and return the model's blocks."""
    with torch.no_grad():
        model.get_input_embeddings().weight[:, 0] = 3.0
        for layer in decoder_layers(model):
            layer.self_attn.o_proj.weight[0] = 0.0
        blocks = find_blocks(model, "teacher.path")
        for block in blocks:
            block.experts.down_proj[:, 0] = 0.0
            block.gate.weight.zero_()
            closed = [expert for expert in range(len(block.gate.weight)) if expert not in open_experts]
            block.gate.weight[closed, 0] = -100.0
    return blocks


def logits_of(model: PreTrainedModel) -> torch.Tensor:
    """Return the logits of some tokens."""
    with torch.no_grad():
        return model(input_ids=INPUT_IDS.to(model.device), use_cache=False).logits


def shuffle_units(block: MoeBlock, expert: int, seed: int) -> None:
    """Put the hidden units of an expert into another order: it computes what it computed."""
    order = torch.randperm(block.experts.down_proj.shape[2], generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        gate_up, down = block.experts.gate_up_proj, block.experts.down_proj
        gate_up[expert] = gate_up[expert].unflatten(0, (2, -1))[:, order].flatten(0, 1)
        down[expert] = down[expert][:, order]
