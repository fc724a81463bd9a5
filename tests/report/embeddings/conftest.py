"""A finished run and its page."""

import pytest
from matplotlib.figure import Figure

from kdkit.report.embeddings.page import write_embedding_report
from tests.report.embeddings.finished_runs import make_run


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Make a finished run whose pictures are drawn but, to save seconds, not rendered."""
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **_: path.write_bytes(b"not rendered"))
    return make_run(tmp_path)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Write the page of a run once, with its real pictures."""
    return write_embedding_report(make_run(tmp_path_factory.mktemp("page")))
