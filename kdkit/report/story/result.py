"""The result in figures: what a reader sees first, the student beside every baseline, and what each item cost."""

import re
from typing import Any

from kdkit.report.gap import LEVEL, is_level, write_share
from kdkit.report.tables import MISSING, Table, cost_table, write_interval, write_number
from kdkit.report.writing import HIGHER, LOWER
from kdkit.runs.curves import LABELS

Tile = tuple[str, str, str]
"""What is measured, its value, and a line below it."""
STAGES = {
    "01_data": "text, tokenizers",
    "02_teacher_probe": "teacher made and looked into",
    "03_distill": "student and baselines trained",
    "04_evaluate": "all models measured",
}


def headline(evaluation: dict[str, Any]) -> list[Tile]:
    """Return the figures that a reader looks for first."""
    models, differences = evaluation["models"], evaluation["differences"]
    unit = "bits per byte"
    tiles = [
        (f"student, {unit} {LOWER}", f"{models['student']['bits_per_byte']:.3f}", "on held-out text"),
        (f"teacher, {unit} {LOWER}", f"{models['teacher']['bits_per_byte']:.3f}", _star(models["teacher"])),
    ]
    for name, label in {"baseline": "at equal steps", "baseline_equal_time": "at equal time"}.items():
        if found := differences.get(name):
            value = f"{found['bits_per_byte']:+.3f}"
            tiles.append(
                (f"better than without teacher, {label} {HIGHER}", value, write_interval(found["interval_95"], 3))
            )
    if is_level(evaluation):
        edges = evaluation.get("gap", {}).get("interval_95")
        below = "teacher and baseline" + (f", {write_interval(edges, 3)}" if edges else "")
        tiles.append(("gap to the teacher", LEVEL, below))
    elif evaluation["gap_closed"] is not None:
        edges = evaluation.get("gap_closed_interval_95")
        below = "no interval" if edges is None else f"{edges[0]:.2f} to {edges[1]:.2f}"
        tiles.append((f"gap to the teacher closed {HIGHER}", f"{evaluation['gap_closed']:.2f}", below))
    compression = evaluation["compression"]
    if compression["parameters"]:
        tiles.append((f"fewer parameters {HIGHER}", f"{compression['parameters']:.1f}\u00d7", "than the teacher"))
    edges = compression.get("speed_interval_95")
    below = "than the teacher" if edges is None else f"{edges[0]:.1f} to {edges[1]:.1f}"
    tiles.append((f"faster at reading {HIGHER}", f"{compression['speed']:.1f}\u00d7", below))
    return [(re.sub(rf" ([{LOWER}{HIGHER}])$", "\u00a0\\1", name), value, line) for name, value, line in tiles]


def twin_table(evaluation: dict[str, Any]) -> Table:
    """Put the student beside every baseline, with the intervals of what it is better by."""
    rows = []
    for name, found in evaluation["differences"].items():
        entry = evaluation["models"].get(name)
        if entry is None or not name.startswith("baseline"):
            continue
        training = entry.get("training", {})
        saving = found.get("saving")
        shares = found if "gap_closed" in found or name != "baseline" else evaluation  # of an older build
        rows.append(
            [
                LABELS[name],
                write_number(training.get("steps"), "{:,}"),
                write_number(training.get("seconds"), "{:.1f}"),
                f"{entry['bits_per_byte']:.3f}",
                f"{found['bits_per_byte']:+.3f}",
                write_interval(found["interval_95"], 3),
                write_number(saving, "{:.1%}"),
                write_share(shares, MISSING),
                _plain(found.get("gap_closed_interval_95"), 2),
            ]
        )
    headings = [
        "against",
        "steps",
        "seconds",
        f"its bits per byte {LOWER}",
        f"student better by {HIGHER}",
        "95 % interval",
    ]
    return [*headings, f"fewer bits {HIGHER}", f"gap closed {HIGHER}", "95 % interval of it"], rows


def split_costs(evaluation: dict[str, Any]) -> tuple[Table, Table]:
    """Split the items into those of student and baselines, and those of making the teacher, which is paid for once."""
    headings, rows = cost_table(evaluation)
    of_teacher = [cost["item"].startswith("teacher") and not cost["part_of"] for cost in evaluation.get("costs", [])]
    groups = [
        [row for row, is_his in zip(rows, of_teacher, strict=True) if is_his is wanted] for wanted in (False, True)
    ]
    return (["student and baselines", *headings[1:]], groups[0]), (["the teacher, apart", *headings[1:]], groups[1])


def cost_sentence(evaluation: dict[str, Any]) -> str:
    """Say what distillation costs beside training without a teacher; empty where nobody noted it."""
    seconds = {cost["item"]: cost["seconds"] for cost in evaluation.get("costs", []) if not cost["part_of"]}
    if not seconds.get("student") or not seconds.get("baseline"):
        return ""
    mine, twin = seconds["student"], seconds["baseline"]
    answers = sum(cost["seconds"] or 0 for cost in evaluation["costs"] if cost["part_of"] == "student")
    teacher = sum(value or 0 for item, value in seconds.items() if item.startswith("teacher"))
    words = f"At equal steps the student took {mine:,.1f} seconds, {mine / twin:.1f} times what its baseline took"
    words += f"; {answers:,.1f} of them ({answers / mine:.0%}) were the teacher's answers." if answers else "."
    if teacher:
        words += f" Making the teacher took {teacher:,.1f} seconds; no comparison on this page counts them."
    return words


def stage_table(status: dict[str, Any]) -> Table:
    """List what the run took by the clock, a row for each of its stages; no rows where nobody noted it."""
    seconds = {
        name: status[name]["seconds"] for name in STAGES if isinstance(status.get(name, {}).get("seconds"), float | int)
    }
    rows = [[STAGES[name], f"{value:,.0f}"] for name, value in seconds.items()]
    if rows:
        rows.append(["together", f"{sum(seconds.values()):,.0f}"])
    return ["stage of the run", "seconds by the clock"], rows


def _star(entry: dict[str, Any]) -> str:
    return f"not comparable: {entry['not_comparable']}" if entry.get("not_comparable") else "on the same text"


def _plain(edges: list[float] | None, digits: int) -> str:
    """Write an interval of shares."""
    return MISSING if edges is None else f"{edges[0]:.{digits}f} to {edges[1]:.{digits}f}"
