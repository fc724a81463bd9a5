"""A dense student made of a mixture of experts: chosen experts side by side in one feed-forward layer, or their mean.

The student is an ordinary model of transformers; all but the experts is the teacher's, to the number.
Choosing, joining and scaling: Kim et al. 2026, "Pruning and Distilling Mixture-of-Experts into Dense Language Models",
arXiv:2605.28207.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import fields
from typing import Any

import torch
from torch.nn import functional as F
from transformers import (
    FlexOlmoConfig,
    MistralConfig,
    MixtralConfig,
    Olmo2Config,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen3Config,
    Qwen3MoeConfig,
)

from kdkit.config.built.from_teacher import MoeToDense
from kdkit.errors import UserError
from kdkit.models.from_teacher.layers import empty_model
from kdkit.models.from_teacher.mixtures.hidden_units import Expert, average
from kdkit.models.from_teacher.mixtures.scores import (
    ExpertUse,
    choose_experts,
    mean_weights,
    measure_experts,
)
from kdkit.models.from_teacher.mixtures.shapes import KEY, check_kept, check_mixture, experts_of, skeleton
from kdkit.models.from_teacher.text import TextBatch
from kdkit.models.moe_blocks import MoeBlock, find_blocks
from kdkit.models.taps import decoder_layers, find_attention

SAME_OTHERWISE = {MixtralConfig: MistralConfig, Qwen3MoeConfig: Qwen3Config, FlexOlmoConfig: Olmo2Config}
"""Mixtures, and the dense model that is the same but for the experts."""

RIDGE = 1e-2
"""How strongly fitted down-projections are drawn to the experts' own, in mean squares of a hidden unit."""


def dense_architecture(settings: MoeToDense, teacher: PreTrainedConfig) -> PreTrainedConfig:
    """Describe the dense model that a mixture is but for its experts.

    Raises:
        UserError: a dense teacher, or a mixture with no dense counterpart in transformers; more experts than it has;
            layers that are dense already and of another width.
    """
    check_mixture(teacher, settings.kind)
    model = skeleton(teacher)
    dense_class = SAME_OTHERWISE.get(type(teacher))
    if dense_class is None:
        known = ", ".join(sorted(known.model_type for known in SAME_OTHERWISE))
        raise UserError(
            f"{KEY}.kind: moe_to_dense needs a mixture with a dense counterpart in transformers ({known}), got "
            f"{teacher.model_type}; set {KEY}=moe_to_moe"
        )
    blocks = find_blocks(model, "teacher.path")
    width = choose_num_joined(settings, teacher) * blocks[0].experts.down_proj.shape[2]
    others = len(decoder_layers(model)) - len(blocks)
    if others and teacher.intermediate_size != width:
        raise UserError(
            f"{KEY}.num_experts: expected experts that are together {teacher.intermediate_size} wide, as the {others} "
            f"layers of the teacher that are dense already, got {width}; set another number, or {KEY}=moe_to_moe"
        )
    values = teacher.to_dict()
    shared = {field.name: values[field.name] for field in fields(dense_class) if field.name in values}
    shared |= {"intermediate_size": width, "head_dim": find_attention(decoder_layers(model)[0]).head_dim}
    if dense_class is Qwen3Config and teacher.sliding_window is not None:
        shared["layer_types"] = ["sliding_attention"] * teacher.num_hidden_layers  # its default has a window in few
    return dense_class(**shared)


def choose_num_joined(settings: MoeToDense, teacher: PreTrainedConfig) -> int:
    """Return how many experts wide a dense layer is.

    Raises:
        UserError: more than there are.
    """
    if settings.join == "average":
        return 1
    num_joined = settings.num_experts or teacher.num_experts_per_tok
    check_kept(num_joined, teacher)
    return num_joined


def join_experts(
    settings: MoeToDense, teacher: PreTrainedModel, text: list[TextBatch]
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Return a dense model made of a mixture's experts, fp32, and what was kept.

    Its feed-forward layers are some experts of each layer side by side, so the sum of what they give, each times a
    scale; or the mean of all experts by their load, their hidden units matched first (see `average`).

    Raises:
        UserError: see `dense_architecture` and `measure_experts`.
    """
    dense = empty_model(dense_architecture(settings, teacher.config)).to(teacher.device).eval()
    uses, blocks = measure_experts(teacher, text), find_blocks(teacher, "teacher.path")
    facts: dict[str, Any] = {"loads": [_rounded(use.load) for use in uses]}
    if settings.join == "average":
        layers = [_average(block, use) for block, use in zip(blocks, uses, strict=True)]
    else:
        num_joined = choose_num_joined(settings, teacher.config)
        chosen = [choose_experts(use, num_joined, settings.score) for use in uses]
        scales = [_scales(use, kept, settings.scale) for use, kept in zip(uses, chosen, strict=True)]
        layers = [_side_by_side(*parts) for parts in zip(blocks, chosen, scales, strict=True)]
        facts |= {"experts": chosen, "scales": [_rounded(values) for values in scales]}
    if settings.scale == "fitted":
        layers = fit_down(teacher, text, layers)
    _fill(dense, teacher, dict(zip([block.decoder_layer for block in blocks], layers, strict=True)))
    return dense, facts


def _rounded(values: torch.Tensor) -> list[float]:
    return [round(value, 5) for value in values.tolist()]


def _average(block: MoeBlock, use: ExpertUse) -> Expert:
    """Return the mean of a layer's experts by their load, times what a token's router weights sum to."""
    gate_up, down = average(experts_of(block), use.load)
    return gate_up, down * float(use.weight.sum() / use.num_tokens)


def _scales(use: ExpertUse, chosen: list[int], scale: str) -> torch.Tensor:
    """Return what the outputs of the chosen experts are multiplied by, `[K]`."""
    if scale == "uniform":
        return torch.full((len(chosen),), float(use.weight.sum() / use.num_tokens) / len(chosen), dtype=torch.float64)
    return mean_weights(use, chosen)


def _side_by_side(block: MoeBlock, chosen: list[int], scales: torch.Tensor) -> Expert:
    """Put experts side by side: the sum of their outputs, each times its scale."""
    gate_up, down = (torch.stack(parts) for parts in zip(*(experts_of(block)[e] for e in chosen), strict=True))
    scaled = down * scales.to(down)[:, None, None]
    return gate_up.unflatten(1, (2, -1)).transpose(0, 1).flatten(0, 2), scaled.transpose(0, 1).flatten(1)


@torch.no_grad()
def fit_down(teacher: PreTrainedModel, text: list[TextBatch], layers: list[Expert]) -> list[Expert]:
    """Return feed-forward layers with other down-projections: those that come nearest to what a mixture's layers give.

    Least squares over the tokens of a text, each layer by itself on what the teacher's reads, drawn to the given
    down-projection where the text says little (ridge). kdkit's own; no token is sent anywhere, so one matrix can do
    better than the experts' own ones, which each were made for other tokens.
    """
    blocks = find_blocks(teacher, "teacher.path")
    sums = [
        (torch.zeros(2 * [down.shape[1]], dtype=torch.float64), torch.zeros(down.T.shape, dtype=torch.float64))
        for _, down in layers
    ]
    place: dict[str, torch.Tensor] = {}
    with ExitStack() as stack:
        for block, (gate_up, _), (gram, product) in zip(blocks, layers, sums, strict=True):
            stack.callback(block.experts.register_forward_hook(_watch(gate_up, gram, product, place)).remove)
        for batch in text:
            place["is_read"] = batch.is_read.flatten().to(teacher.device)
            teacher.base_model(input_ids=batch.input_ids.to(teacher.device), use_cache=False)
    fitted = []
    for (gate_up, down), (gram, product) in zip(layers, sums, strict=True):
        before = down.T.double().cpu()
        ridge = RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
        solved = before + torch.linalg.solve(gram + ridge, product - gram @ before)
        fitted.append((gate_up, solved.T.to(down)))
    return fitted


def _watch(
    gate_up: torch.Tensor, gram: torch.Tensor, product: torch.Tensor, place: dict[str, torch.Tensor]
) -> Callable[..., None]:
    """Make a hook that adds up products of hidden units with themselves, and with what a mixture's layer gives."""

    def note(experts: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        """Run the dense layer's units on what the mixture's layer reads."""
        rows = place["is_read"]
        gate, up = F.linear(inputs[0][rows].float(), gate_up).chunk(2, dim=-1)
        units = (experts.act_fn(gate) * up).double()
        gram.add_((units.T @ units).cpu())
        product.add_((units.T @ output[rows].double()).cpu())

    return note


def _fill(dense: PreTrainedModel, teacher: PreTrainedModel, layers: dict[int, Expert]) -> None:
    """Copy a mixture's weights into its dense model, with given feed-forward layers by the number of their layer."""
    names = {module: name for name, module in dense.named_modules()}
    weights = {name: value for name, value in teacher.state_dict().items() if name in dense.state_dict()}
    for number, (gate_up, down) in layers.items():
        prefix = names[decoder_layers(dense)[number].mlp]
        parts = (*gate_up.chunk(2), down)
        weights |= {
            f"{prefix}.{name}_proj.weight": part for name, part in zip(("gate", "up", "down"), parts, strict=True)
        }
    dense.load_state_dict(weights)
    dense.generation_config = teacher.generation_config
