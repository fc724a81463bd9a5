"""Run the quickstart notebook and keep its outputs in it, for those who read it without running it.

    make quickstart

The notebook keeps a fingerprint of what it was made from (its cells and its configuration); a test compares.
"""

import tempfile
from pathlib import Path

import nbformat
import papermill

from kdkit.runs.folder import fingerprint

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "notebooks" / "00_quickstart.ipynb"


def main() -> None:
    """Execute a copy, and put its outputs into the notebook."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        executed = papermill.execute_notebook(
            str(NOTEBOOK), f"{folder}/executed.ipynb", {"RUNS_DIR": f"{folder}/runs"}, progress_bar=False, cwd=str(ROOT)
        )
    outputs = {cell.id: cell for cell in executed.cells if cell.cell_type == "code"}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = outputs[cell.id].outputs, outputs[cell.id].execution_count
            if folder in str(cell.outputs):
                raise SystemExit(f"{NOTEBOOK.name}: expected no path of this machine in outputs, got {cell.outputs}")
    notebook.metadata["made_from"] = inputs_fingerprint(notebook)
    nbformat.write(notebook, NOTEBOOK)


def inputs_fingerprint(notebook: nbformat.NotebookNode) -> str:
    """Hash the cells of the notebook and the configuration that they run."""
    config = (ROOT / "configs" / "quick.yaml").read_text(encoding="utf-8")
    return fingerprint([[cell.cell_type, cell.source] for cell in notebook.cells], config)


if __name__ == "__main__":
    main()
