"""Pictures of a tokenizer, from the files of notebook 08: its merges on a text, and how short it makes texts."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font

from kdkit.report.figures import save, tidy
from kdkit.report.tables import Table
from kdkit.report.tokens.words import COLOURS, write_piece
from kdkit.runs.folder import Run

LINES = ("#0f766e", "#c2410c", "#1d4ed8", "#7c3aed", "#a16207", "#be185d", "#334155")
"""Colours of kinds of text."""
MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")
"""Of other tokenizers."""
MOST_LETTERS = 72
"""Of a text whose merges are drawn; more would be too small to read."""


def draw_merges(run: Run) -> Path | None:
    """Draw a text cut into tokens after more and more merges, a row for each number of them (08).

    None for a tokenizer without merges.
    """
    steps = run.read_json("merges.json")["steps"]
    if not steps:
        return None
    figure = Figure(figsize=(9.6, 0.7 + 0.42 * len(steps)), layout="constrained")
    axes = figure.subplots()
    for row, step in enumerate(steps):
        _draw_row(axes, row, [bytes.fromhex(token) for token in step["tokens"]])
    axes.set_yticks(range(len(steps)), [f"{step['merges']:,} merges" for step in steps], fontsize=8)
    axes.set(xlim=(0, _end_of([bytes.fromhex(token) for token in steps[0]["tokens"]])), xticks=())
    axes.set_ylim(len(steps) - 0.5, -0.5)
    counts = axes.twinx()
    counts.set_ylim(len(steps) - 0.5, -0.5)
    counts.set_yticks(range(len(steps)), [f"{len(step['tokens'])} tokens" for step in steps], fontsize=8)
    for side in (axes, counts):
        side.spines[:].set_visible(False)
        side.tick_params(length=0)
    return save(figure, run, "merges.png")


def merges_table(run: Run) -> Table | None:
    """List the first merges and the last ones (08); None for a tokenizer without merges."""
    merges = run.read_json("merges.json")["merges"]
    if not merges:
        return None
    rows = [
        [f"{merge['number']:,}", *(write_piece(bytes.fromhex(merge[name])) for name in ("left", "right", "piece"))]
        for merge in merges
    ]
    return ["merge", "left", "right", "becomes"], rows


def draw_compression(run: Run) -> Path:
    """Draw bytes per token over the size of the vocabulary, a line for each kind of text, other tokenizers as marks."""
    measured = run.read_json("compression.json")
    figure = Figure(figsize=(9.2, 3.9), layout="constrained")
    axes = figure.subplots()
    names = list(next(iter(measured.values()))["others"])
    for colour, (kind, facts) in zip(LINES, measured.items(), strict=False):
        axes.plot(*zip(*facts["own"], strict=True), color=colour, marker=".", label=kind)
        for mark, name in zip(MARKS, names, strict=False):
            size, level = facts["others"][name]
            axes.scatter([size], [level], color=colour, marker=mark, s=34, zorder=3, edgecolors="white", linewidths=0.6)
    for mark, name in zip(MARKS, names, strict=False):
        axes.scatter([], [], color="#6b7280", marker=mark, s=34, label=name)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set(xlabel="entries of the vocabulary", ylabel="bytes per token (higher: shorter sequences)")
    tidy(axes, "lines: trained on the run's training text; marks: other tokenizers")
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return save(figure, run, "compression.png")


def compression_table(run: Run) -> Table:
    """Put bytes per token of all vocabularies and tokenizers side by side, a column for each kind of text (08)."""
    measured = run.read_json("compression.json")
    first: dict[str, Any] = next(iter(measured.values()))
    rows = [
        [f"own, {size:,} entries", *(f"{facts['own'][number][1]:.3f}" for facts in measured.values())]
        for number, (size, _) in enumerate(first["own"])
    ]
    rows += [
        [f"{name}, {size:,} entries", *(f"{facts['others'][name][1]:.3f}" for facts in measured.values())]
        for name, (size, _) in first["others"].items()
    ]
    return ["bytes per token", *measured], rows


def drawable(text: str) -> str:
    """Write characters that the font of pictures does not have as their number."""
    font = get_font(findfont("sans"))
    return "".join(c if font.get_char_index(ord(c)) else f"<{ord(c):x}>" for c in text)


def _draw_row(axes: Axes, row: int, tokens: list[bytes]) -> None:
    """Draw tokens as boxes beside each other; a letter is one wide, as in the rows above and below."""
    start = 0
    for number, token in enumerate(tokens):
        end = start + _width(token)
        if start >= MOST_LETTERS:
            break
        axes.barh(row, end - start - 0.12, left=start + 0.06, height=0.78, color=COLOURS[number % len(COLOURS)])
        label = token.hex() if len(token) == 1 and token[0] > 127 else drawable(write_piece(token))
        size = 8 if len(label) <= end - start else 8 * max(0.45, (end - start) / len(label))
        axes.text((start + end) / 2, row, label, ha="center", va="center", fontsize=size, family="monospace")
        start = end


def _width(token: bytes) -> int:
    """Return how many places a token takes: its bytes, so that no merge moves what follows."""
    return len(token)


def _end_of(tokens: list[bytes]) -> int:
    return min(sum(map(_width, tokens)), MOST_LETTERS)
