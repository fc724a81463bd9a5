"""Display of results in a notebook: pictures as PNG and tables as HTML, which a saved notebook keeps."""

from pathlib import Path

from IPython.display import HTML, Image, Markdown

from kdkit.report.tables import Table, to_html, write_value


def show_picture(path: Path | None, otherwise: str = "") -> Image | Markdown:
    """Show a saved picture; where there is none, the reason."""
    return Image(filename=str(path), width=820) if path is not None else Markdown(otherwise)


def show_table(table: Table | None, otherwise: str = "") -> HTML | Markdown:
    """Show a table; long text keeps its line breaks and stays on the left. Where there is none, the reason."""
    if table is None:
        return Markdown(otherwise)
    style = "<style>.kdkit td, .kdkit th {text-align: left; vertical-align: top; white-space: pre-wrap}</style>"
    return HTML(f"{style}<div class='kdkit'>{to_html(table)}</div>")


def show_facts(facts: dict[str, object]) -> HTML:
    """Show names and values, a line each."""
    rows = [
        [name.replace("_", " "), write_value(value)] for name, value in facts.items() if not isinstance(value, list)
    ]
    return show_table((["", ""], rows))
