"""Experts of a mixture as products that ONNX has, and that INT8 is made of: all of them, for every token."""

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

ALL = "all"
"""Under this name transformers finds `all_experts`."""


def use_all_experts(model: PreTrainedModel) -> None:
    """Let a mixture compute all its experts from here on, and weigh those that were not chosen by zero.

    transformers' own ways do not become a good graph: `grouped_mm` has no counterpart in ONNX, a loop over experts
    cannot be traced, and `batched_mm` copies the weights of its experts for every token of a prompt.
    """
    ALL_EXPERTS_FUNCTIONS.register(ALL, all_experts)
    model.set_experts_implementation(ALL)


def all_experts(experts: nn.Module, hidden: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Compute a layer's experts, as transformers asks for it.

    Args:
        experts: E of them, with the attributes that transformers gives every layer of experts.
        hidden: `[T, H]`.
        chosen: experts of every token, int64, `[T, K]`.
        weights: of these, `[T, K]`.

    Returns:
        Their weighted sum, `[T, H]`.
    """
    first = "gate_up_proj" if experts.has_gate else "up_proj"
    inner = _product(experts, first, hidden)
    inner = experts._apply_gate(inner) if experts.has_gate else experts.act_fn(inner)
    outer = _product(experts, "down_proj", inner)
    if experts.has_post_expert_norm:
        outer = experts.post_expert_norm(outer)
    # len(hidden) would be traced as a number
    shares = weights.new_zeros(hidden.shape[0], len(outer)).scatter(1, chosen, weights)
    return (outer * shares.T[..., None]).sum(dim=0).to(hidden.dtype)


def _product(experts: nn.Module, name: str, states: torch.Tensor) -> torch.Tensor:
    """Multiply by a weight of all experts: `[T, in]` or `[E, T, in]` to `[E, T, out]`."""
    weight = getattr(experts, name)
    product = states @ (weight if experts.is_transposed else weight.transpose(1, 2))
    return product + getattr(experts, f"{name}_bias")[:, None] if experts.has_bias else product
