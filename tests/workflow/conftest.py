"""Fixtures of the tests of what runs the notebooks."""

import pytest

from tests.workflow.projects import ROOT, make_project


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Make a project and go there."""
    folder = make_project(tmp_path / "project")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return folder
