"""A smaller mixture made of a mixture of experts: fewer experts a layer, the others dropped or merged into those.

Dropping: REAP (Lasby et al. 2025, arXiv:2510.13999). Merging: after REAM (Jha et al. 2026, arXiv:2604.04356), in one
pass: layers are not measured again after those below them have changed.
"""

from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from kdkit.config.built.from_teacher import MoeToMoe
from kdkit.models.from_teacher.layers import empty_model
from kdkit.models.from_teacher.mixtures.hidden_units import Expert, average
from kdkit.models.from_teacher.mixtures.scores import ExpertUse, choose_experts, measure_experts
from kdkit.models.from_teacher.mixtures.shapes import check_kept, check_mixture, experts_of, skeleton
from kdkit.models.from_teacher.text import TextBatch
from kdkit.models.loading import num_experts
from kdkit.models.moe_blocks import find_blocks

COUNTS = ("num_experts", "num_local_experts", "n_routed_experts")
"""Names that configurations have for the number of experts."""


def smaller_architecture(settings: MoeToMoe, teacher: PreTrainedConfig) -> PreTrainedConfig:
    """Describe a mixture with fewer experts; a token is sent to as many as before, if there are so many.

    Raises:
        UserError: a dense teacher, a mixture of another construction, more experts than it has.
    """
    check_mixture(teacher, settings.kind)
    find_blocks(skeleton(teacher), "teacher.path")
    num_kept = settings.num_experts or -(-num_experts(teacher) // 2)
    check_kept(num_kept, teacher)
    architecture = type(teacher).from_dict(teacher.to_dict())
    for name in COUNTS:
        if name in teacher.to_dict():
            setattr(architecture, name, num_kept)
    architecture.num_experts_per_tok = min(teacher.num_experts_per_tok, num_kept)
    return architecture


def keep_experts(
    settings: MoeToMoe, teacher: PreTrainedModel, text: list[TextBatch]
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Return a mixture with fewer experts, fp32, and which were kept.

    The others are dropped, or each is merged into the kept one most like it (see `find_groups`): their mean by
    saliency, hidden units matched first (see `average`). Their rows of the router go either way.

    Raises:
        UserError: see `smaller_architecture` and `measure_experts`.
    """
    small = empty_model(smaller_architecture(settings, teacher.config)).to(teacher.device).eval()
    names = {module: name for name, module in teacher.named_modules()}
    weights, uses = teacher.state_dict(), measure_experts(teacher, text)
    facts: dict[str, Any] = {"experts": [], "groups": []}
    for block, use in zip(find_blocks(teacher, "teacher.path"), uses, strict=True):
        kept = choose_experts(use, num_experts(small.config), settings.score)
        groups = find_groups(use, kept) if settings.others == "merge" else [[expert] for expert in kept]
        gate_up, down = zip(*(_merge(experts_of(block), use, group) for group in groups), strict=True)
        weights[f"{names[block.experts]}.gate_up_proj"] = torch.stack(gate_up)
        weights[f"{names[block.experts]}.down_proj"] = torch.stack(down)
        weights[f"{names[block.gate]}.weight"] = block.gate.weight.detach()[kept]
        facts["experts"].append(kept)
        facts["groups"].append(groups)
    small.load_state_dict(weights)
    small.generation_config = teacher.generation_config
    return small, facts


def find_groups(use: ExpertUse, kept: list[int]) -> list[list[int]]:
    """Put every expert that is not kept to the kept one most like it: of each kept one its group, itself first.

    Alike are experts with similar outputs on all tokens and similar gate logits: the mean of both cosines.
    """
    likeness = (_cosines(use.gram) + _cosines(use.gates)) / 2
    groups = [[expert] for expert in kept]
    for expert in range(len(likeness)):
        if expert not in kept:
            groups[int(likeness[expert, kept].argmax())].append(expert)
    return groups


def _cosines(gram: torch.Tensor) -> torch.Tensor:
    roots = gram.diagonal().clamp(min=1e-12).sqrt()
    return gram / roots[:, None] / roots


def _merge(experts: list[Expert], use: ExpertUse, group: list[int]) -> Expert:
    """Return the mean of a group; an expert that stands alone is kept to the bit."""
    return experts[group[0]] if len(group) == 1 else average([experts[e] for e in group], use.saliency[group])
