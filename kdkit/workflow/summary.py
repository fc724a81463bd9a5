"""The few lines with which a run ends: its models side by side, from evaluation.json, and where the files are."""

from typing import Any

from kdkit.machine.tracking.copies import sync_command
from kdkit.report.gap import is_level
from kdkit.report.maths.tables import HEADLINE, title_of
from kdkit.runs.folder import Run

LANGUAGE = {
    "bits per byte": ("bits_per_byte", "{:.3f}"),
    "parameters": ("parameters", "{:,}"),
    "MB": ("size_bytes", "{:.1f}"),
    "tokens/s": ("tokens_per_second", "{:,.0f}"),
}
"""Columns of language models: heading, key of evaluation.json, form."""
EMBEDDINGS = {
    "average": ("average", "{:.2f}"),
    "parameters": ("parameters", "{:,}"),
    "MB": ("size_bytes", "{:.1f}"),
    "sentences/s": ("sentences_per_second", "{:,.0f}"),
}
"""Columns of embedding models."""


def summarise(run: Run) -> list[str]:
    """Return the lines; without a table where nothing has been evaluated."""
    evaluated = (run.path / "evaluation.json").is_file()
    lines = result_table(run.read_json("evaluation.json")) if evaluated else []
    paths = ("report", run.path / "report.html"), ("student", run.path / "student")
    lines += [f"{label}: {path}" for label, path in paths if path.exists()]
    return [*lines, f"W&B: {command}"] if (command := sync_command(run)) else lines


def result_table(evaluation: dict[str, Any]) -> list[str]:
    """Return a table of the models, a line each, right answers to problems first; and the share of the gap closed."""
    models = evaluation["models"]
    is_embedding = any("average" in entry for entry in models.values())
    columns = EMBEDDINGS if is_embedding else LANGUAGE
    first, *others = list((evaluation.get("maths") or {"sets": {}})["sets"].items()) or [("", {})]
    rows = [["", *(["right answers"] if first[1] else []), *columns]]
    for name, entry in models.items():
        right = [_right(first[1]["models"].get(name))] if first[1] else []
        values = [_cell(entry, key, form) for key, form in columns.values()]
        rows.append([name.replace("_", " "), *right, *values])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    lines += [f"right answers, {title_of(name)}: {_shares(found['models'])}" for name, found in others]
    if isinstance(evaluation.get("gap_closed"), float):
        lines.append(f"gap closed{' in bits per byte' if first[1] else ''}: {_gap(evaluation)}")
    return lines


def _gap(evaluation: dict[str, Any]) -> str:
    """Write the share of the gap, or why there is none."""
    return "teacher and baseline are level" if is_level(evaluation) else f"{evaluation['gap_closed']:.2f}"


def _right(model: dict[str, Any] | None) -> str:
    """Write the share of right answers with its interval; a hyphen for a model that was not asked."""
    if model is None or model["accuracy"] is None:
        return "-"
    low, high = model["interval_95"]
    return f"{model['accuracy']:.1%} ({low:.0%} to {high:.0%})"


def _shares(models: dict[str, Any]) -> str:
    """Write the shares of the models that matter most, without intervals: a line has no room for them."""
    right = {name: models[name]["accuracy"] for name in HEADLINE if name in models}
    return ", ".join(f"{name} {'-' if share is None else f'{share:.1%}'}" for name, share in right.items())


def _cell(entry: dict[str, Any], key: str, form: str) -> str:
    """Write one value; sizes in MB, a hyphen for what was not measured."""
    value = entry.get(key)
    if value is None:
        return "-"
    return form.format(value / 1e6 if key == "size_bytes" else value)
