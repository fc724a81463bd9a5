"""Weights of a checkpoint, read into the model that is trained on, and refused where they are another model's."""

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from kdkit.errors import UserError
from kdkit.models.loading import no_bar
from kdkit.models.lora import MARK, has_adapters

SHAPES = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "num_key_value_heads": "num_key_value_heads",
    "intermediate_size": "intermediate_size",
    "num_local_experts": "num_experts",
    "moe_intermediate_size": "moe_intermediate_size",
    "hidden_act": "hidden_act",
    "sliding_window": "sliding_window",
    "layer_types": "sliding_layers",
    "tie_word_embeddings": "tie_embeddings",
    "model_type": "qk_norm",
}
"""What makes one model another than the next, by transformers' names, and our names of it."""


def load_tensors(file: Path, device: torch.device) -> Any:
    """Read what `torch.save` wrote of numbers and tensors, onto a device.

    Of several processes on CPUs accelerate numbers the devices (cpu:1), and `torch.load` knows none of that name.
    """
    return torch.load(file, map_location="cpu" if device.type == "cpu" else device, weights_only=True)


def load_checkpoint(model: PreTrainedModel, folder: str | Path) -> None:
    """Read the weights of a checkpoint into a model of the same sizes, as `from_pretrained` reads them.

    A mixture of experts is saved expert by expert, and Trainer leaves the experts as they are (transformers 5.24):
    only `from_pretrained` joins them again. A model with adapters is saved under its own names.

    Raises:
        UserError: the checkpoint is another model's, or its adapters are others.
    """
    check_same_sizes(model.config, Path(folder))
    saved_shapes = _saved_shapes(Path(folder))
    if has_adapters(model) or any(MARK in name for name in saved_shapes):
        _check_adapters(model, saved_shapes, Path(folder))
        for file in sorted(Path(folder).glob("model*.safetensors")):
            model.load_state_dict(load_file(file), strict=False)
        model.tie_weights()
        return
    with no_bar():
        saved = type(model).from_pretrained(folder, dtype=model.dtype, use_safetensors=True, local_files_only=True)
    model.load_state_dict(saved.state_dict())


def _saved_shapes(folder: Path) -> dict[str, list[int]]:
    """Return the shapes of a checkpoint's tensors by their names."""
    shapes = {}
    for file in folder.glob("model*.safetensors"):
        with safe_open(file, "pt") as tensors:
            shapes |= {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118 - no dict
    return shapes


def _check_adapters(model: PreTrainedModel, saved: dict[str, list[int]], folder: Path) -> None:
    """Refuse a checkpoint without a model's adapters, with others, or with adapters for a model that has none.

    Raises:
        UserError: naming the first one that differs.
    """
    wanted = {name: list(value.shape) for name, value in model.state_dict().items() if MARK in name}
    there = {name: shape for name, shape in saved.items() if MARK in name}
    if differing := sorted(name for name in wanted.keys() | there.keys() if wanted.get(name) != there.get(name)):
        name = differing[0]
        raise UserError(
            f"resume: expected a checkpoint with the adapters of student.lora ({name}: {wanted.get(name)}), got "
            f"{there.get(name)} in {'/'.join(folder.parts[-3:])}; start over without --resume (RESUME = False), or set "
            "student.lora again as it was"
        )


def check_same_sizes(wanted: PreTrainedConfig, folder: Path) -> None:
    """Refuse a checkpoint whose config.json describes another model.

    Raises:
        UserError: naming what differs, with both values.
    """
    ours, theirs = _shapes(wanted), _shapes(AutoConfig.from_pretrained(folder, local_files_only=True))
    differing = [name for name in SHAPES if ours.get(name) != theirs.get(name)]
    if not differing:
        return
    needed = ", ".join(f"{SHAPES[name]}={ours.get(name)}" for name in differing)
    got = ", ".join(f"{SHAPES[name]}={theirs.get(name)}" for name in differing)
    raise UserError(
        f"resume: expected a checkpoint of the model that is configured ({needed}), got {got} in "
        f"{'/'.join(folder.parts[-3:])}; start over without --resume (RESUME = False), or set {got} again"
    )


def _shapes(config: PreTrainedConfig) -> dict[str, Any]:
    """Return what `SHAPES` names of a configuration, the same for models whose classes spell it differently."""
    values = config.get_text_config().to_dict()
    values["num_local_experts"] = values.get("num_local_experts") or values.get("num_experts")
    if not values.get("sliding_window") or values.get("use_sliding_window") is False:
        values["sliding_window"] = values["layer_types"] = None
    return values
