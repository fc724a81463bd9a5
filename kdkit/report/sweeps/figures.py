"""The pictures of a sweep's report."""

import statistics
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from kdkit.report.figures import tidy
from kdkit.report.sweeps.words import entry_of
from kdkit.runs.disk import whole_file

SEED_COLOURS = ("#0f766e", "#c2410c", "#4f46e5", "#d97706", "#be185d", "#0369a1", "#65a30d", "#7c3aed")
GREY, LINE = "#9ca3af", "#6b7280"
CROWDED = 16
"""Variants from which on they stand closer to each other."""
MOST_IN_A_ROW = 3
"""Pictures of settings beside each other."""


def draw_variants(sweep: dict[str, Any], path: Path) -> Path:
    """Draw one dot per seed: levels on the left, differences from the reference on the right.

    The right side is what the test sees: a seed changes text, teacher and student alike, so levels of
    different seeds lie further apart than variants do.
    """
    variants = sweep["variants"]
    figure = Figure(figsize=(11, 1.9 + (0.5 if len(variants) < CROWDED else 0.3) * len(variants)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    reference = entry_of(sweep, sweep["reference"])
    if reference["mean"] is not None:
        left.axvline(reference["mean"], color=LINE, linestyle="--", label="mean of the reference")
    right.axvline(0, color=LINE, linestyle="--")
    for row, entry in enumerate(variants):
        difference = entry["difference"]
        _draw_dots(left, entry["levels"], row)
        if difference is not None:
            if difference["interval_95"]:
                right.plot(difference["interval_95"], [row, row], color=GREY, linewidth=5, alpha=0.5, zorder=1)
            _draw_dots(right, difference["per_seed"], row)
    for i, seed in enumerate(sweep["seeds"]):
        left.plot([], [], "o", color=_colour(i), label=f"seed {seed}")
    left.plot([], [], "|", color="black", markersize=12, markeredgewidth=2, label="mean")
    if any(entry["difference"] and entry["difference"]["interval_95"] for entry in variants):
        right.plot([], [], color=GREY, linewidth=5, alpha=0.5, label="95 % interval over seeds")
    left.set(yticks=range(len(variants)), yticklabels=[entry["name"] for entry in variants])
    measure = sweep["measure"]
    direction = "higher" if measure["is_score"] else "lower"
    left.set(xlabel=f"{measure['name']}, {measure['of']} ({direction} is better)", ylim=(len(variants) - 0.5, -0.5))
    right.set(xlabel=f"{measure['name']} better than the reference, same seed")
    for axes in (left, right):
        axes.locator_params(axis="x", nbins=6)  # more labels of four digits would touch
        tidy(axes, grid="x")
    figure.legend(loc="outside upper center", ncols=6, frameon=False, fontsize=9)
    return _save(figure, path)


def draw_effects(sweep: dict[str, Any], path: Path) -> Path:
    """Draw for every setting of a grid how much better each of its values is than the reference's, with intervals."""
    effects = sweep["effects"]
    across = min(len(effects), MOST_IN_A_ROW)
    down = -(-len(effects) // across)
    figure = Figure(figsize=(11, 3.4 * down), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False, sharey=True).flat
    for axes, effect in zip(grid, effects, strict=False):
        _draw_effect(axes, effect)
    for axes in list(grid)[len(effects) :]:
        axes.set_visible(False)
    others = ", others averaged" if len(effects) > 1 else ""
    figure.supylabel(f"{sweep['measure']['name']} better than the\nreference's value{others}", fontsize=9)
    return _save(figure, path)


def _draw_effect(axes: Axes, effect: dict[str, Any]) -> None:
    """Draw one setting: its values side by side, a dot for the mean, the interval over seeds as a bar."""
    axes.axhline(0, color=LINE, linestyle="--", linewidth=1)
    for place, value in enumerate(effect["values"]):
        is_home = place == effect["reference"]
        if value["interval_95"] and not is_home:
            axes.plot([place, place], value["interval_95"], color=GREY, linewidth=6, alpha=0.5, zorder=1)
        if value["mean"] is not None:
            face = "white" if is_home else SEED_COLOURS[0]
            axes.plot(place, value["mean"], "o", color=SEED_COLOURS[0], markerfacecolor=face, markersize=7, zorder=3)
    means = [(place, value["mean"]) for place, value in enumerate(effect["values"]) if value["mean"] is not None]
    axes.plot(*zip(*means, strict=True), color=SEED_COLOURS[0], linewidth=1, zorder=2) if means else None
    axes.set(xticks=range(len(effect["names"])), xticklabels=effect["names"], xlim=(-0.5, len(effect["names"]) - 0.5))
    tidy(axes, effect["key"])


def draw_heat_map(sweep: dict[str, Any], path: Path) -> Path | None:
    """Draw the mean level of every pair of values of a grid of two settings; None for another number of settings."""
    if len(sweep["grid"]) != 2:
        return None
    rows, columns = sweep["grid"]
    levels = [
        [_level_at(sweep, {rows["key"]: row, columns["key"]: column}) for column in columns["values"]]
        for row in rows["values"]
    ]
    known = [level for line in levels for level in line if level is not None]
    if not known:
        return None
    best = (max if sweep["measure"]["is_score"] else min)(known)
    figure = Figure(
        figsize=(2.6 + 1.05 * len(columns["values"]), 1.5 + 0.55 * len(rows["values"])), layout="constrained"
    )
    axes = figure.subplots()
    colours = "YlGnBu" if sweep["measure"]["is_score"] else "YlGnBu_r"  # dark is good
    shown = [[float("nan") if level is None else level for level in line] for line in levels]
    image = axes.imshow(shown, cmap=colours, aspect="auto")
    middle = (min(known) + max(known)) / 2
    for y, line in enumerate(levels):
        for x, level in enumerate(line):
            if level is not None:
                is_dark = (level > middle) == sweep["measure"]["is_score"] and level != middle
                weight = "bold" if level == best else "normal"
                text = f"{level:.{sweep['measure']['digits']}f}"
                axes.text(x, y, text, ha="center", va="center", color="white" if is_dark else "black", weight=weight)
    axes.set(xticks=range(len(columns["names"])), xticklabels=columns["names"], xlabel=columns["key"])
    axes.set(yticks=range(len(rows["names"])), yticklabels=rows["names"], ylabel=rows["key"])
    direction = "higher" if sweep["measure"]["is_score"] else "lower"
    axes.set_title(f"mean {sweep['measure']['name']} over seeds ({direction} is better)", fontsize=10)
    figure.colorbar(image, ax=axes)
    return _save(figure, path)


def _level_at(sweep: dict[str, Any], settings: dict[str, Any]) -> float | None:
    return next(entry["mean"] for entry in sweep["variants"] if entry["settings"] == settings)


def draw_pareto(sweep: dict[str, Any], path: Path) -> Path | None:
    """Draw the levels of all variants against what they cost: seconds of training, and parameters where those differ.

    A line joins the variants that none beats in both. None where fewer than two have finished.
    """
    finished = [entry for entry in sweep["variants"] if entry["mean"] is not None]
    if len(finished) < 2:
        return None
    costs = {"mean_seconds": "seconds of the student's training, mean over seeds"}
    sizes = {entry.get("parameters") for entry in finished}
    if len(sizes) > 1 and None not in sizes:
        costs["parameters"] = "parameters of the student"
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    measure = sweep["measure"]
    panels = figure.subplots(1, len(costs), squeeze=False, sharey=True)[0]
    for axes, (cost, title) in zip(panels, costs.items(), strict=True):
        front = pareto_front([(entry[cost], entry["mean"]) for entry in finished], measure["is_score"])
        for place, entry in enumerate(finished):
            colour = SEED_COLOURS[0] if place in front else GREY
            axes.plot(entry[cost], entry["mean"], "o", color=colour, markersize=7, zorder=3)
            if cost == "mean_seconds" and len(seconds := [s for s in entry.get("seconds", []) if s is not None]) > 1:
                ends = [min(seconds), max(seconds)], [entry["mean"]] * 2
                axes.plot(*ends, color=colour, linewidth=3, alpha=0.25, solid_capstyle="butt", zorder=1)
            if place in front or len(finished) < CROWDED:
                # beyond the line, which falls to the right where lower is better, or before it: neighbours do not meet
                is_beyond = place not in front or front.index(place) % 2 == 0
                is_above = is_beyond != measure["is_score"]
                at = {"xytext": (5 if is_beyond else -5, 5 if is_above else -12), "textcoords": "offset points"}
                at |= {"ha": "left" if is_beyond else "right", "fontsize": 8, "zorder": 4}
                name = axes.annotate(entry["name"], (entry[cost], entry["mean"]), **at)
                name.set_path_effects([withStroke(linewidth=2.5, foreground="white")])
        joined = [(finished[place][cost], finished[place]["mean"]) for place in front]
        axes.plot(*zip(*joined, strict=True), color=SEED_COLOURS[0], linewidth=1, zorder=2)
        axes.margins(x=0.2, y=0.12)
        axes.set_xlabel(title)
        tidy(axes)
    direction = "higher" if measure["is_score"] else "lower"
    panels[0].set_ylabel(f"{measure['name']}, mean over seeds\n({direction} is better)")
    return _save(figure, path)


def pareto_front(points: list[tuple[float, float]], higher_is_better: bool) -> list[int]:
    """Return the places of the points that no other one beats in cost and level both, cheapest first.

    Args:
        points: cost, where lower is better, and level.
    """
    sign = -1 if higher_is_better else 1
    front: list[int] = []
    for place in sorted(range(len(points)), key=lambda i: (points[i][0], sign * points[i][1])):
        if not front or sign * points[place][1] < sign * points[front[-1]][1]:
            front.append(place)
    return front


def _draw_dots(axes: Any, values: list[float | None], row: int) -> None:
    """Draw the seeds of a variant, a little apart so that none hides another, and their mean as a bar."""
    finished = [value for value in values if value is not None]
    for i, value in enumerate(values):
        if value is not None:
            offset = 0.28 * (i - (len(values) - 1) / 2) / max(len(values) - 1, 1)
            axes.plot(value, row + offset, "o", color=_colour(i), markersize=6, zorder=3)
    if finished:
        axes.plot(statistics.mean(finished), row, "|", color="black", markersize=22, markeredgewidth=2, zorder=2)


def _colour(index: int) -> str:
    return SEED_COLOURS[index % len(SEED_COLOURS)]


def _save(figure: Figure, path: Path) -> Path:
    with whole_file(path) as partial:
        figure.savefig(partial, format="png", dpi=130)
    return path
