"""Taps on a causal LM: hidden states and attention maps of chosen layers, caught while the model runs.

Layers are counted from 0; the hidden state of a layer is its output. A tapped model computes what it computed before.
"""

import copy
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import torch
from transformers import PreTrainedModel

from kdkit.errors import UserError
from kdkit.losses.layers import average_heads
from kdkit.machine.hardware import choose_attention

Arguments = tuple[Any, ...]


def decoder_layers(model: PreTrainedModel) -> torch.nn.ModuleList:
    """Return the layers of a causal LM, or of an encoder, first to last.

    Raises:
        UserError: the model keeps them in another way than as one list.
    """
    num_layers = model.config.get_text_config().num_hidden_layers
    # outermost first: the experts of a layer may be as many
    for module in model.base_model.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == num_layers:
            return module
    raise UserError(
        f"{type(model).__name__}: expected a list of {num_layers} decoder layers, got none; "
        "for this architecture leave student.layers out, and set distill.weights to logits only"
    )


def find_attention(layer: torch.nn.Module) -> torch.nn.Module:
    """Return the attention module of a decoder layer.

    Raises:
        UserError: the layer has none, or several.
    """
    found = [module for module in layer.modules() if type(module).__name__.endswith("Attention")]
    if len(found) != 1:
        raise UserError(
            f"{type(layer).__name__}: expected one attention module in a layer, got {len(found)}; "
            "leave the layer out of distill.layer_map, or set distill.weights.attention=0"
        )
    return found[0]


class Taps:
    """Hooks on chosen layers of a model, in place while this is open (`with`).

    Only the layers whose maps are wanted run transformers' eager attention, which is the one that computes them.
    """

    def __init__(
        self, model: PreTrainedModel, states: Iterable[int] = (), maps: Iterable[int] = (), *, mean_heads: bool = False
    ):
        """Choose what to catch; nothing is hooked before this is opened.

        Args:
            model: the bare model, not the wrapper that trains it.
            states: layers whose hidden states are wanted.
            maps: layers whose attention maps are wanted.
            mean_heads: keep the average of a layer's maps over its heads, in fp32, `[B, 1, S, S]`, and let the maps go.

        Raises:
            UserError: see `decoder_layers` and `find_attention`.
        """
        layers = decoder_layers(model)
        self.name = type(model).__name__
        self.layers = {number: layers[number] for number in states}
        self.attentions = {number: find_attention(layers[number]) for number in maps}
        self._states: dict[int, torch.Tensor] = {}
        self._maps: dict[int, torch.Tensor] = {}
        self._is_listening, self._mean_heads = False, mean_heads
        self._closing = ExitStack()

    def __enter__(self) -> "Taps":
        self._states, self._maps, self._is_listening = {}, {}, True
        for number, layer in self.layers.items():
            self._closing.callback(layer.register_forward_hook(self._catch_states(number)).remove)
        for number, attention in self.attentions.items():
            self._closing.callback(setattr, attention, "config", attention.config)
            attention.config = copy.copy(attention.config)
            attention.config._attn_implementation = choose_attention(maps_in_loss=True)[0]
            handles = (
                attention.register_forward_pre_hook(_supply_mask, with_kwargs=True),
                attention.register_forward_hook(self._catch_maps(number)),
            )
            for handle in handles:
                self._closing.callback(handle.remove)
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def take(self) -> tuple[dict[int, torch.Tensor], dict[int, torch.Tensor]]:
        """Return what the last forward pass has left, and drop it.

        Until this is opened again nothing more is caught: gradient checkpointing runs layers a second time.

        Returns:
            Hidden states, `[B, S, H]`, and attention maps, `[B, num_heads, S, S]` (query, key), by layer.
        """
        states, maps = self._states, self._maps
        self._states, self._maps, self._is_listening = {}, {}, False
        return states, maps

    def _catch_states(self, number: int) -> Any:
        def hook(_: torch.nn.Module, __: Arguments, output: torch.Tensor | Arguments) -> None:
            """Keep the layer's output while this is listening."""
            if self._is_listening:
                self._states[number] = output[0] if isinstance(output, tuple) else output

        return hook

    def _catch_maps(self, number: int) -> Any:
        def hook(_: torch.nn.Module, __: Arguments, output: Arguments) -> None:
            """Keep the maps that eager attention returns beside its output, and refuse a layer that returns none."""
            maps = output[1] if isinstance(output, tuple) and len(output) > 1 else None
            if not isinstance(maps, torch.Tensor) or not maps.numel():
                raise UserError(
                    f"distill.weights.attention: expected attention maps from layer {number} of {self.name}, got none; "
                    "this architecture's eager attention returns no maps, so set distill.weights.attention=0"
                )
            if self._is_listening:
                self._maps[number] = average_heads(maps) if self._mean_heads else maps

        return hook


def _supply_mask(attention: torch.nn.Module, args: Arguments, kwargs: dict[str, Any]) -> tuple[Arguments, dict]:
    """Give an eager layer the mask that another backend can do without: it would see the future."""
    hidden = args[0] if args else kwargs["hidden_states"]
    mask = kwargs.get("attention_mask")
    if mask is None:
        # of all modules only some have a window
        mask = _causal_mask(hidden, vars(attention).get("sliding_window"))
    if not isinstance(mask, torch.Tensor) or mask.dim() != 4:
        raise UserError(
            f"distill.weights.attention: expected an attention mask of four dimensions, got {type(mask).__name__}; "
            "load the model with attn_implementation sdpa or eager, or set distill.weights.attention=0"
        )
    if mask.dtype == torch.bool:
        smallest = torch.finfo(hidden.dtype).min
        mask = torch.zeros_like(mask, dtype=hidden.dtype).masked_fill_(~mask, smallest)
    return args, kwargs | {"attention_mask": mask}


def _causal_mask(hidden: torch.Tensor, window: int | None) -> torch.Tensor:
    """Return which keys each query may see, bool, `[1, 1, S, S]`: itself and those before it, inside the window."""
    positions = torch.arange(hidden.shape[1], device=hidden.device)
    distance = positions[:, None] - positions
    seen = distance >= 0
    if window is not None:
        seen &= distance < window
    return seen[None, None]
