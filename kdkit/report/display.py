"""Display of results in a notebook: everything lies inside the saved notebook, and looks alike wherever it is opened.

Styles are written into every cell of a table: JupyterLab's own rules are stronger than a style sheet, and Kaggle
removes those.
"""

import html
import re
from pathlib import Path
from typing import Any

from IPython.display import HTML, Image, Markdown

from kdkit.config.values import flatten
from kdkit.report.compare import compared_tables, comparison_verdict, draw_comparison
from kdkit.report.figures import to_png
from kdkit.report.render import data_url
from kdkit.report.tables import Table, column_sides, html_cell, write_value
from kdkit.runs.folder import Run

CELL = "vertical-align:top;white-space:pre-wrap;padding:2px 10px;line-height:1.4;"
PICTURE = re.compile(r"!\[([^]]*)\]\((figures/[^)]+)\)")


def show_picture(path: Path | None, otherwise: str = "") -> Image | Markdown:
    """Show a saved picture; where there is none, the reason."""
    return Image(filename=str(path), width=820) if path is not None else Markdown(otherwise)


def show_table(table: Table | None, otherwise: str = "") -> HTML | Markdown:
    """Show a table: text on the left, numbers on the right; long text wraps. Where there is none, the reason."""
    if table is None or not table[1]:
        return Markdown(otherwise)
    headings, rows = table
    sides = column_sides(table)
    lines = [("th", headings), *(("td", row) for row in rows)]
    body = "".join(
        "<tr>" + "".join(_cell(tag, text, side) for text, side in zip(line, sides, strict=True)) + "</tr>"
        for tag, line in lines
    )
    return HTML(f"<div style='overflow-x:auto'><table style='margin-left:0'>{body}</table></div>")


def show_facts(facts: dict[str, object]) -> HTML:
    """Show names and values, a line each; lists and what was not measured are left out."""
    flat = {name: value for name, value in flatten(facts).items() if not isinstance(value, list) and value is not None}
    rows = [[name.replace("_", " ").replace(".", ": "), write_value(value)] for name, value in flat.items()]
    return show_table((["", ""], rows))


def show_verdict(text: str) -> HTML:
    """Show a sentence that matters; it wraps at words."""
    style = "max-width:820px;white-space:pre-line;border-left:4px solid #0f766e;padding:4px 14px;font-size:1.05em"
    style += ";line-height:1.5"  # widgets have a wider one
    return HTML(f"<div style='{style}'>{html.escape(text)}</div>")


def show_conversation(parts: list[tuple[str, bool]]) -> HTML:
    """Show text with what is in the loss in colour and in brackets.

    Args:
        parts: text, and whether it is in the loss.
    """
    learnt = "background:#ccfbf1;color:#134e4a"
    body = "".join(
        f"<span style='{learnt}'>[{html.escape(text)}]</span>" if is_learnt else html.escape(text)
        for text, is_learnt in parts
    )
    return HTML(f"<pre style='max-width:820px;white-space:pre-wrap;word-break:break-word'>{body}</pre>")


def show_report(run: Run) -> Markdown:
    """Show `report.md` with its pictures inside it: no path of this machine, nothing to lose when the file moves."""

    def embed(match: re.Match[str]) -> str:
        return f"![{match[1]}]({data_url((run.path / match[2]).read_bytes())})"

    return Markdown(PICTURE.sub(embed, (run.path / "report.md").read_text(encoding="utf-8")))


def show_comparison(comparison: dict[str, Any], with_curves: bool = True) -> HTML:
    """Show what `compare_runs` returns: who is better by how much, curves over each other, settings that differ."""
    parts = [show_verdict(f"{comparison_verdict(comparison)}\nCompared on {comparison['text']}.").data]
    if with_curves:
        parts.append(f"<img alt='learning curves' width='820' src='{data_url(to_png(draw_comparison(comparison)))}'>")
    for heading, table in compared_tables(comparison).items():
        parts += [f"<p><b>{html.escape(heading.capitalize())}</b></p>", show_table(table).data]
    return HTML("".join(parts))


def _cell(tag: str, text: str, side: str) -> str:
    return f"<{tag} style='text-align:{side};{CELL}'>{html_cell(text)}</{tag}>"
