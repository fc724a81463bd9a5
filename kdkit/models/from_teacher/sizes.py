"""The sizes of a pruned student, checked against its teacher's by the architectures alone."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from kdkit.config.built.from_teacher import Prune
from kdkit.errors import UserError
from kdkit.models.from_teacher.layers import with_layers
from kdkit.models.loading import num_experts
from kdkit.models.taps import decoder_layers, find_attention

KEY = "student.from_teacher"
GROUPED = 8
"""Grouped products of experts want rows of 16 bytes: widths of a mixture are multiples of 8 numbers of 16 bits."""
NAMES = ("hidden_size", "num_attention_heads", "num_key_value_heads", "num_hidden_layers")
"""What a configuration must say for its model to be pruned."""


@dataclass(frozen=True)
class Sizes:
    """Widths of a model that pruning changes."""

    hidden: int
    """Width of the residual stream."""
    heads: int
    """Heads of queries."""
    shared: int
    """Heads of keys and values."""
    inner: int
    """Width of the feed-forward layer, or of an expert."""
    head_width: int
    """Width of a head, which stays."""

    @property
    def group(self) -> int:
        """Query heads to a head of keys and values."""
        return self.heads // self.shared


def sizes_of(architecture: PreTrainedConfig) -> Sizes:
    """Read the sizes of an architecture.

    Raises:
        UserError: it does not name them as a Llama does.
    """
    text = architecture.get_text_config()
    values = text.to_dict()
    inner = inner_name(values)
    if missing := [name for name in (*NAMES, inner) if not values.get(name)]:
        raise UserError(
            f"{KEY}: expected a teacher built like a Llama, Qwen or Mixtral, got {architecture.model_type!r}, whose "
            f"config.json has no {missing[0]}; set {KEY}=layers"
        )
    head_width = values.get("head_dim") or text.hidden_size // text.num_attention_heads
    heads = text.num_attention_heads, text.num_key_value_heads
    return Sizes(text.hidden_size, *heads, values[inner], head_width)


def inner_name(values: dict[str, Any]) -> str:
    """Return transformers' name of the width inside: in a mixture of experts that of each."""
    return "moe_intermediate_size" if values.get("moe_intermediate_size") else "intermediate_size"


def choose_sizes(settings: Prune, teacher: Sizes, is_mixture: bool = False) -> Sizes:
    """Resolve the sizes of a pruned student.

    Args:
        is_mixture: whether the teacher is a mixture of experts.

    Raises:
        UserError: one larger than the teacher's, or heads that do not go together.
    """
    heads, shared = _choose_heads(settings, teacher)
    hidden, inner = settings.hidden_size or teacher.hidden, settings.intermediate_size or teacher.inner
    wanted = {
        "hidden_size": (hidden, teacher.hidden),
        "num_heads": (heads, teacher.heads),
        "num_key_value_heads": (shared, teacher.shared),
        "intermediate_size": (inner, teacher.inner),
    }
    for name, (size, most) in wanted.items():
        if size > most:
            raise UserError(f"{KEY}.{name}: expected at most the teacher's {most}, got {size}; lower it")
        if is_mixture and size % GROUPED and name in ("hidden_size", "intermediate_size"):
            raise UserError(
                f"{KEY}.{name}: expected a multiple of {GROUPED} in a mixture of experts, whose products are grouped, "
                f"got {size}; set {size // GROUPED * GROUPED or GROUPED}"
            )
    return Sizes(hidden, heads, shared, inner, teacher.head_width)


def _choose_heads(settings: Prune, teacher: Sizes) -> tuple[int, int]:
    """Return the heads of queries, and of keys and values: what is not said follows the teacher's proportion."""
    heads, shared, group = settings.num_heads, settings.num_key_value_heads, teacher.group
    if heads is None:
        return (shared or teacher.shared) * group, shared or teacher.shared
    if shared is None:
        if heads % group:
            raise UserError(
                f"{KEY}.num_heads: expected a multiple of {group}, the teacher's query heads to each head of keys and "
                f"values, got {heads}; choose one, or set {KEY}.num_key_value_heads too"
            )
        return heads, heads // group
    if heads % shared or heads // shared > group:
        remedy = shared * min(group, max(1, heads // shared))
        raise UserError(
            f"{KEY}.num_heads: expected a multiple of num_key_value_heads = {shared}, at most {shared * group}, as the "
            f"teacher has {group} to each, got {heads}; set {KEY}.num_heads={remedy}"
        )
    return heads, shared


def pruned_architecture(settings: Prune, teacher: PreTrainedConfig) -> PreTrainedConfig:
    """Describe a pruned student to transformers; its vocabulary is the teacher's.

    Raises:
        UserError: see `sizes_of`, `choose_sizes`, `with_layers` and `check_parts`.
    """
    there = sizes_of(teacher)
    sizes = choose_sizes(settings, there, num_experts(teacher) > 0)
    with torch.device("meta"):
        check_parts(AutoModelForCausalLM.from_config(teacher))
    architecture = with_layers(teacher, settings.num_layers or teacher.get_text_config().num_hidden_layers)
    text = architecture.get_text_config()
    text.hidden_size, text.head_dim = sizes.hidden, sizes.head_width
    text.num_attention_heads, text.num_key_value_heads = sizes.heads, sizes.shared
    setattr(text, inner_name(text.to_dict()), sizes.inner)
    if sizes.hidden != there.hidden:  # the mean of fewer squares
        text.rms_norm_eps *= there.hidden / sizes.hidden
    return architecture


def check_parts(model: PreTrainedModel) -> None:
    """Refuse an architecture with parameters that pruning does not know.

    Raises:
        UserError: a layer with other ones.
    """
    head_width = sizes_of(model.config).head_width
    for layer in decoder_layers(model):
        attention = {name.rpartition(".")[0]: value.shape for name, value in find_attention(layer).named_parameters()}
        norms = [shape for name, shape in attention.items() if name in ("q_norm", "k_norm")]
        known = set(attention) <= {"q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm"}
        mlp = dict(layer.named_children()).get("mlp")
        inner = {name for name, _ in mlp.named_parameters()} if mlp is not None else set()
        known &= all(shape == (head_width,) for shape in norms) and inner in (
            {"gate_proj.weight", "up_proj.weight", "down_proj.weight"},
            {"gate.weight", "experts.gate_up_proj", "experts.down_proj"},
        )
        if not known:
            raise UserError(
                f"{KEY}: expected a teacher built like a Llama, Qwen3 or Qwen3-MoE, got {type(model).__name__} with "
                f"other parts in {type(layer).__name__}; set {KEY}=layers"
            )
