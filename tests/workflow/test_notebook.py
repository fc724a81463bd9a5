"""The kernel of the notebooks is the Python that runs the package, whatever `python3` means to Jupyter."""

import json
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from kdkit.workflow.notebook import SETTINGS, run_notebook, set_by_hand
from kdkit.workflow.terminal import Terminal
from tests.workflow.projects import ROOT


@pytest.fixture
def foreign_kernel(tmp_path, monkeypatch):
    """Let `python3` be the kernel of another environment; return the file by which it shows that it was started."""
    started, python = tmp_path / "started", tmp_path / "elsewhere" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\ntouch {started}\nexit 1\n")
    python.chmod(0o755)
    folder = tmp_path / "jupyter" / "kernels" / "python3"
    folder.mkdir(parents=True)
    argv = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (folder / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "Python 3", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    return started


def test_a_kernel_of_another_environment_is_replaced(tmp_path, foreign_kernel):
    from jupyter_client.kernelspec import KernelSpecManager

    assert KernelSpecManager().get_kernel_spec("python3").argv[0] == str(tmp_path / "elsewhere/bin/python")
    notebook = new_notebook(cells=[new_code_cell("import sys\nprint(sys.executable)")])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, tmp_path / "n.ipynb")
    run_notebook(tmp_path / "n.ipynb", tmp_path / "out" / "n.ipynb", {}, Terminal(False))
    (cell,) = nbformat.read(tmp_path / "out" / "n.ipynb", as_version=4).cells
    assert cell.outputs[0].text.strip() == sys.executable
    assert not foreign_kernel.exists()


def test_the_doctor_notices_it(tmp_path, foreign_kernel):
    from kdkit.machine.doctor import notebook_kernel

    finding = notebook_kernel()
    assert finding.state == "note" and len(finding.text.splitlines()) == 1
    assert f"is {tmp_path / 'elsewhere/bin/python'}, not {sys.executable}" in finding.text
    assert not foreign_kernel.exists()


def test_the_doctor_takes_its_own_kernel_for_its_own(tmp_path, monkeypatch):
    from kdkit.machine.doctor import notebook_kernel

    for name in ("JUPYTER_PATH", "JUPYTER_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    assert notebook_kernel().state == "ok"


def test_every_setting_of_the_notebooks_is_known_and_as_they_come_none_is_set(tmp_path):
    from papermill import inspect_notebook

    # of the quickstart it is its second run's, which no command makes
    paths = [path for path in (ROOT / "notebooks").glob("*.ipynb") if not path.stem.startswith("00")]
    found = {
        name for path in paths for name, value in inspect_notebook(str(path)).items() if value["default"] == "None"
    }
    assert found == set(SETTINGS)
    assert [set_by_hand(path) for path in paths] == [{}] * 9
