"""How values are written for a reader: the best of a row, dates, plain text in Markdown, no folders of this machine."""

import html
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

from kdkit.runs.messages import visible

LOWER, HIGHER = "\u2193", "\u2191"
"""Arrow of the good direction in a heading: lower or higher is better."""
MARKDOWN_MARKS = re.compile(r"([\\`*_\[\]|~$@])")
"""Characters that begin markup inside a line; `<`, `>` and `&` are written as HTML does."""
LINE_MARKS = re.compile(r"^(#+(?= |$)|[-+](?= |$)|[=-]+$|\d+[.)](?= |$))")
"""What makes a heading, a list or a quotation at the start of a line."""
HIDDEN = "\u2026"
"""Stands for the folders before a name."""

Value = TypeVar("Value")


class Best(str):
    """A table's cell with the best value of its row or column: bold wherever it is rendered."""


def mark_best(
    cells: Sequence[str], values: Sequence[float | None], good: Literal["\u2193", "\u2191"], competes: Sequence[bool]
) -> list[str]:
    """Mark the best of the competing cells; nothing where they all read the same, or only one has a value.

    Args:
        cells: as they are written, which decides what reads the same.
        values: of the cells; None: not measured.
        good: `LOWER` or `HIGHER`.
        competes: whether each cell takes part; a teacher does not.
    """
    rows = zip(cells, values, competes, strict=True)
    taking_part = {cell: value for cell, value, takes_part in rows if takes_part and value is not None}
    if len(taking_part) < 2:
        return list(cells)
    best = (min if good == LOWER else max)(taking_part, key=taking_part.__getitem__)
    return [Best(cell) if cell == best and of else cell for cell, of in zip(cells, competes, strict=True)]


def plain_html(text: str) -> str:
    """Keep any text from being read as HTML; control characters become signs."""
    return html.escape(visible(text))


def plain_markdown(text: str) -> str:
    """Keep any text from being read as Markdown or HTML: it stays one line that reads as it was."""
    line = visible(" ".join(text.split()))
    line = MARKDOWN_MARKS.sub(r"\\\1", html.escape(line, quote=False))
    # addresses become links by themselves where GitHub renders them
    line = re.sub(r"(?i)\b(https?|ftp):(?=//)", r"\1\\:", line)
    line = re.sub(r"(?i)\bwww\.", r"www\\.", line)
    return LINE_MARKS.sub(lambda mark: mark[1][:-1] + "\\" + mark[1][-1], line)


def write_date(moment: str) -> str:
    """Write an ISO date for a person: `28 November 2026, 14:05 UTC`; what is no date stays as it is."""
    try:
        date = datetime.fromisoformat(moment).astimezone(UTC)
    except ValueError:
        return moment
    return f"{date.day} {date:%B %Y, %H:%M} UTC"


def write_number_plainly(value: float) -> str:
    """Write a setting as a person would: `1`, `0.9`, `5e-05`."""
    return f"{value:g}"


def machine_folders(settings: dict[str, Any], *folders: Path) -> list[str]:
    """Return the folders of this machine that texts of a run may name.

    Args:
        settings: of the run; folders of absolute paths in it count.
        folders: more of them.
    """
    named = [Path(text).parent for text in _texts(settings) if Path(text).is_absolute()]
    here = [*named, *folders, *(folder.parent for folder in folders), Path.cwd(), Path.home()]
    # the root says nothing of a machine, and what is not absolute would be a word of any text
    found = {str(folder) for folder in here if folder.is_absolute() and folder != folder.parent}
    return sorted(found, key=len, reverse=True)


def hide_folders(value: Value, folders: Iterable[str]) -> Value:
    """Write an ellipsis for these folders in all texts of nested values: `/home/me/models/gpt2` -> `.../gpt2`."""
    if isinstance(value, dict):
        return {key: hide_folders(inner, folders) for key, inner in value.items()}  # type: ignore[return-value]
    if isinstance(value, list | tuple):
        return type(value)(hide_folders(inner, folders) for inner in value)  # type: ignore[return-value]
    if not isinstance(value, str):
        return value
    text = str(value)
    for folder in folders:
        text = text.replace(f"{folder}{os.sep}", f"{HIDDEN}/")
        text = re.sub(rf"{re.escape(folder)}(?![\w.-])", HIDDEN, text)
    return type(value)(text)  # a `Best` stays one


def _texts(value: object) -> Iterator[str]:
    """Yield the texts in nested values."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)
