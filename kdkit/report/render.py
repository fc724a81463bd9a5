"""Rendering of facts to files: every page, Markdown twin and card."""

import base64
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import yaml

from kdkit.report.tables import Table, to_html, to_markdown
from kdkit.runs.folder import Run, write_text

TEMPLATES = Path(__file__).parent / "templates"


def render_files(
    folder: Path, files: dict[str, str], facts: dict[str, Any], table_html: Callable[[Table], str] = to_html
) -> None:
    """Write files of a run, each whole or not at all; what goes into HTML is escaped.

    Args:
        files: template of each file, by the file's path in the folder, in the order in which they are written.
        facts: what the templates print.
        table_html: how their tables become HTML.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=jinja2.select_autoescape(["html.j2"]),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"table_html": table_html, "table_markdown": to_markdown}
    for name, template in files.items():
        write_text(folder / name, environment.get_template(template).render(facts))


def run_facts(run: Run, heading: str, pictures: dict[str, Path | None]) -> dict[str, Any]:
    """Collect what every page of a run prints: its files, its title, its pictures, the command that repeats it.

    Args:
        heading: words before the run's name where its configuration has no title.
        pictures: by their headings; what was not drawn is left out.

    Raises:
        UserError: a stage has not run; the message names its file.
    """
    config_text = (run.path / "config.yaml").read_text(encoding="utf-8")
    config, environment = yaml.safe_load(config_text), run.read_json("env.json")
    return {
        "title": config["report"]["title"] or f"{heading} {run.name}",
        "evaluation": run.read_json("evaluation.json"),
        "manifest": run.read_json("data/manifest.json"),
        "probe": run.read_json("teacher/probe.json"),
        "config": config,
        "config_text": config_text,
        "environment": environment,
        "environment_text": json.dumps(environment, indent=1),
        "command": f"python -m kdkit run {shlex.quote(str(run.path / 'config.yaml'))} --name {run.name}-again",
        "pictures": {title: (path.name, embed_picture(path)) for title, path in pictures.items() if path is not None},
    }


def embed_picture(path: Path) -> str:
    """Return a picture as a data URL, so that the page needs no other file."""
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
