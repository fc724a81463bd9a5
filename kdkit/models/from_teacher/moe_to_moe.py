"""A smaller mixture made of a mixture of experts: fewer experts a layer, the others dropped or merged into those.

Dropping: REAP (Lasby et al. 2025, arXiv:2510.13999). Merging: after REAM (Jha et al. 2026, arXiv:2604.04356), in one
pass: layers are not measured again after those below them have changed.
"""

import copy

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from kdkit.models.from_teacher.expert_scores import ExpertUse, choose_experts
from kdkit.models.from_teacher.hidden_units import Expert, average
from kdkit.models.from_teacher.moe_to_dense import check_kept, experts_of
from kdkit.models.moe_blocks import find_blocks

COUNTS = ("num_experts", "num_local_experts", "n_routed_experts")
"""Names that configurations have for the number of experts."""


def keep_experts(
    model: PreTrainedModel, uses: list[ExpertUse], num_kept: int, score: str, others: str, key: str
) -> PreTrainedModel:
    """Make a mixture of the same architecture with fewer experts; a token is sent to as many, if there are so many.

    Args:
        model: the mixture.
        uses: what its experts do, from `measure_experts`.
        num_kept: experts that are kept of each layer.
        score: by which they are chosen, see `choose_experts`; `saliency` is REAP.
        others: what becomes of the others: `drop`; or `merge`, each into the kept one most like it, see `find_groups`,
            by a mean weighed by saliency, hidden units matched as in `average`. Their router rows go either way.
        key: the setting that says how many, for messages.

    Raises:
        UserError: more experts than there are.
    """
    blocks = find_blocks(model, key)
    check_kept(num_kept, len(uses[0].load), key)
    config = copy.deepcopy(model.config)
    for name in COUNTS:
        if name in config.to_dict():
            setattr(config, name, num_kept)
    config.num_experts_per_tok = min(config.num_experts_per_tok, num_kept)
    small = AutoModelForCausalLM.from_config(config, dtype=model.dtype).to(model.device)
    names = {module: name for name, module in model.named_modules()}
    weights = model.state_dict()
    for block, use in zip(blocks, uses, strict=True):
        kept = choose_experts(use, num_kept, score)
        groups = find_groups(use, kept) if others == "merge" else [[expert] for expert in kept]
        weights[f"{names[block.gate]}.weight"] = block.gate.weight.detach()[kept]
        gate_up, down = zip(*(_merge(experts_of(block), use, group) for group in groups), strict=True)
        weights[f"{names[block.experts]}.gate_up_proj"] = torch.stack(gate_up)
        weights[f"{names[block.experts]}.down_proj"] = torch.stack(down)
    small.load_state_dict(weights)
    small.generation_config = model.generation_config
    return small.eval()


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
