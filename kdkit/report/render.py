"""From facts to files: every page, Markdown twin and card is rendered here."""

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2

from kdkit.runs.folder import write_text

TEMPLATES = Path(__file__).parent / "templates"


def render_files(
    folder: Path, files: dict[str, str], facts: dict[str, Any], filters: dict[str, Callable[..., str]] | None = None
) -> None:
    """Write files of a run, each whole or not at all; what goes into HTML is escaped.

    Args:
        files: template of each file, by the file's path in the folder, in the order in which they are written.
        facts: what the templates print.
        filters: what they may apply to it, beside jinja2's own.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=jinja2.select_autoescape(["html.j2"]),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters or {}
    for name, template in files.items():
        write_text(folder / name, environment.get_template(template).render(facts))


def embed_picture(path: Path) -> str:
    """Return a picture as a data URL, so that the page needs no other file."""
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
