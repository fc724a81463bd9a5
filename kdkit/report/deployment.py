"""The table of what `export` wrote: for every format its size, speed and quality beside torch in fp32."""

from typing import Any

from kdkit.report.tables import Table, write_number
from kdkit.report.writing import HIGHER, LOWER
from kdkit.runs.folder import Run

FILE = "export.json"
"""Of a run: by model and format what `export` measured."""


def deployment_table(formats: dict[str, dict[str, Any]]) -> Table:
    """Put the formats of a model side by side, each against torch in fp32 in the same process.

    Args:
        formats: by their names, in order; see `kdkit.workflow.deploy.measure.measure`.
    """
    headings = ["", f"MB of weights {LOWER}", "of fp32", f"written, tokens per second {HIGHER}", "times torch"]
    headings += [f"read, tokens per second {HIGHER}", "times torch", f"bits per byte {LOWER}", "more than fp32"]
    headings += ["more before recovery", "largest logit difference"]
    if not formats:
        return headings, []
    first = next(iter(formats.values()))
    full = ["torch, fp32", write_number(_megabytes(first) / first["share"], "{:.2f}"), "100.0%"]
    for name in ("torch_written_per_second", "torch_read_per_second"):
        full += [write_number(first[name], "{:,.0f}"), write_number(None if first[name] is None else 1.0, "{:.2f}")]
    full += [write_number(first["full_bits_per_byte"], "{:.4f}"), "", "", ""]
    return headings, [full, *([name, *_cells(row)] for name, row in formats.items())]


def deployment_tables(run: Run) -> dict[str, Table]:
    """Return a table for every model of a run that was exported, by the model's name."""
    if not (run.path / FILE).is_file():
        return {}
    return {model: deployment_table(formats) for model, formats in run.read_json(FILE).items()}


def _cells(row: dict[str, Any]) -> list[str]:
    full = row["full_bits_per_byte"]
    return [
        f"{_megabytes(row):.2f}",
        f"{row['share']:.1%}",
        write_number(row["written_per_second"], "{:,.0f}"),
        _times(row, "written_per_second"),
        write_number(row["read_per_second"], "{:,.0f}"),
        _times(row, "read_per_second"),
        write_number(row["bits_per_byte"], "{:.4f}"),
        _more(row["bits_per_byte"], full),
        _more(row.get("unrecovered_bits_per_byte"), full),
        f"{row['largest_logit_difference']:.1e}",
    ]


def _megabytes(row: dict[str, Any]) -> float:
    return row["bytes"] / 1e6


def _times(row: dict[str, Any], name: str) -> str:
    mine, other = row[name], row[f"torch_{name}"]
    return write_number(None if mine is None or other is None else mine / other, "{:.2f}")


def _more(mine: float | None, full: float | None) -> str:
    return write_number(None if mine is None or full is None else 100 * (mine / full - 1), "{:+.2f} %")
