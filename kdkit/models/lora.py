"""Low-rank adapters (LoRA) inside a causal LM, by peft: added, merged, and kept beside the merged model.

Source: Hu et al. 2021, arXiv:2106.09685.
"""

import copy
import re
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from kdkit.config.built.lora import LoraSettings
from kdkit.errors import UserError
from kdkit.models.taps import decoder_layers

KEY = "student.lora"
MARK = "lora_"
"""In the names of an adapter's parameters."""
FROZEN = rf"^(?!.*\b{MARK})"
"""Pattern of the parameters that are no adapter's."""


def find_targets(model: PreTrainedModel, settings: LoraSettings) -> list[str]:
    """Return the names of the modules that get an adapter.

    Raises:
        UserError: a pattern that matches no linear layer inside, or cannot be read; there is none.
    """
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    inside = {id(module) for layer in decoder_layers(model) for module in layer.modules()}
    linear = [name for name in linear if id(model.get_submodule(name)) in inside]
    if not linear:
        raise UserError(
            f"{KEY}: expected a model with linear layers (torch.nn.Linear), got {type(model).__name__} without; leave "
            f"{KEY} out"
        )
    if settings.target_modules == "auto":
        return linear
    try:
        found = [name for name in linear if re.fullmatch(settings.target_modules, name)]
    except re.error as error:
        raise UserError(
            f"{KEY}.target_modules: expected a regular expression, got {settings.target_modules!r} ({error}); correct "
            "it, or set auto"
        ) from None
    if not found:
        shown = ", ".join(linear[:4])
        raise UserError(
            f"{KEY}.target_modules: expected a pattern that matches the whole name of a linear layer ({shown}, ...), "
            f"got {settings.target_modules!r}; set auto, or e.g. '.*q_proj|.*v_proj'"
        )
    return found


def check_targets(architecture: PreTrainedConfig, settings: LoraSettings) -> None:
    """Refuse adapters that cannot be made, by the architecture alone.

    Raises:
        UserError: see `find_targets`; peft is not installed.
    """
    _require_peft()
    with torch.device("meta"):
        find_targets(AutoModelForCausalLM.from_config(architecture), settings)


def count_adapters(architecture: PreTrainedConfig, settings: LoraSettings) -> int:
    """Return the parameters of a model's adapters, by its architecture alone.

    Raises:
        UserError: see `find_targets`.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(architecture)
    linear = [model.get_submodule(name) for name in find_targets(model, settings)]
    return sum(settings.rank * (module.in_features + module.out_features) for module in linear)


def add_adapters(model: PreTrainedModel, settings: LoraSettings) -> None:
    """Put adapters into a model, in place, that change nothing yet: the second factor of each is zero.

    Raises:
        UserError: see `check_targets`.
    """
    _require_peft()
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=find_targets(model, settings),
        task_type="CAUSAL_LM",
        base_model_name_or_path=model.config._name_or_path,
    )
    inject_adapter_in_model(config, model)


def has_adapters(model: torch.nn.Module) -> bool:
    """Return whether there are adapters in a model."""
    return any(MARK in name for name, _ in model.named_parameters())


def merged(model: PreTrainedModel) -> PreTrainedModel:
    """Return a copy of a model in which the adapters are added to the weights: an ordinary model."""
    from peft.tuners.lora import LoraLayer

    whole = copy.deepcopy(model)
    for name, module in list(whole.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()
            owner, _, child = name.rpartition(".")
            setattr(whole.get_submodule(owner), child, module.get_base_layer())
    return whole


def save_adapters(model: PreTrainedModel, folder: Path) -> None:
    """Write a model's adapters as peft does: `PeftModel.from_pretrained(base, folder)` reads them.

    Args:
        folder: empty.
    """
    from peft import LoraConfig
    from peft.tuners.lora import LoraLayer

    layers = {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    first = next(iter(layers.values()))
    config = LoraConfig(
        r=first.r["default"],
        lora_alpha=first.lora_alpha["default"],
        target_modules=list(layers),
        task_type="CAUSAL_LM",
        base_model_name_or_path=model.config._name_or_path,
        inference_mode=True,
    )
    config.save_pretrained(folder)
    weights = {
        f"base_model.model.{name.replace('.default', '')}": value.detach().cpu().contiguous()
        for name, value in model.named_parameters()
        if MARK in name
    }
    save_file(weights, folder / "adapter_model.safetensors", {"format": "pt"})


def _require_peft() -> None:
    try:
        import peft  # noqa: F401
    except ImportError:
        raise UserError(f"{KEY}: expected the package peft, got none; pip install 'kdkit[lora]'") from None
