"""What mixtures of experts are made of, by their architecture alone."""

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from kdkit.errors import UserError
from kdkit.models.from_teacher.mixtures.hidden_units import Expert
from kdkit.models.loading import num_experts
from kdkit.models.moe_blocks import MoeBlock

KEY = "student.from_teacher"


def skeleton(teacher: PreTrainedConfig) -> PreTrainedModel:
    """Return a model without weights."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(teacher)


def check_mixture(teacher: PreTrainedConfig, kind: str) -> None:
    """Refuse to make of a dense model what is made of experts.

    Raises:
        UserError: naming both.
    """
    if not num_experts(teacher):
        raise UserError(
            f"{KEY}.kind: {kind} needs a mixture of experts, got the dense {teacher.model_type!r}; set {KEY}=layers or "
            f"{KEY}=prune, or name another teacher"
        )


def check_kept(num_kept: int, teacher: PreTrainedConfig) -> None:
    """Refuse to keep more experts than there are.

    Raises:
        UserError: naming both.
    """
    there = num_experts(teacher)
    if num_kept > there:
        raise UserError(f"{KEY}.num_experts: expected at most the teacher's {there} experts, got {num_kept}; lower it")


def experts_of(block: MoeBlock) -> list[Expert]:
    """Return the weights of a layer's experts, without their graph, fp32."""
    experts = block.experts
    return list(zip(experts.gate_up_proj.detach().float(), experts.down_proj.detach().float(), strict=True))
