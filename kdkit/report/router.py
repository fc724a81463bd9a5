"""Picture of how a teacher was routed, from the lines of phase `router` in metrics.jsonl. Never imports torch."""

from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdkit.report.figures import COLOURS, save, tidy
from kdkit.report.tables import Table
from kdkit.runs.folder import Run

MAX_LAYERS = 6
"""Layers whose shares are drawn; of more, some from first to last."""

PANELS: list[tuple[str, dict[str, tuple[str, str]]]] = [
    ("sources per token, temperature", {"top_k": ("top-k", "#1d4ed8"), "temperature": ("temperature", "#b45309")}),
    (
        "capacity (loss) and gap, nats",
        {"student_loss": ("the student's loss", COLOURS["student"]), "gap": ("gap to the teacher", "#c2410c")},
    ),
    (
        "share of the teacher's signal moved",
        {"capacity_moved": ("by capacity", COLOURS["student"]), "gap_moved": ("by the gap", "#c2410c")},
    ),
    ("KL to the initial routing, nats", {"kl_to_initial": ("mean over layers", "#7c3aed")}),
    ("loss of the routed teacher, nats", {"teacher_loss": ("teacher", COLOURS["teacher"])}),
]
"""Titles, and the recorded figures that stand under each: key, label, colour."""


def draw_router(run: Run) -> Path | None:
    """Show how the teacher was routed: shares of the sources per layer over steps, schedule, expectations, drift (03).

    What a kind of routing does not record is left out. None where nothing was routed.
    """
    lines = [m for m in run.read_metrics() if m["phase"] == "router" and "shares" in m]
    if not lines:
        return None
    num_layers = len(lines[0]["shares"])
    count = min(num_layers, MAX_LAYERS)
    layers = [round(place * (num_layers - 1) / max(count - 1, 1)) for place in range(count)]
    panels = [panel for panel in PANELS if any(key in m for m in lines for key in panel[1])]
    rows = -(-(len(layers) + len(panels)) // 3)
    figure = Figure(figsize=(9.6, 2.5 * rows + 0.5), layout="constrained")
    figure.suptitle("how the teacher was routed, over optimizer steps", fontsize=11)
    for place, layer in enumerate(layers):
        axes = figure.add_subplot(rows, 3, place + 1)
        _stack_shares(axes, lines, layer)
        if num_layers > 1:
            axes.set_title(f"{axes.get_title()}, layer {layer} of 0-{num_layers - 1}", fontsize=10)
    for place, (title, keys) in enumerate(panels, start=len(layers)):
        axes = figure.add_subplot(rows, 3, place + 1)
        _plot_panel(axes, lines, title, keys)
    return save(figure, run, "router.png")


def effects_table(run: Run) -> Table | None:
    """Show what each part of a student-aware router does: what changes if it is removed (03); None without such."""
    if not (run.path / "router_effects.json").exists():
        return None
    rows = [
        [
            row["part"],
            f"{row['mixture_kl']:.4f}",
            f"{row['tokens_rerouted']:.1%}",
            f"{row['bits_per_byte']:.3f}",
            f"{row['bits_per_byte_without']:.3f}",
            f"{row['signal_moved']:.1%}",
        ]
        for row in run.read_json("router_effects.json")["parts"]
    ]
    headings = ["part", "KL of the mixture, nats", "tokens to other sources", "teacher's bits per byte"]
    return [*headings, "without the part", "teacher's signal moved"], rows


def _stack_shares(axes: Axes, lines: list[dict[str, Any]], layer: int) -> None:
    """Stack the mean weight of every source in one routed layer; a single line is drawn as a bar would be."""
    steps = [m["step"] for m in lines]
    shares = [list(values) for values in zip(*[m["shares"][layer] for m in lines], strict=True)]
    if len(steps) == 1:
        steps, shares = [steps[0] - 0.5, steps[0] + 0.5], [values * 2 for values in shares]
    colours = source_colours(len(shares))
    axes.stackplot(steps, shares, colors=colours, edgecolor="white", linewidth=0.4)
    start = 0.0
    for source, values in enumerate(shares):
        if values[-1] > 0.05:
            axes.text(steps[-1], start + values[-1] / 2, f" {source}", va="center", fontsize=7, clip_on=False)
        start += values[-1]
    axes.set(xlim=(steps[0], steps[-1]), ylim=(0, 1))
    axes.set_title("share of each source", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)


def _plot_panel(axes: Axes, lines: list[dict[str, Any]], title: str, keys: dict[str, tuple[str, str]]) -> None:
    """Plot some recorded figures over steps; those per layer as one faint line each, and their mean."""
    for key, (label, colour) in keys.items():
        points = [(m["step"], m[key]) for m in lines if key in m]
        if not points:
            continue
        steps, values = zip(*points, strict=True)
        if isinstance(values[0], list):
            for of_layer in zip(*values, strict=True):
                axes.plot(steps, of_layer, color=colour, alpha=0.25, linewidth=0.8)
            values = [sum(of_step) / len(of_step) for of_step in values]
        axes.plot(steps, values, color=colour, label=label, marker="o", markersize=2.5)
    axes.yaxis.set_major_formatter("{x:.4g}")  # a common factor would stand in the title's place
    tidy(axes, title)
    if len(axes.get_legend_handles_labels()[0]) > 1 or "kl_to_initial" in keys:
        axes.legend(frameon=False, fontsize=7)


def source_colours(count: int) -> list[Any]:
    """Give every expert or other source a pale colour of its own; from 20 on they repeat."""
    # lightened, so that black numbers can be read on them
    base = [tuple(0.45 * c + 0.55 for c in colormaps["tab20"](i)[:3]) for i in (*range(0, 20, 2), *range(1, 20, 2))]
    return [base[i % 20] for i in range(count)]
