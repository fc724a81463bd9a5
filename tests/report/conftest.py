"""Runs without pictures, and pictures without pixels."""

import pytest
from matplotlib.figure import Figure

from kdkit.runs.folder import Run


@pytest.fixture
def drawn(monkeypatch):
    """Keep the figures that are saved instead of rendering them, by file name."""
    figures = {}

    def keep(self, path, dpi, format="png"):
        name = getattr(path, "name", "").removeprefix(".")  # it is written beside its place first
        figures[name and name.partition(".png")[0] + ".png"] = self
        if hasattr(path, "write_bytes"):
            path.write_bytes(b"not rendered")

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


@pytest.fixture
def run(tmp_path):
    """Make an empty run."""
    (tmp_path / "run").mkdir()
    return Run(tmp_path / "run", tmp_path / "cache")
