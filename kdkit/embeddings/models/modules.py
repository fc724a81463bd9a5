"""The modules behind the pooling of a sentence-transformers folder: read, computed, written.

A head is a chain of them, from the pooled vector to the sentence vector. Weights have sentence-transformers' names, so
that what it saved is loaded as it is and what is saved here is loaded by it.
"""

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from kdkit.embeddings.models.pooling import find_file, read_json
from kdkit.errors import UserError
from kdkit.runs.disk import write_text

SENTENCE = "sentence_embedding"
"""What modules work on unless they say otherwise, by sentence-transformers' name."""


class Dense(nn.Module):
    """A linear map and an activation; perhaps what came in is added to what goes out."""

    def __init__(self, linear: nn.Linear, activation: nn.Module | None = None, residual: nn.Module | None = None):
        super().__init__()
        self.linear, self.activation_function = linear, activation or nn.Identity()
        self.residual = residual

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Map `[..., in_features]` to `[..., out_features]`."""
        mapped = self.activation_function(self.linear(vectors))
        return mapped if self.residual is None else mapped + self.residual(vectors)


class Normalize(nn.Module):
    """Brings vectors to length 1."""

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Scale `[..., H]`; zeros stay zeros."""
        return F.normalize(vectors, dim=-1)


class LayerNorm(nn.Module):
    """Layer normalisation with learned scale and shift."""

    def __init__(self, dimension: int):
        super().__init__()
        self.norm = nn.LayerNorm(dimension)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Normalise `[..., H]`."""
        return self.norm(vectors)


def read_head(
    name: str,
    chain: tuple[tuple[str, str], ...],
    width: int,
    key: str,
    revision: str | None,
    signal: str = SENTENCE,
) -> nn.Sequential | None:
    """Load a head, in fp32.

    Args:
        chain: kind and folder of each module, in their order.
        width: of the pooled vectors.
        key: the setting that named the model, for messages.
        signal: what the modules work on, by sentence-transformers' name.

    Raises:
        UserError: an activation that is not torch's, weights that are missing or of other widths.
    """
    parts: list[nn.Module] = []
    for kind, folder in chain:
        part = _read_module(name, kind, folder, key, revision, signal)
        needed = _input_width(part)
        if needed not in (None, width):
            raise UserError(
                f"{key}: expected a head for vectors of width {width}, got one for {needed} in {folder} of {name!r}: "
                "its own pooling is another; leave the pooling to the model (auto), or choose another model"
            )
        parts.append(part)
        width = head_width(part, width)
    return nn.Sequential(*parts).float() if parts else None


def head_width(head: nn.Module | None, width: int) -> int:
    """Return the width of vectors behind a head that are `width` wide before it."""
    linear = [module for module in head.modules() if isinstance(module, nn.Linear)] if head is not None else []
    return linear[-1].out_features if linear else width


def head_modules(head: nn.Module | None) -> list[nn.Module]:
    """Return the modules of a head in their order; a bare linear map, which methods train, is a Dense."""
    parts = [] if head is None else list(head) if isinstance(head, nn.Sequential) else [head]
    return [Dense(part) if isinstance(part, nn.Linear) else part for part in parts]


def save_module(module: nn.Module, folder: Path, signal: str = SENTENCE) -> None:
    """Save a module of a head; its kind is its class's name, and what it works on is written where it is unusual."""
    config: dict[str, Any] = {}
    if isinstance(module, Dense):
        linear, activation = module.linear, type(module.activation_function)
        config = {
            "in_features": linear.in_features,
            "out_features": linear.out_features,
            "bias": linear.bias is not None,
            "activation_function": f"{activation.__module__}.{activation.__qualname__}",
        }
        config |= {"use_residual": True} if module.residual is not None else {}
    elif isinstance(module, LayerNorm):
        config = {"dimension": module.norm.normalized_shape[0]}
    elif isinstance(module, nn.Dropout):
        config = {"dropout": module.p}
    if signal != SENTENCE:
        config |= {"module_input_name": signal, "module_output_name": signal}
    write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")
    weights = {label: values.detach().cpu().contiguous() for label, values in module.state_dict().items()}
    if weights:
        save_file(weights, folder / "model.safetensors")


def _read_module(name: str, kind: str, folder: str, key: str, revision: str | None, signal: str) -> nn.Module:
    """Load one module."""
    config = read_json(name, f"{folder}/config.json", revision) or {}
    for direction in ("module_input_name", "module_output_name"):
        if config.get(direction) not in (None, signal):
            raise UserError(
                f"{key}: expected modules that work on {signal}, got {folder} of {name!r} with {direction} "
                f"{config[direction]!r}; choose another model"
            )
    module = _make_module(name, kind, folder, config, key)
    if module.state_dict():
        weights = find_file(name, f"{folder}/model.safetensors", revision)
        if weights is None:
            raise UserError(f"{key}: expected {folder}/model.safetensors in {name!r}, got none; choose another model")
        try:
            module.load_state_dict(load_file(weights))
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{key}: expected the weights of a {kind} in {weights}, got others ({reason})") from None
    return module


def _make_module(name: str, kind: str, folder: str, config: dict[str, Any], key: str) -> nn.Module:
    """Make a module without its weights."""
    if kind == "Normalize":
        return Normalize()
    if kind == "Dropout":
        return nn.Dropout(config.get("dropout", 0.2))
    if kind == "LayerNorm":
        return LayerNorm(config["dimension"])
    activation = str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    made = getattr(nn, activation.rpartition(".")[2], None) if activation.startswith("torch.nn.") else None
    if not (isinstance(made, type) and issubclass(made, nn.Module)):
        raise UserError(
            f"{key}: expected an activation of torch.nn in {folder} of {name!r}, got {activation!r}; choose another "
            "model"
        )
    widths = config["in_features"], config["out_features"]
    residual = None
    if config.get("use_residual"):
        residual = nn.Identity() if widths[0] == widths[1] else nn.Linear(*widths, bias=False)
    return Dense(nn.Linear(*widths, bias=config.get("bias", True)), made(), residual)


def _input_width(module: nn.Module) -> int | None:
    """Return the width that a module takes; None: any."""
    if isinstance(module, Dense):
        return module.linear.in_features
    return module.norm.normalized_shape[0] if isinstance(module, LayerNorm) else None
