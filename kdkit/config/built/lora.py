"""Settings of a student that is trained through low-rank adapters (LoRA)."""

from typing import Annotated

from pydantic import Field

from kdkit.config.types import Count, DropShare, Positive, Section


class LoraSettings(Section):
    """Low-rank adapters (LoRA) are trained, the weights below stand still; merged into them at the end."""

    rank: Count = 8
    """Rank of every adapter's update."""
    alpha: Positive = 16.0
    """The update counts `alpha / rank` times."""
    dropout: DropShare = 0.0
    """Share of an adapter's inputs that are dropped in training."""
    target_modules: Annotated[str, Field(min_length=1)] = "auto"
    """Modules that get an adapter: a regular expression that matches their whole name, or `auto`: every linear layer
    but the head; the experts of a mixture, which are none, stay as they are."""
