"""A teacher without the layers that matter least on text."""

from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from kdkit.config.built.from_teacher import DropLayers
from kdkit.errors import UserError
from kdkit.models.from_teacher.importance import layer_influences
from kdkit.models.from_teacher.text import TextBatch
from kdkit.models.taps import decoder_layers


def choose_num_layers(settings: DropLayers, teacher: PreTrainedConfig) -> int:
    """Return how many layers are kept."""
    return settings.num_layers or -(-teacher.get_text_config().num_hidden_layers // 2)


def with_layers(teacher: PreTrainedConfig, kept: int | list[int]) -> PreTrainedConfig:
    """Describe a model with fewer layers.

    Args:
        kept: how many, or which.

    Raises:
        UserError: more than there are.
    """
    there = teacher.get_text_config().num_hidden_layers
    numbers = list(range(there))[:kept] if isinstance(kept, int) else kept
    if isinstance(kept, int) and kept > there:
        raise UserError(
            f"student.from_teacher.num_layers: expected at most the teacher's {there} layers, got {kept}; lower it"
        )
    architecture = type(teacher).from_dict(teacher.to_dict())
    text = architecture.get_text_config()
    text.num_hidden_layers = len(numbers)
    if types := text.to_dict().get("layer_types"):
        text.layer_types = [types[number] for number in numbers]
    return architecture


def drop_layers(
    teacher: PreTrainedModel, num_kept: int, text: list[TextBatch]
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Return a model of the layers that change their input most, in their order, and which they are.

    Raises:
        UserError: see `with_layers` and `decoder_layers`.
    """
    with_layers(teacher.config, num_kept)
    kept, facts = choose_layers(layer_influences(teacher, text), num_kept)
    return copy_layers(teacher, kept), {"layers": kept} | facts


def choose_layers(influences: list[float], num_kept: int) -> tuple[list[int], dict[str, Any]]:
    """Choose the layers with the largest influence, in their order; also return the influences as facts."""
    kept = sorted(sorted(range(len(influences)), key=lambda layer: -influences[layer])[:num_kept])
    return kept, {"influences": [round(value, 5) for value in influences]}


def copy_layers(teacher: PreTrainedModel, kept: list[int]) -> PreTrainedModel:
    """Copy a model with some of its layers alone, in fp32.

    Raises:
        UserError: see `decoder_layers`.
    """
    student = empty_model(with_layers(teacher.config, kept))
    layers = decoder_layers(teacher)
    ours = decoder_layers(student)
    path = next(name for name, module in teacher.named_modules() if module is layers)
    state = {name: value for name, value in teacher.state_dict().items() if not name.startswith(f"{path}.")}
    student.load_state_dict(state, strict=False)
    for layer, number in zip(ours, kept, strict=True):
        layer.load_state_dict(layers[number].state_dict())
    return student.to(teacher.device).eval()


def empty_model(architecture: PreTrainedConfig) -> PreTrainedModel:
    """Return a causal LM in fp32 whose weights will be written over."""
    with torch.random.fork_rng(devices=[]):
        return AutoModelForCausalLM.from_config(architecture, dtype=torch.float32)
