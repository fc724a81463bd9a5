"""The few lines with which a run ends: its models side by side, from evaluation.json, and where the files are."""

from typing import Any

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
    return lines + [f"{label}: {path}" for label, path in paths if path.exists()]


def result_table(evaluation: dict[str, Any]) -> list[str]:
    """Return a table of the models, a line each, and how much of the gap the student has closed."""
    models = evaluation["models"]
    is_embedding = any("average" in entry for entry in models.values())
    columns = EMBEDDINGS if is_embedding else LANGUAGE
    rows = [["", *columns]]
    for name, entry in models.items():
        values = [_cell(entry, key, form) for key, form in columns.values()]
        rows.append([name.replace("_", " "), *values])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    gap = evaluation.get("gap_closed")
    return [*lines, *([f"gap closed: {gap:.2f}"] if isinstance(gap, float) else [])]


def _cell(entry: dict[str, Any], key: str, form: str) -> str:
    """Write one value; sizes in MB, a hyphen for what was not measured."""
    value = entry.get(key)
    if value is None:
        return "-"
    return form.format(value / 1e6 if key == "size_bytes" else value)
