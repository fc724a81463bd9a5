"""Tables and sentences about a run, from its JSON files: the words of notebook 04, the page and the card."""

import html
from typing import Any

from kdkit.report.figures import LABELS

Table = tuple[list[str], list[list[str]]]
"""Column headings, and rows of the same length."""
MISSING = "-"
"""Stands in a table where there is no number."""


def comparison_table(evaluation: dict[str, Any]) -> Table:
    """Put every model side by side: quality, retention, cost."""
    headings = ["", *(LABELS[name] for name in evaluation["models"])]
    rows = [
        ["bits per byte", *_format_bits(evaluation)],
        ["perplexity (own tokens)", *_format(evaluation, "perplexity", "{:.1f}")],
        ["KL to the teacher, nats", *_format_retention(evaluation, "kl_to_teacher", "{:.3f}")],
        [
            f"top-{_top_k(evaluation)} overlap with the teacher",
            *_format_retention(evaluation, "top_k_overlap", "{:.1%}"),
        ],
        ["attention like the teacher's", *_format_retention(evaluation, "attention_similarity", "{:.3f}")],
        ["parameters", *_format(evaluation, "parameters", "{:,}")],
        ["weights, MB", *_format(evaluation, "size_bytes", "{:.2f}", 1e-6)],
        ["tokens per second", *_format(evaluation, "tokens_per_second", "{:,.0f}")],
        ["text read, kB per second", *_format(evaluation, "bytes_per_second", "{:,.0f}", 1e-3)],
        ["peak memory, MB", *_format(evaluation, "peak_memory_bytes", "{:.1f}", 1e-6)],
        ["training steps", *_format_training(evaluation, "steps", "{:,}")],
        ["training seconds", *_format_training(evaluation, "seconds", "{:.1f}")],
    ]
    return headings, rows


def continuations_table(evaluation: dict[str, Any], count: int) -> Table:
    """Put the models' continuations of the same openings side by side."""
    names = list(evaluation["models"])
    rows = [[entry["prompt"], *(entry[name] for name in names)] for entry in evaluation["continuations"][:count]]
    return ["opening (held-out text)", *(LABELS[name] for name in names)], rows


def routing_table(probe: dict[str, Any]) -> Table:
    """Show how well a mixture predicts when it is routed otherwise than it was trained; no rows for a dense teacher."""
    rows = [
        [row["routing"], f"{row['perplexity']:.2f}", f"{row['bits_per_byte']:.3f}"] for row in probe["by_routing"] or []
    ]
    return ["experts", "perplexity", "bits per byte"], rows


def language_verdict(evaluation: dict[str, Any]) -> str:
    """State whether distillation beat the baseline, and by how much, also when it did not."""
    student = evaluation["models"]["student"]["bits_per_byte"]
    baseline = evaluation["models"]["baseline"]["bits_per_byte"]
    difference = evaluation["differences"]["baseline"]
    low, high = difference["interval_95"]
    gain = difference["bits_per_byte"]
    numbers = (
        f"{student:.3f} against {baseline:.3f} bits per byte, a difference of {gain:+.3f} "
        f"(95 % interval over evaluation windows {low:+.3f} to {high:+.3f}; above 0 favours the student)"
    )
    if low > 0:
        result = f"Distillation beat the baseline: {numbers}, {gain / baseline:.1%} fewer bits."
    elif high < 0:
        result = f"Distillation did not beat the baseline, it lost to it: {numbers}."
    else:
        result = f"Distillation did not beat the baseline: {numbers}, which includes no difference."
    return f"{result} {_gap_sentence(evaluation)}{_equal_time_sentence(evaluation)}"


def table_of(rows: list[dict[str, Any]]) -> Table:
    """Turn rows with the same keys into a table."""
    return list(rows[0]) if rows else [], [[str(value) for value in row.values()] for row in rows]


def write_number(value: float | None, pattern: str) -> str:
    """Write a number by a pattern such as `{:.2f}`."""
    return MISSING if value is None else pattern.format(value)


def write_interval(edges: list[float] | None, digits: int) -> str:
    """Write an interval of differences, with signs."""
    return MISSING if edges is None else f"{edges[0]:+.{digits}f} to {edges[1]:+.{digits}f}"


def write_value(value: object) -> str:
    """Write a value with as many digits as a person reads."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def to_html(table: Table) -> str:
    """Render a table as HTML, everything escaped."""
    headings, rows = table
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in headings)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def to_markdown(table: Table) -> str:
    """Render a table as Markdown; line breaks inside a cell become spaces."""
    headings, rows = table
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(_markdown_cell(cell) for cell in line) + " |" for line in lines)


def _markdown_cell(text: str) -> str:
    """Keep a model's text from being read as HTML or as the next cell."""
    return " ".join(html.escape(text, quote=False).replace("|", "&#124;").split())


def _gap_sentence(evaluation: dict[str, Any]) -> str:
    """State which share of the gap was closed."""
    teacher = evaluation["models"]["teacher"]["bits_per_byte"]
    reasons = {name: entry.get("not_comparable") for name, entry in evaluation["models"].items()}
    if evaluation["gap_closed"] is None and any(reasons.values()):
        reason = next(filter(None, reasons.values()))
        return f"The teacher ({teacher:.3f}*) is not comparable, so no gap is measured. * {reason}."
    if evaluation["gap_closed"] is None:
        return f"The teacher ({teacher:.3f}) is no better than the baseline, so there is no gap to close."
    return (
        f"It closed {evaluation['gap_closed']:.2f} of the gap to the teacher ({teacher:.3f}) at equal steps; "
        "1 is the teacher, 0 the baseline."
    )


def _equal_time_sentence(evaluation: dict[str, Any]) -> str:
    """Compare with the baseline that was given the student's wall time."""
    difference = evaluation["differences"].get("baseline_equal_time")
    if difference is None:
        return ""
    entry = evaluation["models"]["baseline_equal_time"]
    low, high = difference["interval_95"]
    result = "still better than" if low > 0 else "worse than" if high < 0 else "no different from"
    return (
        f" At equal wall time the baseline takes {entry['training']['steps']:,} steps and reaches "
        f"{entry['bits_per_byte']:.3f}: the student is {result} it ({difference['bits_per_byte']:+.3f}, "
        f"95 % interval {low:+.3f} to {high:+.3f})."
    )


def _top_k(evaluation: dict[str, Any]) -> int:
    return evaluation["retention"]["student"]["top_k"]


def _format(evaluation: dict[str, Any], key: str, pattern: str, scale: float = 1) -> list[str]:
    values = [entry[key] for entry in evaluation["models"].values()]
    return [write_number(None if value is None else value * scale, pattern) for value in values]


def _format_bits(evaluation: dict[str, Any]) -> list[str]:
    """Write bits per byte, with a star where they are those of another text."""
    entries = evaluation["models"].values()
    return [f"{entry['bits_per_byte']:.3f}" + "*" * bool(entry.get("not_comparable")) for entry in entries]


def _format_retention(evaluation: dict[str, Any], key: str, pattern: str) -> list[str]:
    retention = evaluation["retention"]
    values = [retention[name][key] if name in retention else None for name in evaluation["models"]]
    return [write_number(value, pattern) for value in values]


def _format_training(evaluation: dict[str, Any], key: str, pattern: str) -> list[str]:
    entries = evaluation["models"].values()
    return [write_number(entry["training"][key] if "training" in entry else None, pattern) for entry in entries]
