"""What lies in memory in one phase of a run, item by item."""

from dataclasses import dataclass, replace

from kdkit.models.built.size import FP32, ModelSize


@dataclass(frozen=True)
class Item:
    """Something in the memory of a device."""

    place: str
    """`cpu`, `cuda:0`, ..."""
    name: str
    bytes: float
    counted: bool = True
    """False: at another moment than the peak, so it is no part of the sum."""


@dataclass(frozen=True)
class Phase:
    """One phase of a run at its fullest moment."""

    name: str
    items: tuple[Item, ...]

    @property
    def places(self) -> list[str]:
        """Devices that are used, the student's first."""
        return list(dict.fromkeys(item.place for item in self.items))

    def total(self, place: str) -> float:
        """Return the bytes of a device."""
        return sum(item.bytes for item in self.items if item.place == place and item.counted)

    @property
    def largest(self) -> float:
        """Bytes of its fullest device."""
        return max(self.total(place) for place in self.places)


def fullest(items: list[Item], *alternatives: list[Item]) -> list[Item]:
    """Add the largest of several groups of items that are never there together; what is in others only is shown."""
    sums = [sum(item.bytes for item in group if item.counted) for group in alternatives]
    largest = alternatives[sums.index(max(sums))]
    others = [replace(item, counted=False) for group in alternatives for item in group if item not in largest]
    return items + [item for item in dict.fromkeys([*largest, *others]) if item.bytes]


def kept_by_layers(place: str, size: ModelSize, layers: int, width: int, tokens: int, checkpointed: bool) -> list[Item]:
    """List what the student's forward pass keeps for the backward pass.

    With checkpointing a layer keeps its input, fp32, and one layer at a time is run again.

    Args:
        tokens: of a micro-batch.
    """
    if not size.layers:  # a table of token vectors
        return [Item(place, "activations", FP32 * 3 * tokens * width)]
    one = max(size.layers)
    if not checkpointed:
        each = sum(size.layers) / layers / 1e6
        name = f"activations: {layers} layers of {each:.1f} MB"
        return [Item(place, name, sum(size.layers)), Item(place, "activations around the layers", size.around)]
    inputs = FP32 * tokens * width
    return [
        Item(place, f"activations: inputs of {layers} layers, {inputs / 1e6:.1f} MB each", layers * inputs),
        Item(place, "activations around the layers", size.around),
        Item(place, "activations of the one layer that is run again, and 16-bit weights", one + size.casts),
    ]


def backward_bytes(tokens: int, width: int, inner: int, per_number: int) -> float:
    """Return what the backward pass of a layer holds beside what the forward pass has kept.

    Of the feed-forward the gradients of its gate, its activation, its partner and their product; of states three.
    """
    return float(tokens * per_number * (3 * width + 4 * inner))


def forward_bytes(tokens: int, width: int, inner: int, per_number: int, slots: int = 1) -> float:
    """Return what a pass without gradients holds at once: states, queries, keys and values, the feed-forward's parts.

    Args:
        tokens: of the batch.
        inner: width of the feed-forward layer, of all experts that a token meets.
        per_number: bytes.
        slots: experts that a token meets.
    """
    return float(tokens * per_number * (8 * width + 3 * inner + 2 * slots * width))
