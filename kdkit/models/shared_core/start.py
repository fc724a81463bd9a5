"""A student whose parts share a core, made of a teacher.

Its start needs no text and no training: the core is the mean of the parts, or the part nearest to the mean, and each
wrapper the best approximation, of its rank, of what its part has beyond the core (truncated singular values).
"""

from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from kdkit.config.built.from_teacher import ShareCore
from kdkit.errors import UserError
from kdkit.models.from_teacher.layers import empty_model
from kdkit.models.from_teacher.mixtures.hidden_units import Expert, match_units
from kdkit.models.from_teacher.mixtures.shapes import KEY, experts_of, skeleton
from kdkit.models.loading import num_experts
from kdkit.models.moe_blocks import MoeBlock, find_blocks
from kdkit.models.shared_core.model import (
    EXPERTS,
    LAYERS,
    SHARED,
    SharedCore,
    SharedExperts,
    Wrapper,
    linears,
    register_shared_cores,
    shared_parts,
)
from kdkit.models.taps import decoder_layers

ROUNDS = 3
"""Times that experts' hidden units are matched with their mean before it is taken for the core."""


def shared_architecture(settings: ShareCore, teacher: PreTrainedConfig) -> PreTrainedConfig:
    """Describe a model whose parts share a core: the experts of each layer or, if it is dense, groups of layers.

    Raises:
        UserError: another architecture; groups of one layer, or other than equal ones; a rank at which nothing becomes
            smaller.
    """
    kind = next((kind for kind in SHARED if kind.plain.config_class is type(teacher)), None)
    if kind is None:
        known = ", ".join(kind.plain.config_class.model_type for kind in SHARED)
        raise UserError(
            f"{KEY}.kind: shared_core is made of {known}, got {teacher.model_type!r}; set another kind, "
            "or name another teacher"
        )
    compression: dict[str, Any] = {"kind": settings.kind, "wrapper_rank": settings.wrapper_rank, "core": settings.core}
    model = skeleton(teacher)
    if num_experts(teacher):
        experts = find_blocks(model, "teacher.path")[0].experts
        shapes = [tuple(experts.gate_up_proj.shape[1:]), tuple(experts.down_proj.shape[1:])]
        compression["shared_by"], members = EXPERTS, len(experts.gate_up_proj)
    else:
        groups = _groups(teacher.num_hidden_layers, settings.layers_per_core)
        shapes = [tuple(linear.weight.shape) for _, linear in linears(decoder_layers(model)[0])]
        compression |= {"shared_by": LAYERS, "groups": groups}
        members = len(groups[0])
    _check_rank(settings.wrapper_rank, shapes, members)
    register_shared_cores()
    values = teacher.to_dict() | {"compression_config": compression, "model_type": kind.config_class.model_type}
    return kind.config_class.from_dict(values)


def share_core(settings: ShareCore, teacher: PreTrainedModel) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Return a student whose parts share a core, fp32, and how: its `compression_config`.

    Raises:
        UserError: see `shared_architecture`.
    """
    architecture = shared_architecture(settings, teacher.config)
    student = empty_model(architecture).to(teacher.device).eval()
    common = student.state_dict().keys() & teacher.state_dict().keys()
    student.load_state_dict({name: teacher.state_dict()[name] for name in common}, strict=False)
    compression = architecture.compression_config
    with torch.no_grad():
        if compression["shared_by"] == EXPERTS:
            blocks = find_blocks(teacher, "teacher.path")
            for block, (_, shared) in zip(blocks, shared_parts(student), strict=True):
                _start_experts(shared, block, settings.core)
        else:
            _start_layers(student, teacher, compression["groups"], settings.core)
    student.generation_config = teacher.generation_config
    return student, {"compression_config": compression}


def _groups(num_layers: int, size: int | None) -> list[list[int]]:
    """Cut layers into groups of neighbours that share a core."""
    size = num_layers if size is None else size
    if size < 2 or num_layers % size:
        fitting = ", ".join(str(n) for n in range(2, num_layers + 1) if num_layers % n == 0)
        raise UserError(
            f"{KEY}.layers_per_core: expected a divisor of the teacher's {num_layers} layers above 1 "
            f"({fitting or 'it has none'}), got {size}; set one of these"
        )
    return [list(range(first, first + size)) for first in range(0, num_layers, size)]


def _check_rank(rank: int, shapes: list[tuple[int, int]], members: int) -> None:
    """Refuse wrappers that hold more numbers than they save."""
    saved = (members - 1) * sum(rows * columns for rows, columns in shapes)
    per_rank = members * sum(rows + columns for rows, columns in shapes)
    largest = min(saved // per_rank, *(min(shape) for shape in shapes))
    if rank > largest:
        raise UserError(
            f"{KEY}.wrapper_rank: expected at most {largest}, beyond which core and wrappers are larger than the "
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


def _start_layers(student: SharedCore, teacher: PreTrainedModel, groups: list[list[int]], core: str) -> None:
    """Start the cores and the wrappers of a dense student from its teacher's layers."""
    of_teacher, of_student = decoder_layers(teacher), decoder_layers(student)
    for group in groups:
        stacks = {
            name: torch.stack([of_teacher[number].get_submodule(name).weight.detach().float() for number in group])
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
