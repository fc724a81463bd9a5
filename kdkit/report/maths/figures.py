"""The picture of solved problems: accuracy by level or domain, and what samples add for their compute."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdkit.report.figures import save, tidy
from kdkit.report.maths.tables import WAYS, title_of
from kdkit.runs.curves import COLOURS, LABELS
from kdkit.runs.folder import Run

STYLES = {"vote": ":", "steps": "-.", "verified": "-", "verifier": "--"}
"""Lines of the ways to choose among samples."""


def draw_solving(run: Run) -> Path | None:
    """Draw a row of panels for every set of problems (04); None where no problems were solved."""
    maths = run.read_json("evaluation.json").get("maths")
    if not maths:
        return None
    sets = maths["sets"]
    figure = Figure(figsize=(9.2, 0.3 + 3.1 * len(sets)), layout="constrained")
    panels = figure.subplots(len(sets), 2, squeeze=False, width_ratios=(1.25, 1))
    for row, (name, found) in zip(panels, sets.items(), strict=True):
        _draw_groups(row[0], found, title_of(name))
        _draw_selection(row[1], found)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    return save(figure, run, "solving.png")


def _draw_groups(axes: Axes, found: dict[str, Any], title: str) -> None:
    """Draw accuracy on all problems and by group, a bar for every model."""
    models = found["models"]
    groups: dict[str, list[dict[str, Any]]] = {"all": list(models.values())}
    for field in ("domain", "level"):
        names = next(iter(models.values()))[f"by_{field}"]
        if len(names) > 1:
            groups |= {
                name.replace("_", " ") if field == "domain" else f"level {name}": [
                    model[f"by_{field}"][name] for model in models.values()
                ]
                for name in names
            }
    width = 0.8 / len(models)
    for number, name in enumerate(models):
        shares = [group[number] for group in groups.values()]
        places = np.arange(len(groups)) + (number - (len(models) - 1) / 2) * width
        heights = np.array([each["accuracy"] for each in shares])
        edges = np.array([each["interval_95"] for each in shares])
        reach = np.abs(np.stack([heights - edges[:, 0], edges[:, 1] - heights]))
        axes.bar(places, heights, width, color=COLOURS[name], label=LABELS[name], alpha=0.85)
        axes.errorbar(places, heights, reach, fmt="none", ecolor="#111827", elinewidth=0.8, capsize=1.5)
    slant = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"}  # names of six domains do not fit side by side
    axes.set_xticks(range(len(groups)), groups, fontsize=7.5, **slant)
    axes.set(ylim=(0, 1), ylabel="share of right answers")
    axes.set_axisbelow(True)
    tidy(axes, title)
    axes.grid(visible=False, axis="x")


def _draw_selection(axes: Axes, found: dict[str, Any]) -> None:
    """Draw accuracy over compute: single answers as points, samples of the student as lines."""
    selection = found.get("selection")
    if selection is None:
        axes.set_axis_off()
        return
    base = selection["single"]["student"]["compute"]
    for name, single in selection["single"].items():
        if single["compute"]:
            axes.plot(single["compute"] / base, single["accuracy"], "o", color=COLOURS[name], markersize=7)
    for way, style in STYLES.items():
        points = [row for row in selection["ways"] if row["way"] == way]
        if points:
            x, y = [row["times_greedy"] for row in points], [row["accuracy"] for row in points]
            axes.plot(x, y, style, marker=".", color=COLOURS["student"], label=WAYS[way])
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set(xlabel="compute, times the student's greedy answer", ylim=(0, 1))
    axes.legend(frameon=False, fontsize=7.5, loc="best")
    tidy(axes, "points: one answer; lines: samples")
