"""The report of a sweep: `report.html` (self-contained), `report.md` and a picture, from its `sweep.json`.

A difference above 0 means that the variant is better; what levels are, `measure` says.
"""

import json
import statistics
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from kdkit.report.evidence import MIN_STEPS, too_few_steps
from kdkit.report.figures import tidy
from kdkit.report.render import embed_picture, render_files
from kdkit.report.tables import MISSING, Table, write_interval, write_number
from kdkit.report.writing import HIGHER, LOWER, mark_best
from kdkit.runs.disk import whole_file
from kdkit.runs.folder import Run

SEED_COLOURS = ("#0f766e", "#c2410c", "#4f46e5", "#d97706", "#be185d", "#0369a1", "#65a30d", "#7c3aed")


def write_sweep_report(folder: Run) -> Path:
    """Write page, Markdown twin and picture into a sweep's folder.

    Returns:
        The path of `report.html`.
    """
    sweep = folder.read_json("sweep.json")
    picture = draw_variants(sweep, folder.path / "variants.png")
    tables = {
        "verdicts": verdict_table(sweep),
        "levels": level_table(sweep),
        "differences": difference_table(sweep),
        "settings": settings_table(sweep),
    }
    facts = {
        "title": f"Sweep {sweep['name']}",
        "verdict": conclusion(sweep),
        "command": sweep["command"],
        "sweep": sweep,
        "picture": embed_picture(picture),
        "tables": tables,
        "config": {entry["name"]: entry["settings"] for entry in sweep["variants"]},
        "environment": sweep["environment"],
    }
    render_files(folder.path, {"report.md": "sweep.md.j2", "report.html": "sweep.html.j2"}, facts)
    return folder.path / "report.html"


def conclusion(sweep: dict[str, Any]) -> str:
    """State the result of the whole sweep, also when it shows nothing."""
    tested = [e for e in sweep["variants"] if e["difference"] and e["difference"]["p"] is not None]
    if not tested:
        return "Nothing can be concluded yet: a test needs the reference and another variant on at least two seeds."
    groups: dict[str, list[str]] = {"Better": [], "Worse": [], "Not distinguishable": []}
    for entry in tested:
        groups[_side(entry["difference"], sweep["level"])].append(entry["name"])
    best = max(tested, key=lambda entry: entry["difference"]["mean"])
    if reason := too_few_steps(max(entry.get("steps", MIN_STEPS) for entry in tested)):
        return (
            f"Too short to tell which variant is better: {reason}. The best mean difference so far is "
            f"{_signed(sweep, best['difference']['mean'])} ({best['name']})."
        )
    level, unit = _number(sweep, _entry(sweep, sweep["reference"])["mean"]), sweep["measure"]["name"]
    return (
        f"{len(tested)} variants against the reference ({sweep['reference']}, {level} {unit}). "
        + "".join(f"{side}: {'; '.join(names) or 'none'}. " for side, names in groups.items())
        + f"The best mean difference is {_signed(sweep, best['difference']['mean'])} ({best['name']})."
    )


def against_reference(entry: dict[str, Any], sweep: dict[str, Any]) -> str:
    """State how a variant compares with the reference, from the corrected test."""
    difference = entry["difference"]
    if entry["mean"] is None:
        return "Not trained."
    if entry["name"] == sweep["reference"]:
        return "The reference."
    if difference is None:
        return "Shares no finished seed with the reference."
    if difference["p"] is None:
        side = "better" if difference["mean"] > 0 else "worse"
        gap = _number(sweep, abs(difference["mean"]))
        return f"{gap} {side} than the reference on one seed; a test needs at least two."
    low, high = difference["interval_95"]
    count, missing = difference["num_pairs"], len(difference["per_seed"]) - difference["num_pairs"]
    partly = f" Only {count} of {count + missing} seeds are trained." if missing else ""
    if low == high == 0:
        return f"The same figures as the reference on every seed: what it changes had no effect.{partly}"
    mean, low_words, high_words = (_signed(sweep, value) for value in (difference["mean"], low, high))
    interval = f"{mean} {sweep['measure']['name']}, 95 % interval {low_words} to {high_words}"
    if reason := too_few_steps(entry.get("steps")):
        return f"Too short to tell: {reason}; so far {interval}.{partly}"
    side = _side(difference, sweep["level"])
    if side in ("Better", "Worse"):
        seeds = _seeds_of(difference, 1 if side == "Better" else -1)
        return (
            f"{side} than the reference on {seeds}; the difference is larger than seeds explain ({interval}).{partly}"
        )
    is_close = difference["p"] < sweep["level"]
    only = f"; its own p is below {sweep['level']:g}, but not once corrected for the comparisons" * is_close
    return (
        f"Not distinguishable from the reference: better on {_seeds_of(difference, 1)} ({interval}{only}). "
        f"With {count} seeds, a mean difference below {_number(sweep, (high - low) / 2)} stays unseen.{partly}"
    )


def verdict_table(sweep: dict[str, Any]) -> Table:
    """Put a sentence beside every variant."""
    return ["variant", "against the reference"], [[e["name"], against_reference(e, sweep)] for e in sweep["variants"]]


def level_table(sweep: dict[str, Any]) -> Table:
    """List levels by seed, with what a variant costs; teacher and baseline beside the students."""
    measure = sweep["measure"]
    better = HIGHER if measure["is_score"] else LOWER
    headings = [
        f"{measure['name']} {better}",
        *_seed_headings(sweep),
        f"mean {better}",
        "spread",
        f"gap closed {HIGHER}",
    ]
    headings += ["95 % interval over seeds", "seconds"]
    rows = []
    for entry in sweep["variants"]:
        gap = [write_number(entry["mean_gap_closed"], "{:.2f}"), write_interval(entry.get("gap_closed_interval_95"), 2)]
        seconds = write_number(entry["mean_seconds"], "{:.0f}")
        rows.append([entry["name"], *_level_cells(sweep, entry["levels"]), *gap, seconds])
    _mark_means(rows, [entry["mean"] for entry in sweep["variants"]], 1 + len(sweep["seeds"]), better)
    reference = _entry(sweep, sweep["reference"])
    for name in ("baseline", "teacher"):
        rows.append([measure[name], *_level_cells(sweep, reference[name]), MISSING, MISSING, MISSING])
    return headings, rows


def difference_table(sweep: dict[str, Any]) -> Table:
    """List the differences from the reference by seed, and the test of their mean."""
    headings = [f"better than the reference by {HIGHER}", *_seed_headings(sweep), f"mean {HIGHER}"]
    headings += ["95 % interval over seeds"]
    headings += [
        "t",
        "p",
        f"p, corrected for {sweep['num_comparisons']}",
        f"95 % interval over {sweep['measure']['over']}",
    ]
    rows, digits = [], sweep["measure"]["digits"]
    for entry in sweep["variants"]:
        if (difference := entry["difference"]) is None:
            continue
        cells = [_signed(sweep, value) for value in [*difference["per_seed"], difference["mean"]]]
        cells += [write_interval(difference["interval_95"], digits), write_number(difference["t"], "{:.2f}")]
        cells += [_probability(difference["p"]), _probability(difference["p_corrected"])]
        rows.append([entry["name"], *cells, write_interval(difference["interval_95_over_text"], digits)])
    return headings, rows


def settings_table(sweep: dict[str, Any]) -> Table:
    """List what every variant changes, and where its runs lie."""
    rows = []
    for entry in sweep["variants"]:
        changes = ", ".join(f"{key}: {json.dumps(value)}" for key, value in entry["settings"].items())
        rows.append([entry["name"], changes or "nothing", f"{entry['folder']}-seed-N"])
    return ["variant", "changes", "folders"], rows


def draw_variants(sweep: dict[str, Any], path: Path) -> Path:
    """Draw one dot per seed: levels on the left, differences from the reference on the right.

    The right side is what the test sees: a seed changes text, teacher and student alike, so levels of
    different seeds lie further apart than variants do.
    """
    variants = sweep["variants"]
    figure = Figure(figsize=(11, 1.9 + 0.5 * len(variants)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    reference = _entry(sweep, sweep["reference"])
    if reference["mean"] is not None:
        left.axvline(reference["mean"], color="#6b7280", linestyle="--", label="mean of the reference")
    right.axvline(0, color="#6b7280", linestyle="--")
    for row, entry in enumerate(variants):
        difference = entry["difference"]
        _draw_dots(left, entry["levels"], row)
        if difference is not None:
            if difference["interval_95"]:
                right.plot(difference["interval_95"], [row, row], color="#9ca3af", linewidth=5, alpha=0.5, zorder=1)
            _draw_dots(right, difference["per_seed"], row)
    for i, seed in enumerate(sweep["seeds"]):
        left.plot([], [], "o", color=_colour(i), label=f"seed {seed}")
    left.plot([], [], "|", color="black", markersize=12, markeredgewidth=2, label="mean")
    right.plot([], [], color="#9ca3af", linewidth=5, alpha=0.5, label="95 % interval over seeds")
    left.set(yticks=range(len(variants)), yticklabels=[entry["name"] for entry in variants])
    measure = sweep["measure"]
    direction = "higher" if measure["is_score"] else "lower"
    left.set(xlabel=f"{measure['name']}, {measure['of']} ({direction} is better)", ylim=(len(variants) - 0.5, -0.5))
    right.set(xlabel=f"{measure['name']} better than the reference, same seed")
    for axes in (left, right):
        tidy(axes, grid="x")
    figure.legend(loc="outside upper center", ncols=6, frameon=False, fontsize=9)
    with whole_file(path) as partial:
        figure.savefig(partial, format="png", dpi=130)
    return path


def _mark_means(rows: list[list[str]], means: list[float | None], column: int, better: str) -> None:
    """Mark the variant with the best mean."""
    marked = mark_best([row[column] for row in rows], means, better, [True] * len(rows))
    for row, cell in zip(rows, marked, strict=True):
        row[column] = cell


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


def _entry(sweep: dict[str, Any], name: str) -> dict[str, Any]:
    return next(entry for entry in sweep["variants"] if entry["name"] == name)


def _seed_headings(sweep: dict[str, Any]) -> list[str]:
    return [f"seed {seed}" for seed in sweep["seeds"]]


def _side(difference: dict[str, Any], level: float) -> str:
    """State the direction of a tested difference, if it has one once corrected."""
    if difference["p_corrected"] >= level:
        return "Not distinguishable"
    return "Better" if difference["mean"] > 0 else "Worse"


def _seeds_of(difference: dict[str, Any], sign: int) -> str:
    """State on how many of the shared seeds a difference has this sign."""
    count = sum(value * sign > 0 for value in difference["per_seed"] if value is not None)
    total = difference["num_pairs"]
    return "every seed" if count == total else "no seed" if count == 0 else f"{count} of {total} seeds"


def _number(sweep: dict[str, Any], value: float | None) -> str:
    """Write a level."""
    return write_number(value, f"{{:.{sweep['measure']['digits']}f}}")


def _signed(sweep: dict[str, Any], value: float | None) -> str:
    """Write a difference of levels."""
    return write_number(value, f"{{:+.{sweep['measure']['digits']}f}}")


def _level_cells(sweep: dict[str, Any], values: list[float | None]) -> list[str]:
    """Format a level by seed, its mean and its standard deviation."""
    finished = [value for value in values if value is not None]
    mean = statistics.mean(finished) if finished else None
    spread = statistics.stdev(finished) if len(finished) > 1 else None
    return [_number(sweep, value) for value in [*values, mean, spread]]


def _probability(p: float | None) -> str:
    return "<0.001" if p is not None and p < 0.001 else write_number(p, "{:.3f}")
