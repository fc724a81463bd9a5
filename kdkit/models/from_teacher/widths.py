"""A teacher made narrower: the channels, heads and inner units with the largest activations on text stay.

Source: Minitron, arXiv:2407.14679. kdkit adds what a norm over fewer channels needs, see `_rescale_norms`.
"""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from kdkit.config.built.from_teacher import Prune
from kdkit.errors import UserError
from kdkit.models.from_teacher.activations import Activations, find_norms, measure_activations
from kdkit.models.from_teacher.importance import layer_influences
from kdkit.models.from_teacher.layers import choose_layers, copy_layers, empty_model
from kdkit.models.from_teacher.sizes import KEY, Sizes, choose_sizes, pruned_architecture, sizes_of
from kdkit.models.from_teacher.text import TextBatch
from kdkit.models.taps import decoder_layers, find_attention


@dataclass(frozen=True)
class Kept:
    """What of a model stays, by number and in order; lists are by layer."""

    channels: torch.Tensor
    """`[H']`."""
    heads: list[torch.Tensor]
    """`[num_heads']` each."""
    shared: list[torch.Tensor]
    """`[num_key_value_heads']` each."""
    inner: list[torch.Tensor]
    """`[inner']` each, of a mixture `[E, inner']`."""


def prune(settings: Prune, teacher: PreTrainedModel, text: list[TextBatch]) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Return a smaller model of a teacher's parts, fp32, and what was kept.

    Raises:
        UserError: see `pruned_architecture`; an architecture whose smaller form computes something else.
    """
    architecture = pruned_architecture(settings, teacher.config)
    there = sizes_of(teacher.config)
    sizes = choose_sizes(settings, there)
    num_layers = architecture.get_text_config().num_hidden_layers
    layers, facts = choose_layers(layer_influences(teacher, text), num_layers)
    whole = copy_layers(teacher, layers)
    activations = measure_activations(whole, text)
    kept = choose_parts(activations, there, sizes)
    student = empty_model(architecture).to(teacher.device).eval()
    _copy_parts(whole, student, kept, there, sizes)
    _check(whole, student, kept, there)
    _rescale_norms(student, activations, kept)
    return student, {"layers": layers} | facts | describe_parts(kept)


def choose_parts(found: Activations, there: Sizes, sizes: Sizes) -> Kept:
    """Choose the largest parts."""
    heads, shared = zip(*(_choose_heads(values, there, sizes) for values in found.heads), strict=True)
    inner = [_largest(values, min(sizes.inner, values.shape[-1])) for values in found.inner]
    return Kept(_largest(found.channels, sizes.hidden), list(heads), list(shared), inner)


def _largest(values: torch.Tensor, count: int) -> torch.Tensor:
    """Return the places of the largest values of the last dimension, in order; of equal ones the first."""
    return values.sort(dim=-1, descending=True, stable=True).indices[..., :count].sort(dim=-1).values


def _choose_heads(values: torch.Tensor, there: Sizes, sizes: Sizes) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose heads of keys and values by the best of their query heads together, and these heads."""
    groups = values.view(there.shared, there.group)
    best = _largest(groups, sizes.group)  # [shared, group']
    shared = _largest(groups.gather(1, best).sum(dim=1), sizes.shared)
    return (shared[:, None] * there.group + best[shared]).flatten(), shared


def _rows_of(heads: torch.Tensor, width: int) -> torch.Tensor:
    """Return the rows of a projection that are some heads'."""
    return (heads[:, None] * width + torch.arange(width)).flatten()


def _copy_parts(whole: PreTrainedModel, student: PreTrainedModel, kept: Kept, there: Sizes, sizes: Sizes) -> None:
    """Copy what stays; norms are scaled so that channels of zeros would not be missed."""
    channels = kept.channels
    scale = (there.hidden / sizes.hidden) ** 0.5
    for (_, ours), theirs in zip(find_norms(student).items(), find_norms(whole).values(), strict=True):
        _fill(ours.weight, theirs.weight[channels] * scale)
    for module in ("get_input_embeddings", "get_output_embeddings"):
        ours, theirs = (getattr(model, module)() for model in (student, whole))
        _fill(ours.weight, theirs.weight[:, channels])
    for number, (ours, theirs) in enumerate(zip(decoder_layers(student), decoder_layers(whole), strict=True)):
        queries = _rows_of(kept.heads[number], there.head_width)
        shared = _rows_of(kept.shared[number], there.head_width)
        attention, their_attention = find_attention(ours), find_attention(theirs)
        rows = {"q_proj": queries, "k_proj": shared, "v_proj": shared}
        for name, module in their_attention.named_children():
            if name in rows:
                _fill_linear(getattr(attention, name), module, rows[name], channels)
            elif name == "o_proj":
                _fill_linear(attention.o_proj, module, channels, queries)
            else:
                attention.get_submodule(name).load_state_dict(module.state_dict())
        _copy_inner(ours.mlp, theirs.mlp, kept.inner[number], channels)


def _copy_inner(ours: Any, theirs: Any, inner: torch.Tensor, channels: torch.Tensor) -> None:
    """Copy a feed-forward layer, or a gate and its experts."""
    if inner.dim() == 1:
        for name in ("gate_proj", "up_proj"):
            _fill_linear(getattr(ours, name), getattr(theirs, name), inner, channels)
        _fill_linear(ours.down_proj, theirs.down_proj, channels, inner)
        return
    _fill(ours.gate.weight, theirs.gate.weight[:, channels])
    experts, half = theirs.experts, theirs.experts.down_proj.shape[2]
    for expert, units in enumerate(inner):
        both = torch.cat([units, half + units])
        _fill(ours.experts.gate_up_proj[expert], experts.gate_up_proj[expert][both][:, channels])
        _fill(ours.experts.down_proj[expert], experts.down_proj[expert][channels][:, units])


def _fill_linear(ours: torch.nn.Linear, theirs: torch.nn.Linear, rows: torch.Tensor, columns: torch.Tensor) -> None:
    """Copy some rows and columns of a linear layer."""
    _fill(ours.weight, theirs.weight[rows][:, columns])
    if theirs.bias is not None:
        _fill(ours.bias, theirs.bias[rows])


@torch.no_grad()
def _fill(ours: torch.Tensor, values: torch.Tensor) -> None:
    """Write values of the same shape into a parameter."""
    ours.copy_(values)


@torch.no_grad()
def _check(whole: PreTrainedModel, student: PreTrainedModel, kept: Kept, there: Sizes) -> None:
    """Compare with the whole model after what is not kept of it has been set to zero, in place: both must agree.

    Raises:
        UserError: they do not.
    """
    channels = _others(kept.channels, there.hidden)
    whole.get_input_embeddings().weight[:, channels] = 0.0
    for number, layer in enumerate(decoder_layers(whole)):
        out = find_attention(layer).o_proj
        out.weight[:, _rows_of(_others(kept.heads[number], there.heads), there.head_width)] = 0.0
        inner = kept.inner[number]
        if inner.dim() == 1:
            layer.mlp.down_proj.weight[:, _others(inner, layer.mlp.down_proj.in_features)] = 0.0
            last = layer.mlp.down_proj.weight
        else:
            last = layer.mlp.experts.down_proj
            for expert, units in enumerate(inner):
                last[expert][:, _others(units, last.shape[2])] = 0.0
        out.weight[channels] = 0.0
        last[..., channels, :] = 0.0
        if out.bias is not None:
            out.bias[channels] = 0.0
    ids = (torch.arange(8, device=student.device) * 7 % student.get_input_embeddings().weight.shape[0])[None]
    expected, got = (model(input_ids=ids, use_cache=False).logits.float() for model in (whole, student))
    difference = (got - expected).abs().max().item() / max(1.0, expected.abs().max().item())
    if not difference <= 1e-3:
        raise UserError(
            f"{KEY}: expected a teacher built like a Llama, Qwen3 or Qwen3-MoE, got {type(whole).__name__}, whose "
            f"pruned form computes something else (logits differ by {difference:.3g}); set {KEY}=layers"
        )


def _others(kept: torch.Tensor, size: int) -> torch.Tensor:
    """Return the numbers below a size that are not kept."""
    is_kept = torch.zeros(size, dtype=torch.bool)
    is_kept[kept] = True
    return (~is_kept).nonzero().squeeze(1)


@torch.no_grad()
def _rescale_norms(student: PreTrainedModel, found: Activations, kept: Kept) -> None:
    """Let each norm divide by what it divided by before: the channels that are gone had a part in its mean square."""
    for norm, energy in zip(find_norms(student).values(), found.energies.values(), strict=True):
        norm.weight *= (energy[kept.channels].sum() / energy.sum()).sqrt().item()


def describe_parts(kept: Kept) -> dict[str, Any]:
    """List what was kept, as JSON; the units of experts are many, and left out."""
    return {"channels": kept.channels.tolist(), "heads": [heads.tolist() for heads in kept.heads]}
