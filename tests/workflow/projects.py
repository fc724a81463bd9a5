"""A project of five small notebooks, for tests of what runs them."""

import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import nbformat
from IPython.core.interactiveshell import InteractiveShell
from nbformat.v4 import new_code_cell, new_notebook
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from traitlets.config import Config

from kdkit.workflow.terminal import Lines

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
    values = json.loads((run / "status.json").read_text())
    return {name: entry for name, entry in values.items() if isinstance(entry, dict)}


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


def run_here(notebook, output, parameters, terminal):
    """Stand in for `run_notebook` where kernels are not what is tested: the cells in IPython of this process.

    A kernel imports for several seconds, once for every notebook.
    """
    filled = parameterize_notebook(load_notebook_node(str(notebook)), parameters)
    output.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(filled, output)
    outside = sys.stderr

    def complained(line):
        with redirect_stderr(outside):  # it prints there what it does not filter
            terminal.complained(line)

    settings = Config({"HistoryManager": {"enabled": False}})
    shell = InteractiveShell.instance(config=settings)
    try:
        with redirect_stdout(Lines(terminal.printed)), redirect_stderr(Lines(complained)):
            for cell in filled.cells:
                if cell.cell_type == "code":
                    shell.run_cell(cell.source, store_history=True).raise_error()
    finally:
        InteractiveShell.clear_instance()
