"""How large a model is without its weights: parameters, and what its forward pass keeps for the backward pass.

The architecture's own code runs on fake tensors, which have shapes and no memory (torch's FakeTensorMode), and what
autograd would save is added up. So every architecture that transformers knows is counted as it is, on any machine.
"""

import copy
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from kdkit.machine.hardware import choose_attention
from kdkit.models.taps import decoder_layers

FP32 = 4
"""Bytes of a weight, a gradient and each of the optimizer's numbers in every precision: autocast keeps the weights."""

ATTENTION_DROPOUTS = ("attention_dropout", "attention_probs_dropout_prob")
"""transformers' names of the share of attention weights that is dropped."""


@dataclass(frozen=True)
class ModelSize:
    """Parameters of a model, and bytes of its training."""

    parameters: int
    embeddings: int
    """Those of the input embeddings and the head, a shared table once."""
    active: int
    """Parameters that a token meets: of a mixture, those of the experts that it is sent to."""
    layers: tuple[int, ...]
    """Bytes of what each layer keeps for the backward pass."""
    around: int
    """Bytes of what the rest of the model keeps."""
    half: bool
    """Whether autocast computes in 16 bits."""

    @property
    def weights(self) -> int:
        """Bytes of the weights, which are fp32."""
        return FP32 * self.parameters

    @property
    def gradients(self) -> int:
        """Bytes of the gradients."""
        return FP32 * self.parameters

    @property
    def optimizer(self) -> int:
        """Bytes of AdamW's two running means."""
        return 2 * FP32 * self.parameters

    @property
    def activations(self) -> int:
        """Bytes of what the forward pass keeps for the backward pass, casts of the weights among them."""
        return sum(self.layers) + self.around

    @property
    def casts(self) -> int:
        """Bytes of the 16-bit copies of the layers' weights, which autocast keeps until the forward pass is over."""
        return FP32 // 2 * (self.parameters - self.embeddings) if self.half else 0

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
        words = ", ".join(f"{part} {say_bytes(size)}" for part, size in (*parts, ("activations", self.activations)))
        return (
            f"{name}: {self.parameters:,} parameters ({self.embeddings:,} in embeddings and head, {inner:,} without); "
            f"training takes about {say_bytes(self.memory)} ({words})"
        )


def measure_model(
    architecture: PreTrainedConfig,
    batch_size: int,
    length: int,
    half: bool = False,
    *,
    encoder: bool = False,
    maps: bool = False,
    dropout: bool = True,
    fused: bool = False,
) -> ModelSize:
    """Count a model's parameters and the memory of its training, without its weights.

    Args:
        batch_size: sequences in a micro-batch; 0: count the parameters alone.
        length: tokens of a sequence.
        half: whether autocast computes in 16 bits.
        encoder: an embedding model, without a head for words.
        maps: whether attention maps are made (the eager kernel).
        dropout: whether the model's dropout is on.
        fused: whether attention drops weights without keeping its maps, as a GPU's kernels do.
    """
    architecture = copy.deepcopy(architecture)
    architecture.use_cache = False
    architecture._attn_implementation = choose_attention(maps)[0]
    for name in ATTENTION_DROPOUTS if fused and not maps else ():
        if name in architecture.get_text_config().to_dict():
            setattr(architecture.get_text_config(), name, 0.0)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.random.fork_rng(devices=[]):
        model = (AutoModel if encoder else AutoModelForCausalLM).from_config(architecture).train(dropout)
        model.tie_weights()
        modules = [model.get_input_embeddings(), *([] if encoder else [model.get_output_embeddings()])]
        tables = {id(module.weight): module.weight.numel() for module in modules}  # a shared one is counted once
        named = {name: parameter.numel() for name, parameter in model.named_parameters()}
        kept = _count_kept(model, batch_size, length, half) if batch_size else [0]
    return ModelSize(
        parameters=sum(named.values()),
        embeddings=sum(tables.values()),
        active=round(sum(count * _share(name, architecture) for name, count in named.items())),
        layers=tuple(kept[:-1]),
        around=kept[-1],
        half=half,
    )


def _share(name: str, architecture: PreTrainedConfig) -> float:
    """Return the share of a parameter that a token meets."""
    values = architecture.get_text_config().to_dict()
    experts = values.get("num_experts") or values.get("num_local_experts") or values.get("n_routed_experts") or 0
    is_experts = ".experts." in name and "shared_core" not in name
    return values["num_experts_per_tok"] / experts if experts and is_experts else 1.0


def _count_kept(model: PreTrainedModel, batch_size: int, length: int, half: bool) -> list[int]:
    """Run the model's body; return the bytes that each layer keeps and, last, those of the rest."""
    own = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
    layers, place = decoder_layers(model), -1
    kept: dict[int, tuple[int, int, torch.Tensor]] = {}
    window = model.config.get_text_config().to_dict().get("sliding_window")

    def enter(number: int) -> None:
        nonlocal place
        place = number

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        # transformers leaves a causal mask out where it sees that nothing is padded, which fake tensors hide
        is_mask = tensor.grad_fn is None and tensor.shape[-2:] == (length, length) and not window
        if storage._cdata not in own and not is_mask:
            kept.setdefault(storage._cdata, (place, storage.nbytes(), tensor))  # the tensor: a number is used again
        return tensor

    for number, layer in enumerate(layers):
        layer.register_forward_pre_hook(lambda *_, number=number: enter(number))
        layer.register_forward_hook(lambda *_: enter(-1))
    for module in model.modules():
        if {"gate_up_proj", "down_proj"} <= dict(module.named_parameters(recurse=False)).keys():
            module.forward = partial(_run_one_expert, module)
    input_ids = torch.zeros(batch_size, length, dtype=torch.int64)
    casting = torch.autocast("cpu", torch.float16) if half else nullcontext()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), casting:
        model.base_model(input_ids=input_ids)
    sums = [0] * (len(layers) + 1)
    for number, size, _ in kept.values():
        sums[number] += size
    return sums


def _run_one_expert(experts: Any, hidden: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Let the first expert do the work of all: which token goes where is not known, and how many rows there are is.

    torch's own grouped products (2.13) take fp32 on a CPU, and refuse it on fake tensors.
    """
    rows = hidden.repeat_interleave(chosen.shape[-1], dim=0)
    gate, up = torch.nn.functional.linear(rows, experts.gate_up_proj[0]).chunk(2, dim=-1)
    out = torch.nn.functional.linear(experts.act_fn(gate) * up, experts.down_proj[0]) * weights.reshape(-1, 1)
    return out.view(len(hidden), -1, hidden.shape[-1]).sum(dim=1).to(hidden.dtype)


def say_bytes(size: float) -> str:
    """Write a size as a person reads it."""
    if size >= 1_000_000_000:
        return f"{size / 1e9:.1f} GB"
    return f"{size / 1e6:.0f} MB" if size >= 10_000_000 else f"{size / 1e6:.1f} MB"
