"""A project of five small notebooks, for tests of what runs them."""

import json
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_notebook

ROOT = Path(__file__).resolve().parents[2]
STAGES = ["01_data", "02_teacher_probe", "03_distill", "04_evaluate", "05_report"]
PARAMETERS = 'CONFIG: str = ""\nOVERRIDES: str = ""\nRUN: str = ""\nRUNS_DIR: str = "runs"\nRESUME: bool = False\n'


def write_notebook(project, stage, code):
    """Write a notebook of one parameters cell and one code cell."""
    first = new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})
    notebook = new_notebook(cells=[first, new_code_cell(code)])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, project / "notebooks" / f"{stage}.ipynb")


def read_status(run):
    """Read what a run's folder says of its stages."""
    return json.loads((run / "status.json").read_text())


def make_project(folder):
    """Make a project of five small notebooks, a configuration and a corpus."""
    (folder / "notebooks").mkdir(parents=True)
    for stage in STAGES:
        write_notebook(folder, stage, "1")
    smoke = (ROOT / "configs" / "smoke.yaml").read_text()
    (folder / "configs").mkdir()
    (folder / "configs" / "tiny.yaml").write_text(smoke.replace("data: {", "data: {path: corpus.txt, "))
    paragraphs = [f"Paragraph {i} says that {i} and {i} is {2 * i}." for i in range(600)]
    (folder / "corpus.txt").write_text("\n\n".join(paragraphs))
    return folder
