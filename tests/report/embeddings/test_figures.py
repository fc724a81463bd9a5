"""The pictures of an embedding run."""

import pytest
from matplotlib.figure import Figure

from kdkit.config.embeddings import EmbeddingConfig
from kdkit.config.language import dump_config
from kdkit.config.methods import Dskd
from kdkit.report.embeddings.figures import draw_embedding_curves, draw_embedding_losses
from kdkit.runs.disk import write_text
from kdkit.runs.folder import Run
from tests.report.embeddings.finished_runs import TASKS, TRAININGS


def drawn_axes(monkeypatch, draw, run):
    """Draw a picture and return its panels by their titles."""
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **_: (figures.append(self), path.touch()))
    draw(run)
    return {axes.get_title(): axes for axes in figures[0].axes}


def test_curves_have_a_panel_for_the_average_each_task_and_collapse(run, monkeypatch):
    panels = drawn_axes(monkeypatch, draw_embedding_curves, run)
    assert list(panels) == ["average of the tasks", *TASKS, "mean cosine"]
    assert {line.get_label() for line in panels["average of the tasks"].get_lines()} == set(TRAININGS)


def test_curves_of_a_run_that_scored_nothing_are_left_out(tmp_path):
    run = Run(tmp_path, tmp_path)
    run.append_metrics({"phase": "talas", "step": 0, "seconds": 0, "tasks": {}, "mean_off_diagonal_cosine": 0.1})
    assert draw_embedding_curves(run) is None


def test_losses_are_those_of_the_runs_own_method(run, monkeypatch):
    panels = drawn_axes(monkeypatch, draw_embedding_losses, run)
    assert list(panels) == ["weighted sum", "task", "anchor", "structure", "gradient norm"]
    assert panels["task"].get_lines()[0].get_ydata().tolist() == pytest.approx([1.4, 0.8])


def test_a_form_of_a_method_is_found_in_the_metrics(run, monkeypatch):
    write_text(run.path / "config.yaml", dump_config(EmbeddingConfig(method=Dskd(form="seed"))))
    run.append_metrics({"phase": "dskd (seed)", "step": 1, "seconds": 1.0, "loss": 3.0, "grad_norm": 1.0})
    panels = drawn_axes(monkeypatch, draw_embedding_losses, run)
    assert panels["weighted sum"].get_lines()[0].get_ydata().tolist() == [3.0]


def test_a_method_with_a_label_is_found_by_it(run, monkeypatch):
    write_text(run.path / "config.yaml", dump_config(EmbeddingConfig(method=Dskd(label="mine"))))
    run.append_metrics({"phase": "mine", "step": 1, "seconds": 1.0, "loss": 4.0, "grad_norm": 1.0})
    panels = drawn_axes(monkeypatch, draw_embedding_losses, run)
    assert panels["weighted sum"].get_lines()[0].get_ydata().tolist() == [4.0]
