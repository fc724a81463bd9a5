"""The tables of a sweep's report."""

import json
import statistics
from typing import Any

from kdkit.report.sweeps.words import against_reference, entry_of, write_gain, write_level, write_probability
from kdkit.report.tables import MISSING, Table, write_interval, write_number
from kdkit.report.writing import HIGHER, LOWER, mark_best


def verdict_table(sweep: dict[str, Any]) -> Table:
    """Put a sentence beside every variant."""
    rows = [[entry["name"], against_reference(entry, sweep)] for entry in sweep["variants"]]
    return ["variant", "against the reference, in pairs of one seed"], rows


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
        "seconds",
    ]
    rows = []
    for entry in sweep["variants"]:
        gap, edges = write_number(entry["mean_gap_closed"], "{:.2f}"), entry.get("gap_closed_interval_95")
        gap += "" if edges is None else f" ({edges[0]:.2f} to {edges[1]:.2f})"
        seconds = write_number(entry["mean_seconds"], "{:.1f}")
        rows.append([entry["name"], *_level_cells(sweep, entry["levels"]), gap, seconds])
    _mark_means(rows, [entry["mean"] for entry in sweep["variants"]], 1 + len(sweep["seeds"]), better)
    reference = entry_of(sweep, sweep["reference"])
    for name in ("baseline", "teacher"):
        rows.append([measure[name], *_level_cells(sweep, reference[name]), MISSING, MISSING])
    return headings, rows


def difference_table(sweep: dict[str, Any]) -> Table:
    """List the differences from the reference by seed, and the test of their mean."""
    headings = [f"better than the reference by {HIGHER}", *_seed_headings(sweep), f"mean {HIGHER}"]
    headings += ["95 % interval over seeds"]
    headings += [
        "p",
        _corrected(sweep["num_comparisons"]),
        f"95 % interval over {sweep['measure']['over']}",
    ]
    rows, digits = [], sweep["measure"]["digits"]
    for entry in sweep["variants"]:
        if (difference := entry["difference"]) is None:
            continue
        cells = [write_gain(sweep, value) for value in [*difference["per_seed"], difference["mean"]]]
        cells += [write_interval(difference["interval_95"], digits)]
        cells += [write_probability(difference["p"]), write_probability(difference["p_corrected"])]
        rows.append([entry["name"], *cells, write_interval(difference["interval_95_over_text"], digits)])
    return headings, rows


def _corrected(count: int) -> str:
    """Head a column of p values; of one comparison, or none, there is nothing to correct for."""
    return f"p, corrected for {count}" if count > 1 else "p, corrected"


def effects_table(sweep: dict[str, Any]) -> Table:
    """List what every value of every setting of a grid does on average over the values of the others."""
    measure, digits = sweep["measure"], sweep["measure"]["digits"]
    headings = ["setting", "value", f"mean {measure['name']} {HIGHER if measure['is_score'] else LOWER}"]
    headings += [f"better by {HIGHER}", "95 % interval over seeds", _corrected(sweep["num_effects"])]
    rows = []
    for effect in sweep["effects"]:
        for place, (name, value) in enumerate(zip(effect["names"], effect["values"], strict=True)):
            cells = [effect["key"], name, write_level(sweep, value["level"])]
            if place == effect["reference"]:
                rows.append([*cells, "the reference", MISSING, MISSING])
                continue
            interval = write_interval(value["interval_95"], digits)
            rows.append([*cells, write_gain(sweep, value["mean"]), interval, write_probability(value["p_corrected"])])
    return headings, rows


def settings_table(sweep: dict[str, Any]) -> Table:
    """List what every variant changes, and where its runs lie."""
    rows = []
    for entry in sweep["variants"]:
        changes = ", ".join(f"{key}: {json.dumps(value)}" for key, value in entry["settings"].items())
        rows.append([entry["name"], changes or "nothing", f"{entry['folder']}-seed-N"])
    return ["variant", "changes", "folders"], rows


def _mark_means(rows: list[list[str]], means: list[float | None], column: int, better: str) -> None:
    """Mark the variant with the best mean."""
    marked = mark_best([row[column] for row in rows], means, better, [True] * len(rows))
    for row, cell in zip(rows, marked, strict=True):
        row[column] = cell


def _seed_headings(sweep: dict[str, Any]) -> list[str]:
    return [f"seed {seed}" for seed in sweep["seeds"]]


def _level_cells(sweep: dict[str, Any], values: list[float | None]) -> list[str]:
    """Format a level by seed, its mean and its standard deviation."""
    finished = [value for value in values if value is not None]
    mean = statistics.mean(finished) if finished else None
    spread = statistics.stdev(finished) if len(finished) > 1 else None
    return [write_level(sweep, value) for value in [*values, mean, spread]]
