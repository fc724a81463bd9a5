"""Runs side by side: tables, sentences, a picture and a self-contained page, from what `compare_runs` returns."""

import json
import shlex
import textwrap
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from kdkit.report.evidence import gains_still, too_few_steps
from kdkit.report.figures import tidy, to_png
from kdkit.report.gap import write_share
from kdkit.report.render import data_url, render_files
from kdkit.report.tables import MISSING, Table, write_interval, write_number
from kdkit.report.terminal import WIDTH, to_text
from kdkit.report.writing import HIGHER, LOWER, mark_best

COLOURS = ("#0f766e", "#c2410c", "#4f46e5", "#d97706", "#be185d", "#0369a1", "#65a30d", "#7c3aed")
PHASES = {"student": "students", "baseline": "baselines: the same student without its teacher"}


def compared_tables(comparison: dict[str, Any]) -> dict[str, Table]:
    """Return the tables of a comparison that have rows, by their headings."""
    own = _embedding_tables if comparison["kind"] == "embeddings" else _language_tables
    tables = own(comparison) | {"settings that differ": _settings_table(comparison)}
    notes = [[entry["name"], entry["reason"], entry["command"]] for entry in comparison["notes"]]
    columns = 3 if any(entry["command"] for entry in comparison["notes"]) else 2
    tables["notes"] = (["run", "note", "command"][:columns], [row[:columns] for row in notes])
    return {heading: table for heading, table in tables.items() if table[1]}


def comparison_verdict(comparison: dict[str, Any]) -> str:
    """State, a line per run, whether it is better than the first, worse, too close or too short to tell."""
    reference, *others = comparison["runs"]
    return "\n".join(_against(reference, other, comparison["kind"]) for other in others)


def comparison_text(comparison: dict[str, Any]) -> str:
    """Return the comparison for a terminal, lines of at most 100 characters."""
    parts = [f"compared on {comparison['text']}"]
    for heading, table in compared_tables(comparison).items():
        if heading == "notes":
            lines = [(_wrap(f"{note['name']}: {note['reason']}"), note["command"]) for note in comparison["notes"]]
            parts += [text + f"\n  {command}" * bool(command) for text, command in lines]
        else:
            parts.append(f"{heading}\n\n{to_text(table, words=1)}")
    parts.append("\n".join(map(_wrap, comparison_verdict(comparison).splitlines())))
    return "\n\n".join(parts)


def draw_comparison(comparison: dict[str, Any]) -> Figure:
    """Draw the learning curves over each other, over steps and over seconds; dotted: without a teacher."""
    is_embedding = comparison["kind"] == "embeddings"
    figure = Figure(figsize=(9.2, 3.9), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, column, label in zip(panels, (0, 1), ("optimizer step", "training seconds"), strict=True):
        for place, entry in enumerate(comparison["runs"]):
            for phase, points in entry["curves"].items():
                x, y = [point[column] for point in points], [point[2] for point in points]
                style = (
                    {"linestyle": "-", "marker": "o"} if phase == "student" else {"linestyle": ":", "linewidth": 1.2}
                )
                name = f"{entry['label']}: {entry['name']}" if phase == "student" else None
                axes.plot(x, y, color=COLOURS[place % len(COLOURS)], markersize=3.5, label=name, **style)
        axes.set(xlabel=label)
        tidy(axes)
    panels[0].set(ylabel="average of the tasks" if is_embedding else "bits per byte, held-out text")
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(
        handles, names, loc="outside lower center", ncols=1 if len(names) > 4 else 2, frameon=False, fontsize=8
    )
    return figure


def write_comparison(comparison: dict[str, Any], path: Path) -> Path:
    """Write the page of a comparison, which needs no other file."""
    facts = {
        "title": f"Comparison of {len(comparison['runs'])} runs",
        "verdict": comparison_verdict(comparison),
        "comparison": comparison,
        "picture": data_url(to_png(draw_comparison(comparison))),
        "tables": compared_tables(comparison),
        "command": shlex.join(["python", "-m", "kdkit", "compare", *comparison["asked"]]),
        "config": comparison["settings"],
    }
    render_files(path.parent, {path.name: "compare.html.j2"}, facts)
    return path


def _language_tables(comparison: dict[str, Any]) -> dict[str, Table]:
    """Return the table of the students and that of their baselines."""
    tables = {}
    for phase, heading in PHASES.items():
        rows = []
        for entry in comparison["runs"]:
            found, own = entry[phase], entry["gain"]
            rows.append(
                [
                    f"{entry['label']}  {entry['name']}",
                    write_number(entry["steps"], "{:,}"),
                    f"{found['bits_per_byte']:.3f}",
                    write_number(found["difference"], "{:+.3f}"),
                    write_interval(found["interval_95"], 3),
                ]
            )
            if phase == "student":
                gained = f"{own['bits_per_byte']:+.3f}", write_interval(own["interval_95"], 3)
                rows[-1] += [*gained, write_share(entry, MISSING)]
        _mark(rows, 2, [entry[phase]["bits_per_byte"] for entry in comparison["runs"]], LOWER)
        headings = ["run", "steps", f"bits per byte {LOWER}", f"better than A by {HIGHER}", "95 % interval"]
        if phase == "student":
            headings += [f"better than its own baseline by {HIGHER}", "95 % interval of it", f"gap closed {HIGHER}"]
        tables[heading] = headings, rows
    return tables | {"answers of the students to held-out prompts": _answers_table(comparison["runs"])}


def _answers_table(runs: list[dict[str, Any]]) -> Table:
    """Return the students' ROUGE-L; no rows for runs without conversations."""
    rows = [
        [
            f"{entry['label']}  {entry['name']}",
            f"{answers['num_prompts']}",
            f"{answers['rouge_l']:.3f}",
            write_number(answers["difference"], "{:+.3f}"),
            write_interval(answers["interval_95"], 3),
        ]
        for entry in runs
        if (answers := entry.get("answers")) is not None
    ]
    return ["run", "prompts", f"ROUGE-L {HIGHER}", f"better than A by {HIGHER}", "95 % interval"], rows


def _embedding_tables(comparison: dict[str, Any]) -> dict[str, Table]:
    """Return the table of the students' scores."""
    runs, tasks = comparison["runs"], list(comparison["runs"][0]["tasks"])
    rows = []
    for entry in runs:
        low, high = entry["interval_95"]
        cells = [f"{entry['label']}  {entry['name']}", entry["student"], write_number(entry["steps"], "{:,}")]
        cells += [f"{entry['average']:.2f} \u00b1 {(high - low) / 2:.1f}", write_number(entry["difference"], "{:+.2f}")]
        cells += [write_interval(entry["difference_interval_95"], 2), *(f"{entry['tasks'][t]:.2f}" for t in tasks)]
        rows.append(cells)
    _mark(rows, 3, [entry["average"] for entry in runs], HIGHER)
    for column, task in enumerate(tasks, start=6):
        _mark(rows, column, [entry["tasks"][task] for entry in runs], HIGHER)
    headings = ["run", "method", "steps", f"average {HIGHER}", f"better than A by {HIGHER}", "95 % interval"]
    return {"students": ([*headings, *(f"{task} {HIGHER}" for task in tasks)], rows)}


def _settings_table(comparison: dict[str, Any]) -> Table:
    """List the settings that differ, a column for each run."""
    rows = [[key, *map(_write_setting, values)] for key, values in comparison["settings"].items()]
    return ["setting", *(entry["label"] for entry in comparison["runs"])], rows


def _wrap(text: str) -> str:
    return textwrap.fill(text, WIDTH, subsequent_indent="  ")


def _write_setting(value: object) -> str:
    if value is None:
        return MISSING
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _mark(rows: list[list[str]], column: int, values: list[float | None], good: Any) -> None:
    """Mark the best run of a column."""
    marked = mark_best([row[column] for row in rows], values, good, [True] * len(rows))
    for row, cell in zip(rows, marked, strict=True):
        row[column] = cell


def _against(reference: dict[str, Any], other: dict[str, Any], kind: str) -> str:
    """State how a run compares with the first."""
    if kind == "embeddings":
        difference, interval = other["difference"], other["difference_interval_95"]
        unit, digits = "points", 2
    else:
        difference, interval = (other["student"][key] for key in ("difference", "interval_95"))
        unit, digits = "bits per byte", 3
    pair = f"{other['label']} ({other['name']}) against {reference['label']} ({reference['name']})"
    numbers = f"{difference:+.{digits}f} {unit}"
    if interval is not None:
        numbers += f", 95 % interval {write_interval(interval, digits)}"
    for entry in (reference, other):
        if reason := too_few_steps(entry["steps"]) or gains_still(entry.get("late_gain"), difference, entry["steps"]):
            return f"{pair}: too short to tell ({entry['label']}: {reason}); so far {numbers}."
    if interval is None:
        return f"{pair}: {numbers}, without an interval."
    low, high = interval
    result = "better" if low > 0 else "worse" if high < 0 else "too close to tell"
    return f"{pair}: {result} ({numbers})."
