"""A dense student made of a mixture of experts: chosen experts side by side in one feed-forward layer, or their mean.

The student is an ordinary model of transformers; all but the experts is the teacher's, to the number.
Choosing, joining and scaling: Kim et al. 2026, "Pruning and Distilling Mixture-of-Experts into Dense Language Models",
arXiv:2605.28207.
"""

from dataclasses import fields

import torch
from transformers import (
    AutoModelForCausalLM,
    FlexOlmoConfig,
    MistralConfig,
    MixtralConfig,
    Olmo2Config,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen3Config,
    Qwen3MoeConfig,
)

from kdkit.errors import UserError
from kdkit.models.from_teacher.expert_scores import ExpertUse, choose_experts, fit_weights, mean_weights
from kdkit.models.from_teacher.hidden_units import Expert, average
from kdkit.models.moe_blocks import MoeBlock, find_blocks
from kdkit.models.taps import decoder_layers, find_attention

SAME_OTHERWISE = {MixtralConfig: MistralConfig, Qwen3MoeConfig: Qwen3Config, FlexOlmoConfig: Olmo2Config}
"""Mixtures, and the dense model that is the same but for the experts."""


def join_experts(
    model: PreTrainedModel, uses: list[ExpertUse], num_kept: int, score: str, scale: str, key: str
) -> PreTrainedModel:
    """Make a dense model whose feed-forward layers are K experts of each layer, side by side.

    Args:
        model: the mixture.
        uses: what its experts do, from `measure_experts`.
        num_kept: K; the feed-forward layers are K times as wide as an expert.
        score: by which they are chosen, see `choose_experts`.
        scale: what their outputs are multiplied by: `routing`, their mean router weights, made to sum to a token's;
            `fitted`, what brings the sum nearest to the layer's output (least squares); `uniform`, equal shares.
        key: the setting that says how many, for messages.

    Raises:
        UserError: more experts than there are, or a mixture with no dense counterpart, see `describe_dense`.
    """
    blocks = find_blocks(model, key)
    check_kept(num_kept, len(uses[0].load), key)
    layers: dict[int, Expert] = {}
    for block, use in zip(blocks, uses, strict=True):
        chosen = choose_experts(use, num_kept, score)
        layers[block.decoder_layer] = _side_by_side(block, chosen, _scales(use, chosen, scale))
    return _assemble(model, layers, key)


def average_experts(model: PreTrainedModel, uses: list[ExpertUse], key: str) -> PreTrainedModel:
    """Make a dense model whose feed-forward layers are the mean of all experts of each layer, weighed by their load.

    Their hidden units are matched first, see `average`.

    Raises:
        UserError: a mixture with no dense counterpart, see `describe_dense`.
    """
    layers: dict[int, Expert] = {}
    for block, use in zip(find_blocks(model, key), uses, strict=True):
        gate_up, down = average(experts_of(block), use.load)
        layers[block.decoder_layer] = gate_up, down * float(use.weight.sum() / use.num_tokens)
    return _assemble(model, layers, key)


def check_kept(num_kept: int, num_experts: int, key: str) -> None:
    """Refuse to keep more experts than there are.

    Raises:
        UserError: naming both.
    """
    if num_kept > num_experts:
        raise UserError(f"{key}: expected at most the teacher's {num_experts} experts, got {num_kept}; lower it")


def experts_of(block: MoeBlock) -> list[Expert]:
    """Return the weights of a layer's experts, without their graph."""
    return list(zip(block.experts.gate_up_proj.detach(), block.experts.down_proj.detach(), strict=True))


def _scales(use: ExpertUse, chosen: list[int], scale: str) -> torch.Tensor:
    """Return what the outputs of the chosen experts are multiplied by, `[K]`."""
    if scale == "fitted":
        return fit_weights(use, chosen)
    if scale == "routing":
        return mean_weights(use, chosen)
    return torch.full((len(chosen),), float(use.weight.sum() / use.num_tokens) / len(chosen), dtype=torch.float64)


def _side_by_side(block: MoeBlock, chosen: list[int], scales: torch.Tensor) -> Expert:
    """Put experts side by side: the sum of their outputs, each times its scale."""
    gate_up, down = block.experts.gate_up_proj.detach()[chosen], block.experts.down_proj.detach()[chosen]
    scaled = down * scales.to(down)[:, None, None]
    return gate_up.unflatten(1, (2, -1)).transpose(0, 1).flatten(0, 2), scaled.transpose(0, 1).flatten(1)


def describe_dense(model: PreTrainedModel, width: int, key: str) -> PreTrainedConfig:
    """Describe the dense model that is a mixture but for its experts.

    Args:
        width: of its feed-forward layers.

    Raises:
        UserError: a mixture with no dense counterpart in transformers; layers that are dense already and of another
            width.
    """
    config = model.config
    dense_class = SAME_OTHERWISE.get(type(config))
    if dense_class is None:
        known = ", ".join(sorted(known.model_type for known in SAME_OTHERWISE))
        raise UserError(
            f"{key}: expected a mixture with a dense counterpart in transformers ({known}), got {config.model_type}; "
            "keep it a mixture with student.from_teacher.kind=moe_to_moe"
        )
    others = len(decoder_layers(model)) - len(find_blocks(model, key))
    if others and config.intermediate_size != width:
        raise UserError(
            f"{key}: expected feed-forward layers of width {config.intermediate_size}, as {others} of the teacher's "
            f"layers are dense already, got {width}; keep another number of experts, or set "
            "student.from_teacher.kind=moe_to_moe"
        )
    values = config.to_dict()
    shared = {field.name: values[field.name] for field in fields(dense_class) if field.name in values}
    shared |= {"intermediate_size": width, "head_dim": find_attention(decoder_layers(model)[0]).head_dim}
    if dense_class is Qwen3Config and config.sliding_window is not None:
        shared["layer_types"] = ["sliding_attention"] * config.num_hidden_layers  # its default has a window in few
    return dense_class(**shared)


def _assemble(model: PreTrainedModel, layers: dict[int, Expert], key: str) -> PreTrainedModel:
    """Make the dense model of a mixture with given feed-forward layers, by the number of the decoder layer."""
    config = describe_dense(model, next(iter(layers.values()))[1].shape[1], key)
    dense = AutoModelForCausalLM.from_config(config, dtype=model.dtype).to(model.device)
    weights = {name: value for name, value in model.state_dict().items() if name in dense.state_dict()}
    for number, layer in enumerate(decoder_layers(dense)):
        if number in layers:
            prefix = next(name for name, module in dense.named_modules() if module is layer.mlp)
            gate_up, down = layers[number]
            weights |= {
                f"{prefix}.gate_proj.weight": gate_up.chunk(2)[0],
                f"{prefix}.up_proj.weight": gate_up.chunk(2)[1],
            }
            weights[f"{prefix}.down_proj.weight"] = down
    dense.load_state_dict(weights)
    dense.generation_config = model.generation_config
    return dense.eval()
