"""A student whose parts share a core, made of a teacher, and made an ordinary model again.

Its start needs no text and no training: the core is the mean of the parts, or the part nearest to the mean, and each
wrapper the best approximation, of its rank, of what its part has beyond the core (truncated singular values).
"""

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from kdkit.errors import UserError
from kdkit.models.from_teacher.hidden_units import Expert, match_units
from kdkit.models.from_teacher.moe_to_dense import experts_of
from kdkit.models.from_teacher.shared_core_model import (
    EXPERTS,
    LAYERS,
    SHARED,
    SharedCore,
    SharedExperts,
    SharedLinear,
    Wrapper,
    linears,
    shared_parts,
)
from kdkit.models.loading import num_experts
from kdkit.models.moe_blocks import MoeBlock, find_blocks
from kdkit.models.taps import decoder_layers

ROUNDS = 3
"""Times that experts' hidden units are matched with their mean before it is taken for the core."""


def share_core(
    model: PreTrainedModel, rank: int, core: str, layers_per_core: int | None, key: str = "student.from_teacher"
) -> SharedCore:
    """Make a student of which the experts of each layer share a core or, if it is dense, the layers of each group.

    Args:
        model: the teacher, a Llama, Mixtral, Qwen3 or Qwen3-MoE.
        rank: of the wrappers.
        core: `mean` of the parts; `nearest`, the part nearest to it.
        layers_per_core: of a dense model, how many neighbouring layers share a core; None: all.
        key: the section of these settings, for messages.

    Raises:
        UserError: another architecture; groups of one layer, or other than equal ones; a rank at which nothing becomes
            smaller.
    """
    kind = next((kind for kind in SHARED if kind.plain is type(model)), None)
    if kind is None:
        known = ", ".join(kind.plain.__name__ for kind in SHARED)
        raise UserError(f"{key}.kind: shared_core is made of {known}, got {type(model).__name__}; name another teacher")
    settings = {"kind": "shared_core", "wrapper_rank": rank, "core": core}
    if num_experts(model.config):
        blocks = find_blocks(model, "teacher.path")
        experts = blocks[0].experts
        shapes = [tuple(experts.gate_up_proj.shape[1:]), tuple(experts.down_proj.shape[1:])]
        settings |= {"shared_by": EXPERTS}
        members = len(experts.gate_up_proj)
    else:
        groups = _groups(len(decoder_layers(model)), layers_per_core, key)
        shapes = [tuple(linear.weight.shape) for _, linear in linears(decoder_layers(model)[0])]
        settings |= {"shared_by": LAYERS, "groups": groups}
        members = len(groups[0])
    _check_rank(rank, shapes, members, key)
    values = model.config.to_dict() | {"compression_config": settings, "model_type": kind.config_class.model_type}
    student = kind(kind.config_class.from_dict(values)).to(model.dtype).to(model.device)
    common = student.state_dict().keys() & model.state_dict().keys()
    student.load_state_dict({name: model.state_dict()[name] for name in common}, strict=False)
    with torch.no_grad():
        if settings["shared_by"] == EXPERTS:
            for block, shared in zip(blocks, shared_parts(student), strict=True):
                _start_experts(shared[1], block, core)
        else:
            _start_layers(student, model, settings["groups"], core)
    student.generation_config = model.generation_config
    return student.eval()


def _groups(num_layers: int, size: int | None, key: str) -> list[list[int]]:
    """Cut layers into groups of neighbours that share a core."""
    size = num_layers if size is None else size
    if size < 2 or num_layers % size:
        fitting = ", ".join(str(n) for n in range(2, num_layers + 1) if num_layers % n == 0)
        raise UserError(
            f"{key}.layers_per_core: expected a divisor of the teacher's {num_layers} layers above 1 "
            f"({fitting or 'it has none'}), got {size}; set one of these"
        )
    return [list(range(first, first + size)) for first in range(0, num_layers, size)]


def _check_rank(rank: int, shapes: list[tuple[int, int]], members: int, key: str) -> None:
    """Refuse wrappers that hold more numbers than they save."""
    saved = (members - 1) * sum(rows * columns for rows, columns in shapes)
    per_rank = members * sum(rows + columns for rows, columns in shapes)
    largest = min(saved // per_rank, *(min(shape) for shape in shapes))
    if rank > largest:
        raise UserError(
            f"{key}.wrapper_rank: expected at most {largest}, beyond which core and wrappers are larger than the "
            f"{members} parts that they replace, got {rank}; lower it"
        )


def _start_experts(shared: SharedExperts, block: MoeBlock, core: str) -> None:
    """Start the core and the wrappers of a layer's experts from a teacher's."""
    experts = experts_of(block)
    mean = experts[0]
    for _ in range(ROUNDS):
        experts = [match_units(mean, expert) for expert in experts]
        mean = _mean(experts)
    gate_up, down = (torch.stack(parts) for parts in zip(*experts, strict=True))
    if core == "nearest":
        far = (gate_up - mean[0]).square().sum(dim=(1, 2)) + (down - mean[1]).square().sum(dim=(1, 2))
        mean = experts[int(far.argmin())]
    shared.shared_core.gate_up_proj.copy_(mean[0])
    shared.shared_core.down_proj.copy_(mean[1])
    _start_wrapper(shared.gate_up_wrapper, gate_up - mean[0])
    _start_wrapper(shared.down_wrapper, down - mean[1])


def _mean(experts: list[Expert]) -> Expert:
    gate_up, down = (torch.stack(parts).mean(dim=0) for parts in zip(*experts, strict=True))
    return gate_up, down


def _start_layers(student: SharedCore, model: PreTrainedModel, groups: list[list[int]], core: str) -> None:
    """Start the cores and the wrappers of a dense student from its teacher's layers."""
    of_teacher, of_student = decoder_layers(model), decoder_layers(student)
    for group in groups:
        stacks = {
            name: torch.stack([of_teacher[number].get_submodule(name).weight.detach() for number in group])
            for name, _ in linears(of_teacher[group[0]])
        }
        cores = {name: stack.mean(dim=0) for name, stack in stacks.items()}
        if core == "nearest":
            far = sum((stack - cores[name]).square().sum(dim=(1, 2)) for name, stack in stacks.items())
            cores = {name: stack[int(far.argmin())] for name, stack in stacks.items()}
        for place, number in enumerate(group):
            for name, stack in stacks.items():
                shared = of_student[number].get_submodule(name)
                shared.core.copy_(cores[name])
                _start_wrapper(shared.wrapper, stack[place] - cores[name])


def _start_wrapper(wrapper: Wrapper, residual: torch.Tensor) -> None:
    """Set a wrapper to the best approximation of `[..., out, in]` of its rank, both factors alike in size."""
    rank = wrapper.inward.shape[-2]
    left, values, right = torch.linalg.svd(residual.float(), full_matrices=False)
    roots = values[..., :rank].sqrt()
    wrapper.outward.copy_(left[..., :rank] * roots[..., None, :])
    wrapper.inward.copy_(roots[..., None] * right[..., :rank, :])


def expand_core(model: SharedCore) -> PreTrainedModel:
    """Make an ordinary model of transformers, which computes the same, of one whose parts share a core."""
    values = model.config.to_dict()
    del values["compression_config"]
    plain_config = model.plain.config_class
    config = plain_config.from_dict(values | {"model_type": plain_config.model_type})
    plain = AutoModelForCausalLM.from_config(config, dtype=model.dtype).to(model.device)
    names = plain.state_dict().keys()
    weights = {name: value for name, value in model.state_dict().items() if name in names}
    with torch.no_grad():
        for name, part in shared_parts(model):
            if isinstance(part, SharedLinear):
                weights[f"{name}.weight"] = part.core + product(part.wrapper)
            elif isinstance(part, SharedExperts):
                core = part.shared_core
                weights[f"{name}.gate_up_proj"] = core.gate_up_proj + product(part.gate_up_wrapper)
                weights[f"{name}.down_proj"] = core.down_proj + product(part.down_wrapper)
    plain.load_state_dict(weights)
    plain.generation_config = model.generation_config
    return plain.eval()


def product(wrapper: Wrapper) -> torch.Tensor:
    """Return what a wrapper adds to its core, `[..., out, in]`."""
    return wrapper.outward @ wrapper.inward
