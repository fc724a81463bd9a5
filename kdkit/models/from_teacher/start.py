"""A student of every kind of `student.from_teacher`: its architecture by the teacher's alone, and its weights."""

from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from kdkit.config.built.from_teacher import AnyStart, DropLayers, MoeToDense, MoeToMoe, Prune
from kdkit.models.from_teacher.layers import choose_num_layers, drop_layers, with_layers
from kdkit.models.from_teacher.mixtures.to_dense import dense_architecture, join_experts
from kdkit.models.from_teacher.mixtures.to_smaller import keep_experts, smaller_architecture
from kdkit.models.from_teacher.sizes import pruned_architecture
from kdkit.models.from_teacher.text import TextBatch
from kdkit.models.from_teacher.widths import prune
from kdkit.models.shared_core.start import share_core, shared_architecture


@dataclass(frozen=True)
class Start:
    """A student made from a teacher."""

    model: PreTrainedModel
    """fp32, on the teacher's device; the teacher is as it was."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What was kept and why, as JSON: it stands in the run."""


def start_architecture(settings: AnyStart, teacher: PreTrainedConfig) -> PreTrainedConfig:
    """Describe a student by its teacher's architecture; its vocabulary is still the teacher's.

    Raises:
        UserError: sizes that this teacher has not, or that do not go together.
    """
    if isinstance(settings, DropLayers):
        return with_layers(teacher, choose_num_layers(settings, teacher))
    if isinstance(settings, Prune):
        return pruned_architecture(settings, teacher)
    if isinstance(settings, MoeToDense):
        return dense_architecture(settings, teacher)
    if isinstance(settings, MoeToMoe):
        return smaller_architecture(settings, teacher)
    return shared_architecture(settings, teacher)


def make_start(settings: AnyStart, teacher: PreTrainedModel, text: list[TextBatch]) -> Start:
    """Make a student of a teacher's parts; its vocabulary is still the teacher's.

    Args:
        text: on which is measured what matters.

    Raises:
        UserError: see `start_architecture`; an architecture whose parts cannot be found.
    """
    if isinstance(settings, DropLayers):
        return Start(*drop_layers(teacher, choose_num_layers(settings, teacher.config), text))
    if isinstance(settings, Prune):
        return Start(*prune(settings, teacher, text))
    if isinstance(settings, MoeToDense):
        return Start(*join_experts(settings, teacher, text))
    if isinstance(settings, MoeToMoe):
        return Start(*keep_experts(settings, teacher, text))
    return Start(*share_core(settings, teacher))
