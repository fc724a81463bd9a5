"""The pictures of a search's report."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from kdkit.report.figures import tidy
from kdkit.runs.disk import whole_file

TRAINED, GIVEN_UP, BEST = "#0f766e", "#9ca3af", "#c2410c"
MOST_IN_A_ROW = 3
"""Settings beside each other."""
NARROW = 100.0
"""Ratio of the ends of an axis below which its ticks stand closer than powers of ten."""


def draw_history(search: dict[str, Any], path: Path) -> Path | None:
    """Draw the level of every trial in the order in which they were made, and the best so far; None without any."""
    complete = _complete(search)
    if not complete:
        return None
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    axes, choose = figure.subplots(), max if search["measure"]["is_score"] else min
    best = [choose(trial["level"] for trial in complete[: i + 1]) for i in range(len(complete))]
    axes.step([trial["number"] for trial in complete], best, where="post", color=BEST, label="best so far")
    points = [trial["number"] for trial in complete], [trial["level"] for trial in complete]
    axes.plot(*points, "o", color=TRAINED, markersize=6, label="trained")
    given_up = [trial for trial in search["trials"] if trial["state"] == "pruned" and trial["curve"]]
    if given_up:
        points = [trial["number"] for trial in given_up], [trial["curve"][-1][1] for trial in given_up]
        axes.plot(*points, "x", color=GIVEN_UP, markersize=7, label="given up, its last point")
    axes.set(xlabel="trial", ylabel=_unit(search))
    axes.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(loc="outside upper right", ncols=3, frameon=False, fontsize=9)
    tidy(axes)
    return _save(figure, path)


def draw_settings(search: dict[str, Any], path: Path) -> Path | None:
    """Draw the levels of the trials over the values of every setting; None where none has come to an end."""
    complete = _complete(search)
    if not complete:
        return None
    across = min(len(search["space"]), MOST_IN_A_ROW)
    down = -(-len(search["space"]) // across)
    figure = Figure(figsize=(11, 3.6 * down), layout=ConstrainedLayoutEngine(h_pad=0.1))
    panels = list(figure.subplots(down, across, squeeze=False, sharey=True).flat)
    levels, best = [trial["level"] for trial in complete], _best(search, complete)
    for axes, dimension in zip(panels, search["space"], strict=False):
        values = [trial["params"][dimension["key"]] for trial in complete]
        axes.plot(values, levels, "o", color=TRAINED, markersize=6, alpha=0.8)
        axes.plot(best["params"][dimension["key"]], best["level"], "o", color=BEST, markersize=9, label="best")
        if dimension["is_log"]:
            axes.set_xscale("log")
            axes.xaxis.set_minor_formatter(NullFormatter())
            if max(values) < NARROW * min(values):  # powers of ten alone would be one or two
                axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
                axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        tidy(axes, dimension["key"])
    for axes in panels[len(search["space"]) :]:
        axes.set_visible(False)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", frameon=False, fontsize=9)
    figure.supylabel(_unit(search), fontsize=9)
    return _save(figure, path)


def draw_curves(search: dict[str, Any], path: Path) -> Path | None:
    """Draw the learning curves of all trials, of those without an end in grey; None where there are no points."""
    drawn = [trial for trial in search["trials"] if len(trial["curve"]) > 1]
    if not drawn:
        return None
    figure = Figure(figsize=(11, 4), layout="constrained")
    axes, complete = figure.subplots(), _complete(search)
    best = _best(search, complete) if complete else None
    for trial in drawn:
        colour = BEST if trial is best else GIVEN_UP if trial["state"] != "complete" else TRAINED
        line = {"linewidth": 2.2, "zorder": 3} if trial is best else {"linewidth": 1, "alpha": 0.7}
        axes.plot(*zip(*trial["curve"], strict=True), color=colour, **line)
        if trial["state"] == "pruned":
            axes.plot(*trial["curve"][-1], "x", color=GIVEN_UP, markersize=7)
    gone = [trial for trial in drawn if trial["state"] != "complete"]
    kinds = (BEST, "best", best), (TRAINED, "trained", len(complete) > 1), (GIVEN_UP, "not finished", gone)
    for colour, label in ((colour, label) for colour, label, is_drawn in kinds if is_drawn):
        axes.plot([], [], color=colour, label=label)
    seeds = len(search["seeds"])
    axes.set(xlabel="percent of the training" + ", one seed behind the other" * (seeds > 1), ylabel=_unit(search))
    axes.legend(frameon=False, fontsize=9)
    tidy(axes)
    return _save(figure, path)


def _complete(search: dict[str, Any]) -> list[dict[str, Any]]:
    return sorted((t for t in search["trials"] if t["state"] == "complete"), key=lambda trial: trial["number"])


def _best(search: dict[str, Any], complete: list[dict[str, Any]]) -> dict[str, Any]:
    choose = max if search["measure"]["is_score"] else min
    return choose(complete, key=lambda trial: trial["level"])


def _unit(search: dict[str, Any]) -> str:
    direction = "higher" if search["measure"]["is_score"] else "lower"
    return f"{search['measure']['name']} ({direction} is better)"


def _save(figure: Figure, path: Path) -> Path:
    with whole_file(path) as partial:
        figure.savefig(partial, format="png", dpi=130)
    return path
