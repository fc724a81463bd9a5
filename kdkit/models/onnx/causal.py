"""A causal LM with its cache of keys and values as an ONNX graph.

Inputs `input_ids`, `attention_mask`, `position_ids` and `past_key_values.N.key` and `.value` for every layer N; outputs
`logits` and `present.N.key` and `.value`: the names of optimum, so other programs know them.
"""

from pathlib import Path

import torch
from torch import nn
from transformers import DynamicCache, PreTrainedConfig, PreTrainedModel

from kdkit.errors import UserError
from kdkit.models.generation import CACHE
from kdkit.models.loading import num_experts
from kdkit.models.onnx.experts import use_all_experts
from kdkit.models.onnx.graph import export_graph

Pair = tuple[torch.Tensor, torch.Tensor]
"""Keys and values of a layer, each `[B, key_value_heads, S, head_dim]`."""
BATCH, LENGTH, PAST = 2, 3, 4
"""Sizes of the example that is traced; all different, so that none is taken for another."""


def write_causal_graph(model: PreTrainedModel, file: Path, key: str) -> Path:
    """Write a causal LM in fp32, for every batch size and length, with keys and values that are kept outside.

    Args:
        model: on the CPU, in fp32; of a mixture see `use_all_experts`.
        key: the setting that named it, for messages.

    Raises:
        UserError: a cache of another kind than keys and values; see `export_graph`.
    """
    config = model.config.get_text_config(decoder=True)
    check_cache(config, key)
    if num_experts(config):
        use_all_experts(model)
    free = torch.export.Dim.DYNAMIC
    sizes = {name: {0: free, 1: free} for name in ("input_ids", "attention_mask", "position_ids")}
    layers = range(config.num_hidden_layers)
    sizes["past"] = [({0: free, 2: free}, {0: free, 2: free}) for _ in layers]  # heads and widths are the model's own
    ids = torch.arange(BATCH * (PAST + LENGTH)).reshape(BATCH, -1) % config.vocab_size
    with torch.no_grad():
        read = model(input_ids=ids[:, :PAST], use_cache=True)[CACHE]
    past = [(layer.keys, layer.values) for layer in read.layers]
    mask = torch.ones(BATCH, PAST + LENGTH, dtype=torch.int64)
    mask[1:, 0] = 0  # an example without padding would be traced without a mask
    inputs = ids[:, PAST:], mask, positions(mask, LENGTH), past
    return export_graph(_Step(model).eval(), inputs, file, names=graph_names(len(layers)), sizes=sizes)


def check_cache(config: PreTrainedConfig, key: str) -> None:
    """Refuse models that remember something else than keys and values of all tokens.

    Raises:
        UserError: naming what it is.
    """
    kinds = set(getattr(config, "layer_types", None) or []) - {"full_attention"}
    if kinds or not getattr(config, "num_attention_heads", None):
        raise UserError(
            f"{key}: expected a model whose layers keep keys and values of all tokens, got {config.model_type} with "
            f"{', '.join(sorted(kinds)) or 'another cache'}; export it as int8 or int4, or use its folder"
        )


def graph_names(num_layers: int) -> tuple[list[str], list[str]]:
    """Return the names of a graph's inputs and outputs, in order."""
    parts = [(layer, part) for layer in range(num_layers) for part in ("key", "value")]
    inputs = ["input_ids", "attention_mask", "position_ids"]
    inputs += [f"past_key_values.{layer}.{part}" for layer, part in parts]
    return inputs, ["logits", *(f"present.{layer}.{part}" for layer, part in parts)]


def positions(mask: torch.Tensor, length: int) -> torch.Tensor:
    """Return the positions of the last `length` tokens, int64, `[B, length]`, from a mask over all of them."""
    return (mask.cumsum(dim=-1) - 1).clamp(min=0)[:, mask.shape[1] - length :]


class _Step(nn.Module):
    """A model as a function of plain tensors: the cache is put together inside, and taken apart again."""

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, position_ids: torch.Tensor, past: list[Pair]
    ) -> tuple[torch.Tensor, list[Pair]]:
        """Return logits, `[B, S, V]`, and keys and values of all tokens so far."""
        cache = DynamicCache(config=self.model.config)
        for layer, (keys, values) in enumerate(past):
            cache.update(keys, values, layer)
        output = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=True,
            **{CACHE: cache},
        )
        return output.logits, [(layer.keys, layer.values) for layer in output[CACHE].layers]
