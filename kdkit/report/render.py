"""Rendering of facts to files: every page, Markdown twin and card."""

import base64
import shlex
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jinja2
import yaml

from kdkit.report.story.contents import anchored, contents
from kdkit.report.story.done import model_name
from kdkit.report.story.machine import machine_table
from kdkit.report.story.pictures import Told, tell
from kdkit.report.story.settings import changed_settings
from kdkit.report.tables import to_html, to_markdown
from kdkit.report.writing import hide_folders, machine_folders, plain_markdown, write_date
from kdkit.runs.disk import write_text, writing
from kdkit.runs.folder import Run
from kdkit.runs.messages import visible

TEMPLATES = Path(__file__).parent / "templates"


def render_files(folder: Path, files: dict[str, str], facts: dict[str, Any]) -> None:
    """Write files of a run, each whole or not at all; what goes into HTML is escaped.

    Folders of this machine are left out of them: a reader elsewhere has others, and need not know ours.

    Args:
        files: template of each file, by the file's path in the folder, in the order in which they are written.
        facts: what the templates print.
    """
    named = {"settings": facts["config"], "command": shlex.split(facts.get("command", ""))}
    shown = hide_folders(facts, machine_folders(named, folder.resolve(), Path(__file__).parents[2]))
    with writing(folder, "--runs-dir"):
        for name, template in files.items():
            write_text(folder / name, render(template, shown))


def render(template: str, facts: dict[str, Any]) -> str:
    """Return a template with facts in it; what goes into HTML is escaped, but for what is marked up already."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=jinja2.select_autoescape(["html.j2"]),
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_visible,
    )
    environment.filters |= {"table_html": to_html, "table_markdown": to_markdown, "machine": machine_table}
    environment.filters |= {"date": write_date, "plain": plain_markdown, "yaml": _to_yaml, "name": model_name}
    environment.filters |= {"anchored": anchored, "contents": contents}
    return environment.get_template(template).render(facts)


def run_facts(
    run: Run,
    heading: str,
    pictures: dict[str, Path | None],
    told: Mapping[str, Told],
    alts: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any]:
    """Collect what every page of a run prints: its files, its title, its pictures, the command that repeats it.

    Args:
        heading: words before the run's name where its configuration has no title.
        pictures: by their titles; what was not drawn is left out.
        told: what is said of them.
        alts: what they show in this run, for a reader who cannot see them.

    Raises:
        UserError: a stage has not run; the message names its file.
    """
    config, environment = _read_config(run), run.read_json("env.json")
    return {
        "title": config["report"]["title"] or f"{heading} {run.name}",
        "evaluation": run.read_json("evaluation.json"),
        "manifest": run.read_json("data/manifest.json"),
        "config": config,
        "environment": environment,
        "changed": changed_settings(config),
        "command": command_again(run),
        "pictures": {
            title: tell(title, told, alts, path, embed_picture(path))
            for title, path in pictures.items()
            if path is not None
        },
    }


def picture_files(run: Run, facts: dict[str, Any]) -> dict[str, Path]:
    """Return the files of a page's pictures by their headings."""
    return {title: run.path / "figures" / picture.name for title, picture in facts["pictures"].items()}


def command_again(run: Run) -> str:
    """Return the command that repeats a run under a new name, from the folder that holds its folder of runs."""
    path = run.path.resolve()
    runs = path.parent.name
    words = ["python", "-m", "kdkit", "run", f"{runs}/{path.name}/config.yaml", "--name", f"{path.name}-again"]
    return shlex.join(words if runs == "runs" else [*words, "--runs-dir", runs])


def _read_config(run: Run) -> dict[str, Any]:
    return yaml.safe_load((run.path / "config.yaml").read_text(encoding="utf-8"))


def embed_picture(path: Path) -> str:
    """Return a picture as a data URL, so that the page needs no other file."""
    return data_url(path.read_bytes())


def data_url(png: bytes) -> str:
    """Return the content of a PNG file as a data URL."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _visible(value: Any) -> Any:
    """Write control characters of plain text as signs; what is marked up already has none."""
    return visible(value) if type(value) is str else value


def _to_yaml(values: dict[str, Any]) -> str:
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)
