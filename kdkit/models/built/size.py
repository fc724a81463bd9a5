"""How large a model is before it is built: parameters counted without their memory, and what a training takes."""

import copy
from dataclasses import dataclass

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig

FP32 = 4
"""Bytes of a weight, a gradient and each of the optimizer's numbers in every precision: autocast keeps the weights."""


@dataclass(frozen=True)
class ModelSize:
    """Parameters of a model, and bytes of its training."""

    parameters: int
    embeddings: int
    """Those of the input embeddings and the head, a shared table once."""
    weights: int
    gradients: int
    optimizer: int
    """Bytes of AdamW's two running means."""
    activations: int
    """Bytes of what the forward pass keeps for the backward pass, roughly."""

    @property
    def memory(self) -> int:
        """Bytes of all together."""
        return self.weights + self.gradients + self.optimizer + self.activations

    def describe(self, name: str) -> str:
        """Say it in one line.

        Args:
            name: of the model.
        """
        inner = self.parameters - self.embeddings
        parts = ("weights", self.weights), ("gradients", self.gradients), ("AdamW", self.optimizer)
        words = ", ".join(f"{part} {_say_bytes(size)}" for part, size in (*parts, ("activations", self.activations)))
        return (
            f"{name}: {self.parameters:,} parameters ({self.embeddings:,} in embeddings and head, {inner:,} without); "
            f"training takes about {_say_bytes(self.memory)} ({words})"
        )


def measure_model(architecture: PreTrainedConfig, batch_size: int, length: int, half: bool = False) -> ModelSize:
    """Count a model's parameters and estimate the memory of its training, without building it.

    Args:
        batch_size: sequences in a micro-batch.
        length: tokens of a sequence.
        half: whether autocast computes in 16 bits.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(copy.deepcopy(architecture))
        model.tie_weights()  # transformers 5.0 leaves that out without memory
    modules = model.get_input_embeddings(), model.get_output_embeddings()
    tables = {id(module.weight): module.weight for module in modules}  # a shared one is counted once
    parameters = sum(parameter.numel() for parameter in model.parameters())
    numbers = batch_size * length * architecture.num_hidden_layers * _kept_per_token(architecture, length)
    return ModelSize(
        parameters=parameters,
        embeddings=sum(table.numel() for table in tables.values()),
        weights=FP32 * parameters,
        gradients=FP32 * parameters,
        optimizer=2 * FP32 * parameters,
        activations=numbers * (FP32 // 2 if half else FP32),
    )


def _kept_per_token(architecture: PreTrainedConfig, length: int) -> int:
    """Return the numbers that a layer keeps per token: inputs of every product, norm and activation.

    Per layer 8 times the width (input, squares and result of both norms, attention's result, sum), queries twice, keys
    and values three times, and the feed-forward's gate, its activation, its partner and their product; with dropout,
    which has no fused kernel on a CPU, also the attention maps, twice.
    """
    values = architecture.to_dict()
    width, heads = architecture.hidden_size, architecture.num_attention_heads
    shared = architecture.num_key_value_heads * (values.get("head_dim") or width // heads)
    inner = architecture.intermediate_size
    maps = 2 * heads * length if values.get("attention_dropout") else 0
    return 10 * width + 3 * shared + 4 * inner + maps


def _say_bytes(size: int) -> str:
    """Write a size as a person reads it."""
    if size >= 1_000_000_000:
        return f"{size / 1e9:.1f} GB"
    return f"{size / 1e6:.0f} MB" if size >= 10_000_000 else f"{size / 1e6:.1f} MB"
