"""Two processes (gloo) that a cell of a rendered notebook 06 starts train the student that one process trains."""

import contextlib

import nbformat
import numpy as np
import pytest

from kdkit.embeddings.models.embedder import encode, load_embedding_model
from kdkit.runs.folder import Run
from kdkit.workflow.kaggle.render import render
from kdkit.workflow.kaggle.source import Kernel, Source
from kdkit.workflow.notebook import run_notebook
from kdkit.workflow.terminal import Terminal
from tests.embedders import save_teacher, write_sentences
from tests.workflow.projects import ROOT

NAME = "06_embedding_distillation"
CONFIG = "configs/embedding_smoke.yaml"


def settings(folder, batch_size):
    """Change the smoke run into a smaller one whose teacher is made here."""
    return [
        "method=cosine",
        "compare=[]",
        f"data.path={folder / 'plain.csv'}",
        f"teacher.path={folder / 'teacher'}",
        f"cache_dir={folder / 'cache'}",
        "student={path: build, build: {hidden_size: 16, num_layers: 2}}",
        f"train={{batch_size: {batch_size}, max_steps: 4, warmup_steps: 0, log_every: 1, dropout: never}}",
    ]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Run the notebook with one process and with two; return the runs and the notebooks."""
    folder = tmp_path_factory.mktemp("launch")
    save_teacher(folder / "teacher")
    write_sentences(folder / "plain.csv", 80)
    found = {}
    for num_processes in (1, 2):
        name = f"of-{num_processes}"
        kernel = Kernel(
            config=CONFIG, overrides=settings(folder, 8 // num_processes), run=name, num_processes=num_processes
        )
        render(Source(owner="me", notebooks={NAME: kernel}), folder / name)
        output = folder / name / "executed.ipynb"
        with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", str(ROOT))
            run_notebook(folder / name / NAME / f"{NAME}.ipynb", output, {}, Terminal(False))
        found[num_processes] = Run(folder / "runs" / name, folder / "cache"), nbformat.read(output, as_version=4)
    return found


def losses(run):
    """Return what was logged of every step."""
    return [line["loss"] for line in run.read_metrics() if "loss" in line]


def test_two_processes_train_what_one_does(trained):
    (one, _), (two, _) = trained[1], trained[2]
    assert len(losses(one)) == 4
    assert losses(two) == pytest.approx(losses(one), rel=1e-5, abs=1e-5)
    vectors = [
        encode(load_embedding_model(str(run.path / "student"), "student.path"), ["the cat sat", "a dog ran then"], 2)
        for run in (one, two)
    ]
    np.testing.assert_allclose(vectors[1], vectors[0], rtol=0, atol=1e-4)


def test_the_cells_below_find_it_trained(trained):
    run, notebook = trained[2]
    printed = "".join(o.text for c in notebook.cells for o in c.get("outputs", []) if o.output_type == "stream")
    assert "Launching training on 2" in printed and "trained before, kept" in printed
    assert (run.path / "report.html").is_file()
    assert "trained before" not in str(trained[1][1].cells)
