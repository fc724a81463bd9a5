"""What a notebook shows lies inside the notebook, with text on the left."""

import base64
import re

import nbformat
from nbclient import NotebookClient

from kdkit.report.display import show_facts, show_report, show_table, show_verdict
from tests.tiny import make_run


def sides(html):
    """Return the alignment of every cell by its text."""
    return {text: side for side, text in re.findall(r"text-align:(\w+);[^>]*>([^<]*)<", html)}


def test_text_stands_left_and_numbers_right_in_every_cell():
    table = (
        ["model", "bits", "interval", "note"],
        [["student", "1,234.5", "-0.1 to +0.2", "3 words"], ["teacher", "-", "-", "7"]],
    )
    seen = sides(show_table(table).data)
    assert seen["student"] == seen["model"] == seen["3 words"] == seen["note"] == "left"
    assert seen["1,234.5"] == seen["bits"] == seen["-0.1 to +0.2"] == "right"
    assert "<style" not in show_table(table).data  # Kaggle and GitHub remove it


def test_what_a_corpus_says_is_escaped():
    assert "<img" not in show_table((["a"], [["<img src=x>"]])).data
    assert "<b>" not in show_verdict("<b>").data


def test_a_report_carries_its_pictures(tmp_path):
    run = make_run(tmp_path)
    (run.path / "figures").mkdir(parents=True)
    (run.path / "figures" / "one.png").write_bytes(b"picture")
    (run.path / "report.md").write_text("# Title\n\n![One](figures/one.png)\n")
    shown = show_report(run).data
    assert base64.b64encode(b"picture").decode() in shown and "](figures/" not in shown and str(tmp_path) not in shown


def test_an_error_is_one_block_in_a_notebook():
    message = "distill.temperature: expected a number, got 'hot'; run it again: python -m kdkit run a.yaml --name b"
    cell = nbformat.v4.new_code_cell(f"from kdkit.errors import UserError\nraise UserError({message!r})")
    notebook = nbformat.v4.new_notebook(cells=[cell])
    NotebookClient(notebook, kernel_name="python3", allow_errors=True, timeout=60).execute()
    error = cell.outputs[0]
    assert error.ename == "UserError" and error.evalue == message
    assert error.traceback == [
        "distill.temperature: expected a number, got 'hot'",
        "run it again:",
        "    python -m kdkit run a.yaml --name b",
    ]


def test_facts_are_shown_with_readable_numbers():
    shown = show_facts({"num_bytes": 1234567, "share": 0.123456, "same": True, "long": [1, 2]}).data
    for cell in ("num bytes", "1,234,567", "0.1235", "True"):
        assert f">{cell}</td>" in shown
    assert "long" not in shown
