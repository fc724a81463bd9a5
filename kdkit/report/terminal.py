"""Tables in a terminal: aligned columns that fit its width."""

import textwrap

from kdkit.report.tables import Table
from kdkit.runs.messages import visible

WIDTH = 100
"""Columns of a terminal that a table takes at most."""
GAP = "  "


def to_text(table: Table, width: int = WIDTH, words: int = 1) -> str:
    """Render a table as lines of at most `width` characters; what is too long is wrapped in its cell.

    Args:
        words: so many first columns hold words and stand on the left, the others on the right.
    """
    headings, rows = table[0], [[visible(cell) for cell in row] for row in table[1]]
    room = width - len(GAP) * (len(headings) - 1)
    cells = [max((len(row[column]) for row in rows), default=0) for column in range(len(headings))]
    # a heading wraps at its words before any cell does
    widths = [max([cell, 1, *map(len, heading.split())]) for cell, heading in zip(cells, headings, strict=True)]
    while sum(widths) > room:
        widths[widths.index(max(widths))] -= 1
    while sum(widths) < room and (lacking := _widest_heading(headings, widths)) is not None:
        widths[lacking] += 1
    lines = _lines(headings, widths, words)
    lines.append(GAP.join("-" * column for column in widths))
    lines += [line for row in rows for line in _lines(row, widths, words)]
    return "\n".join(line.rstrip() for line in lines)


def _widest_heading(headings: list[str], widths: list[int]) -> int | None:
    """Return the column whose heading is wrapped most; None where none is."""
    missing = [len(heading) / width for heading, width in zip(headings, widths, strict=True)]
    return missing.index(max(missing)) if max(missing) > 1 else None


def _lines(cells: list[str], widths: list[int], words: int) -> list[str]:
    """Return the lines of one row."""
    wrapped = [textwrap.wrap(cell, width) or [""] for cell, width in zip(cells, widths, strict=True)]
    height = max(map(len, wrapped))
    return [
        GAP.join(
            f"{text:<{width}}" if column < words else f"{text:>{width}}"
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in zip(*(part + [""] * (height - len(part)) for part in wrapped), strict=True)
    ]
