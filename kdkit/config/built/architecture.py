"""What the layers of a built student or teacher are made of, and what of it does not go together."""

from typing import Literal

from kdkit.config.types import Count, Positive, Section
from kdkit.errors import UserError


class ArchitectureConfig(Section):
    """What the layers of a built model are made of; positions are rotary (RoPE), norms RMSNorm, nothing has a bias."""

    num_key_value_heads: Count | None = None
    """Heads of keys and values, each for `num_heads / num_key_value_heads` heads of queries; null: `num_heads`."""
    hidden_act: Literal["silu", "relu2"] = "silu"
    """Activation in the gate of the feed-forward layer, `down(act(gate(x)) * up(x))`: `silu` is SwiGLU, `relu2` the
    square of ReLU."""
    qk_norm: bool = False
    """Normalise queries and keys of every head (RMSNorm) before they meet."""
    sliding_window: Count | None = None
    """Tokens that a sliding layer sees, the present one included; null: all before it."""
    sliding_layers: Literal["all", "alternate"] | list[int] = "all"
    """Which layers slide: `all`; `alternate`: every second one, the last sees all; or a list, counted from 0."""
    tie_embeddings: bool = False
    """Use one table as input embeddings and head."""
    rope_theta: Positive = 10_000.0
    """Base of the rotary positions' wavelengths; larger for longer texts."""


def require_divides(path: str, hidden_size: int, num_heads: int) -> None:
    """Refuse heads that do not fill the width, or that rotary positions cannot halve."""
    if hidden_size % num_heads or (hidden_size // num_heads) % 2:
        raise UserError(
            f"{path}.num_heads: expected hidden_size / num_heads to be an even whole number, got "
            f"{hidden_size} / {num_heads}; choose another number of heads"
        )


def check_architecture(path: str, build: ArchitectureConfig, num_heads: int, num_layers: int) -> None:
    """Refuse heads and layers that do not go together; the width is checked by `require_divides`.

    Args:
        path: of the section, for messages.

    Raises:
        UserError: naming the setting.
    """
    shared = build.num_key_value_heads
    if shared is not None and num_heads % shared:
        choices = ", ".join(str(count) for count in range(1, num_heads + 1) if num_heads % count == 0)
        raise UserError(
            f"{path}.num_key_value_heads: expected a divisor of num_heads = {num_heads}, got {shared}; "
            f"choose one of {choices}"
        )
    if build.sliding_window is None:
        if build.sliding_layers != "all":
            raise UserError(
                f"{path}.sliding_layers: expected it beside a window, got {build.sliding_layers!r} and no "
                f"sliding_window; set {path}.sliding_window, or leave sliding_layers out"
            )
        return
    layers = sliding_layers(build, num_layers)
    if not layers and build.sliding_layers == "alternate":
        raise UserError(
            f"{path}.sliding_layers: expected at least two layers for 'alternate', whose last one sees all, got "
            f"num_layers = {num_layers}; set {path}.sliding_layers=all"
        )
    if not layers or layers[0] < 0 or layers[-1] >= num_layers or len(set(layers)) < len(layers):
        raise UserError(
            f"{path}.sliding_layers: expected distinct layers from 0 to {num_layers - 1}, at least one, got "
            f"{build.sliding_layers!r}; correct the list, or leave out {path}.sliding_window"
        )


def sliding_layers(build: ArchitectureConfig, num_layers: int) -> list[int]:
    """Return the layers with a window, counted from 0, in their order."""
    if build.sliding_window is None:
        return []
    if build.sliding_layers == "all":
        return list(range(num_layers))
    if build.sliding_layers == "alternate":
        return [layer for layer in range(num_layers) if (num_layers - 1 - layer) % 2]
    return sorted(build.sliding_layers)


def check_window(path: str, window: int | None, max_length: int, length_key: str) -> None:
    """Refuse a window that hides nothing of any sequence.

    Args:
        path: of the section, for messages.
        max_length: tokens of the longest sequence.
        length_key: the setting that says so.

    Raises:
        UserError: naming both.
    """
    if window is not None and window > max_length:
        raise UserError(
            f"{path}.sliding_window: expected at most {max_length} tokens, the length of a sequence ({length_key}), "
            f"got {window}; set {path}.sliding_window={max(1, max_length // 4)}, or leave it out"
        )
