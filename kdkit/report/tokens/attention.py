"""Pictures of a small model from within: what each layer can see, where each head looks, what surprises it (08)."""

from pathlib import Path

import numpy as np
from IPython.display import HTML
from matplotlib.figure import Figure

from kdkit.report.figures import save
from kdkit.report.tokens.figures import drawable
from kdkit.report.tokens.words import SHOWN, read_piece, write_piece
from kdkit.report.writing import plain_html
from kdkit.runs.folder import Run

MAX_PANELS = 4
"""Heads and layers whose attention is drawn; of more, some from first to last."""
MAX_MASKS = 8
MOST_BITS = 12.0
"""Bits of a token from which on it is in full colour."""


def draw_masks(run: Run) -> Path:
    """Draw which tokens of a window each layer lets a token see: all before it, or those of a sliding window (08)."""
    seen = _read(run, "seen")
    layers = _some(len(seen), MAX_MASKS)
    columns = min(len(layers), 4)
    rows = -(-len(layers) // columns)
    figure = Figure(figsize=(0.6 + 2.3 * columns, 0.3 + 2.5 * rows), layout="constrained")
    for number, layer in enumerate(layers, start=1):
        axes = figure.add_subplot(rows, columns, number)
        axes.imshow(seen[layer], cmap="Greens", vmin=0, vmax=1.4, interpolation="nearest")
        reach, length = reach_of(seen[layer]), len(seen[layer])
        name = "all before it" if reach is None else f"the last {reach}"
        axes.set_title(f"layer {layer}: {name}", fontsize=9)
        axes.set(xlabel="token that is seen", xticks=(0, length - 1), yticks=(0, length - 1))
    figure.axes[0].set_ylabel("token that looks")
    return save(figure, run, "masks.png")


def draw_attention(run: Run) -> Path:
    """Draw where each head of each layer looks in a text, a row for the token that looks (08)."""
    maps = _read(run, "maps")
    tokens = [bytes.fromhex(token) for token in run.read_json("inside.json")["text_tokens"]]
    names = ["start", *(drawable(write_piece(token)) for token in tokens[1:])]
    names = [name if len(name) <= 9 else f"{name[:8]}\u2026" for name in names]
    layers, heads = _some(maps.shape[0], MAX_PANELS), _some(maps.shape[1], MAX_PANELS)
    side = 2.6 if len(heads) > 2 else 4.0
    size = min(7.0, 0.75 * 72 * side / len(names))  # of letters, in points, beside rows of this height
    figure = Figure(figsize=(side * len(heads), (side + 0.25) * len(layers)), layout="constrained")
    panels = figure.subplots(len(layers), len(heads), squeeze=False)
    for row, layer in enumerate(layers):
        for column, head in enumerate(heads):
            axes, values = panels[row, column], maps[layer, head]
            # the root: small weights are seen beside large ones
            axes.imshow(np.sqrt(values), cmap="YlGnBu", vmin=0, vmax=1, interpolation="nearest")
            axes.set_title(f"layer {layer}, head {head}: {distance_of(values):.1f} back", fontsize=8)
            axes.set_yticks(range(len(names)), names if column == 0 else (), fontsize=size)
            axes.set_xticks(range(len(names)), names if row == len(layers) - 1 else (), fontsize=size, rotation=90)
            axes.tick_params(length=0)
    return save(figure, run, "attention.png")


def show_surprise(run: Run) -> HTML:
    """Show a window of held-out text, each token the redder the more bits it costs the model (08)."""
    facts = run.read_json("inside.json")
    spans = []
    for token, bits in zip(facts["window_tokens"], facts["bits"], strict=True):
        text = plain_html(read_piece(bytes.fromhex(token)) or "\u25a0").replace("\n", f"{SHOWN[chr(10)]}\n")
        colour = f"rgba(220,38,38,{min(bits / MOST_BITS, 1.0) * 0.75:.2f})"
        spans.append(f"<span style='background:{colour}' title='{bits:.1f} bits'>{text}</span>")
    num_bytes = sum(len(token) // 2 for token in facts["window_tokens"])
    mean = f"{sum(facts['bits']) / max(num_bytes, 1):.2f} bits per byte in this window"
    style = "max-width:820px;white-space:pre-wrap;word-break:break-word;line-height:1.7;background:white;color:#111"
    legend = f"{mean}; a token from white (0 bits) to red ({MOST_BITS:.0f})"
    return HTML(f"<p>{legend}</p><pre style='{style}'>{''.join(spans)}</pre>")


def reach_of(seen: np.ndarray) -> int | None:
    """Return how many tokens, itself included, a token of a layer sees at most; None: all before it.

    Args:
        seen: bool, `[S, S]`: row, the token that looks; column, the one that is seen.
    """
    most = int(seen.sum(axis=1).max())
    return None if most == len(seen) else most


def distance_of(values: np.ndarray) -> float:
    """Return how many tokens back a head looks on average, `[S, S]` of rows that sum to 1."""
    places = np.arange(len(values))
    return float((values * (places[:, None] - places)).sum() / len(values))


def _some(count: int, most: int) -> list[int]:
    """Return all numbers below a count, or so many of them from first to last."""
    if count <= most:
        return list(range(count))
    return [round(place * (count - 1) / (most - 1)) for place in range(most)]


def _read(run: Run, name: str) -> np.ndarray:
    """Read an array of `inside.npz`; a missing file is answered as `inside.json` is."""
    run.read_json("inside.json")
    with np.load(run.path / "inside.npz") as arrays:
        return arrays[name]
