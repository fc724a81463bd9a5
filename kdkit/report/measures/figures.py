"""Pictures of how sure models are and where in a text they are good, from `evaluation.json`. Never imports torch."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdkit.report.figures import save, tidy
from kdkit.report.measures.tables import PLACES
from kdkit.runs.curves import COLOURS, LABELS
from kdkit.runs.folder import Run

SHOWN = ("teacher", "student", "baseline")
"""Models of the pictures; baselines of equal time are in the tables."""


def draw_calibration(run: Run) -> Path | None:
    """Show how often each model is right over how sure it is (04); None for a run of an older build."""
    calibration = run.read_json("evaluation.json").get("calibration")
    if calibration is None:
        return None
    names = [name for name in SHOWN if name in calibration]
    figure = Figure(figsize=(9.2, 3.2), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), sharey=True, squeeze=False)[0], names, strict=True):
        bins = calibration[name]["bins"]
        x, y = [each["confidence"] for each in bins], [each["accuracy"] for each in bins]
        axes.plot([0, 1], [0, 1], color="#94a3b8", linestyle="--", linewidth=1)
        axes.errorbar(x, y, _reach(bins), fmt="o-", markersize=3.5, linewidth=1.2, capsize=2, color=COLOURS[name])
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="probability of the first choice")
        tidy(axes, f"{LABELS[name]}: error {calibration[name]['ece']:.1%}")
    figure.axes[0].set(ylabel="share that is right")
    return save(figure, run, "calibration.png")


def _reach(bins: list[dict[str, Any]]) -> list[list[float]]:
    """Return how far the interval of each bin's accuracy reaches down and up."""
    edges = [(each["accuracy"], *each["accuracy_interval_95"]) for each in bins]
    return [[max(value - low, 0.0) for value, low, _ in edges], [max(high - value, 0.0) for value, _, high in edges]]


def draw_places(run: Run) -> Path | None:
    """Show bits per byte by frequency and position, with intervals (04); None for a run of an older build."""
    places = run.read_json("evaluation.json").get("places")
    if not places:
        return None
    figure = Figure(figsize=(9.2, 3.4), layout="constrained")
    for axes, (kind, rows) in zip(figure.subplots(1, len(places), squeeze=False)[0], places.items(), strict=True):
        _draw_kind(axes, rows)
        tidy(axes, PLACES[kind])
        axes.title.set_fontsize(9)
    figure.axes[0].set(ylabel="bits per byte")
    figure.axes[0].legend(frameon=False, fontsize=8)
    return save(figure, run, "places.png")


def _draw_kind(axes: Axes, rows: list[dict[str, Any]]) -> None:
    """Draw one kind of places: a line per model, over the bins."""
    x = list(range(len(rows)))
    for name in (each for each in SHOWN if each in rows[0]["models"]):
        found = [row["models"][name] for row in rows]
        axes.plot(
            x,
            [each["bits_per_byte"] for each in found],
            marker="o",
            markersize=3.5,
            color=COLOURS[name],
            label=LABELS[name],
        )
        low, high = zip(*(each["interval_95"] for each in found), strict=True)
        axes.fill_between(x, low, high, color=COLOURS[name], alpha=0.15, linewidth=0)
    axes.set_xticks(x, [row["bin"].replace(" to ", "-") for row in rows], rotation=35, ha="right", fontsize=7)
