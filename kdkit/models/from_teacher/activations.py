"""How large the activations of a model's parts are on text: its channels, heads and inner units.

Sizes are absolute values, the mean over the places of a sequence and the root mean square over sequences, which is what
Minitron found best (arXiv:2407.14679, section 2.2).
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedModel

from kdkit.models.from_teacher.text import TextBatch
from kdkit.models.taps import decoder_layers, find_attention


@dataclass
class Activations:
    """Sizes of activations, fp32; by layer where there is a list."""

    channels: torch.Tensor
    """`[H]`: of the residual stream behind its norms, added over all of them."""
    heads: list[torch.Tensor] = field(default_factory=list)
    """`[num_heads]` each: lengths of what a head adds up of the values."""
    inner: list[torch.Tensor] = field(default_factory=list)
    """`[inner]` each, or of a mixture `[E, inner]`, where a token counts by its routing weight."""
    energies: dict[str, torch.Tensor] = field(default_factory=dict)
    """`[H]`: sum of squares of what each norm of the residual stream reads, by the norm's name."""


def find_norms(model: PreTrainedModel) -> dict[str, torch.nn.Module]:
    """Return the norms of the residual stream by their names: those outside of attention with a weight per channel."""
    width = model.config.get_text_config().hidden_size
    inside = {id(module) for layer in decoder_layers(model) for module in find_attention(layer).modules()}
    return {
        name: module
        for name, module in model.named_modules()
        if type(module).__name__.endswith("Norm") and id(module) not in inside and module.weight.shape == (width,)
    }


@torch.no_grad()
def measure_activations(model: PreTrainedModel, text: list[TextBatch]) -> Activations:
    """Read a text and measure.

    Args:
        model: a causal LM whose layers have `o_proj` in attention and either `mlp.down_proj` or `mlp.experts`.
    """
    width, layers = model.config.get_text_config().hidden_size, decoder_layers(model)
    num_heads = model.config.get_text_config().num_attention_heads
    found = Activations(torch.zeros(width), energies={name: torch.zeros(width) for name in find_norms(model)})
    behind = {name: torch.zeros(width) for name in found.energies}
    place: dict[str, torch.Tensor] = {}
    with ExitStack() as stack:
        for name, norm in find_norms(model).items():
            handle = norm.register_forward_hook(_watch_norm(found.energies[name], behind[name], place))
            stack.callback(handle.remove)
        for layer in layers:
            found.heads.append(sums := torch.zeros(num_heads))
            handle = find_attention(layer).o_proj.register_forward_pre_hook(_watch_heads(sums, num_heads, place))
            stack.callback(handle.remove)
            found.inner.append(_watch_inner(layer.mlp, place, stack))
        for batch in text:
            place["is_read"] = batch.is_read.to(model.device)
            model.base_model(input_ids=batch.input_ids.to(model.device), use_cache=False)
    found.channels = sum((sums.sqrt() for sums in behind.values()), found.channels)
    found.heads, found.inner = [sums.sqrt() for sums in found.heads], [sums.sqrt() for sums in found.inner]
    return found


def _mean_square(sizes: torch.Tensor, is_read: torch.Tensor) -> torch.Tensor:
    """Return the squares, added over sequences, of the mean over their places: `[B, S, n]` -> `[n]`."""
    counted = sizes.float() * is_read[..., None]
    return (counted.sum(dim=1) / is_read.sum(dim=1).clamp(min=1)[:, None]).square().sum(dim=0).cpu()


def _watch_norm(energy: torch.Tensor, behind: torch.Tensor, place: dict[str, torch.Tensor]) -> Callable[..., None]:
    def hook(_: torch.nn.Module, args: tuple, output: torch.Tensor) -> None:
        energy.add_(args[0][place["is_read"]].float().square().sum(dim=0).cpu())
        behind.add_(_mean_square(output.abs(), place["is_read"]))

    return hook


def _watch_heads(sums: torch.Tensor, num_heads: int, place: dict[str, torch.Tensor]) -> Callable[..., None]:
    def hook(_: torch.nn.Module, args: tuple) -> None:
        sums.add_(_mean_square(args[0].unflatten(-1, (num_heads, -1)).float().norm(dim=-1), place["is_read"]))

    return hook


def _watch_inner(mlp: Any, place: dict[str, torch.Tensor], stack: ExitStack) -> torch.Tensor:
    """Measure the inner units of a feed-forward layer, or of its experts, which are filled in while a text is read."""
    if (experts := dict(mlp.named_children()).get("experts")) is not None:
        sums = torch.zeros(experts.down_proj.shape[0], experts.down_proj.shape[2])
        stack.callback(experts.register_forward_pre_hook(_watch_experts(sums, place)).remove)
        return sums
    sums = torch.zeros(mlp.down_proj.in_features)

    def hook(_: torch.nn.Module, args: tuple) -> None:
        sums.add_(_mean_square(args[0].abs(), place["is_read"]))

    stack.callback(mlp.down_proj.register_forward_pre_hook(hook).remove)
    return sums


def _watch_experts(sums: torch.Tensor, place: dict[str, torch.Tensor]) -> Callable[..., None]:
    def hook(experts: Any, args: tuple) -> None:
        """Compute the units of the experts that each token is sent to once more, as their products are fused."""
        hidden, chosen, weights = args
        is_read = place["is_read"]
        for expert in range(len(sums)):
            share = (weights * (chosen == expert)).sum(dim=-1)  # [tokens]
            rows = (share > 0).nonzero().squeeze(1)
            gate, up = torch.nn.functional.linear(hidden[rows], experts.gate_up_proj[expert]).chunk(2, dim=-1)
            sizes = hidden.new_zeros(len(hidden), sums.shape[1])
            sizes[rows] = (experts.act_fn(gate) * up).abs() * share[rows, None]
            sums[expert].add_(_mean_square(sizes.view(*is_read.shape, -1), is_read))

    return hook
