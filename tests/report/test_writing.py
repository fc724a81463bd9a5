"""How values are written: the best of a row, dates, plain text in Markdown, no folders of this machine."""

import re
from pathlib import Path

import pytest
import yaml
from markdown_it import MarkdownIt

from kdkit.report.page import write_report
from kdkit.report.tables import to_html, to_markdown
from kdkit.report.writing import (
    HIGHER,
    LOWER,
    Best,
    hide_folders,
    machine_folders,
    mark_best,
    plain_markdown,
    write_date,
)
from kdkit.runs.disk import write_text
from tests.report.test_page import make_run

MARKUP = [
    "[a link](https://example.org) and ![a picture](x.png)",
    "a | b || c",
    "`code` and ``more` code",
    "<script>alert(1)</script> <b>bold</b> <!-- a comment",
    "<https://example.org>",
    "*emphasis* __strong__ ~~struck~~ _x_",
    "# a heading",
    "- a list",
    "1. a list",
    "---",
    "> a quotation",
    "&lt;b&gt; &amp;",
    r"a \* b \\ c",
    "two  spaces\n\nand lines",
]
"""Corpora and models write such things."""


def inline_tokens(markdown):
    """Return the kinds of all that a Markdown text is read as, and the text that a reader sees."""
    reader = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    inside = [child for token in reader.parse(markdown) for child in token.children or []]
    kinds = {token.type for token in reader.parse(markdown)} | {token.type for token in inside}
    return kinds, "".join(child.content for child in inside)


@pytest.mark.parametrize("text", MARKUP)
def test_text_of_a_corpus_reads_as_it_is_in_a_paragraph(text):
    kinds, shown = inline_tokens(plain_markdown(text))
    assert kinds == {"paragraph_open", "paragraph_close", "inline", "text"} | (kinds & {"text_special"})
    assert shown == " ".join(text.split())


@pytest.mark.parametrize("text", MARKUP)
def test_text_of_a_corpus_stays_in_its_cell(text):
    kinds, shown = inline_tokens(to_markdown((["one", "two"], [[text, "next"], ["x", "y"]])))
    assert not {"link_open", "image", "html_inline", "html_block", "code_inline", "em_open", "strong_open"} & kinds
    assert shown == f"onetwo{' '.join(text.split())}nextxy"


@pytest.mark.parametrize("address", ["https://example.org", "www.example.org", "ftp://a.b"])
def test_an_address_is_broken_for_readers_that_link_by_themselves(address):
    assert address not in plain_markdown(f"see {address}")
    assert inline_tokens(plain_markdown(f"see {address}"))[1] == f"see {address}"


def test_the_best_of_the_competing_is_marked_and_bold():
    cells = mark_best(["1.0", "2.0", "3.0"], [1.0, 2.0, 3.0], LOWER, [False, True, True])
    assert [isinstance(cell, Best) for cell in cells] == [False, True, False]
    assert "<td><strong>2.0</strong></td><td>3.0</td>" in to_html((["a", "b", "c"], [cells]))
    assert "| 1.0 | **2.0** | 3.0 |" in to_markdown((["a", "b", "c"], [cells]))


@pytest.mark.parametrize(
    ("values", "good", "marked"),
    [
        ([1.0, 2.0], HIGHER, [False, True]),
        ([2.0, 2.0], HIGHER, [False, False]),
        ([2.0, None], LOWER, [False, False]),
        ([3.0, 2.0, 2.0], LOWER, [False, True, True]),
    ],
)
def test_only_a_difference_that_can_be_read_is_marked(values, good, marked):
    cells = ["-" if value is None else f"{value:.1f}" for value in values]
    best = mark_best(cells, values, good, [True] * len(cells))
    assert [isinstance(cell, Best) for cell in best] == marked and best == cells


def test_a_hostile_best_cell_is_escaped():
    assert "<strong>&lt;b&gt;</strong>" in to_html((["a"], [[Best("<b>")]]))


def test_a_date_is_written_for_a_person():
    assert write_date("2026-11-28T14:05:09Z") == "28 November 2026, 14:05 UTC"
    assert write_date("2026-11-28T15:05:09+01:00") == "28 November 2026, 14:05 UTC"
    assert write_date("yesterday") == "yesterday"


def test_folders_of_the_machine_are_hidden_wherever_they_stand():
    settings = {"teacher": {"path": "/home/me/models/gpt2"}, "data": {"paths": ["/mnt/texts/a.txt"]}, "cache_dir": "x"}
    folders = machine_folders(settings, Path("/srv/runs/demo"))
    texts = {
        "/home/me/models/gpt2": "\u2026/gpt2",
        "read /mnt/texts/a.txt, then rest": "read \u2026/a.txt, then rest",
        "/srv/runs/demo/student": "\u2026/student",
        "/srv/runs": "\u2026",
        str(Path.home() / "notes"): "\u2026/notes",
        "/srv/runs-of-others": "/srv/runs-of-others",
        "/usr/lib/python3": "/usr/lib/python3",
    }
    assert hide_folders(list(texts), folders) == list(texts.values())
    hidden = hide_folders({"a": [("/srv/runs/x", 1, None)], "b": Best("/srv/runs/x")}, folders)
    assert hidden == {"a": [("\u2026/x", 1, None)], "b": "\u2026/x"} and isinstance(hidden["b"], Best)


def test_no_file_of_a_report_names_a_folder_of_the_machine(tmp_path):
    run = make_run(tmp_path)
    values = yaml.safe_load((run.path / "config.yaml").read_text())
    values |= {"cache_dir": str(tmp_path / "cache")}
    values["data"]["path"] = "/home/someone/secret/corpus.txt"
    values["teacher"]["path"] = str(tmp_path / "models" / "big")
    write_text(run.path / "config.yaml", yaml.safe_dump(values))
    manifest = run.read_json("data/manifest.json")
    run.write_json("data/manifest.json", manifest | {"corpus": manifest["corpus"] | {"source": values["data"]["path"]}})
    write_report(run)
    for name in ("report.html", "report.md", "student/README.md"):
        text = (run.path / name).read_text()
        assert "corpus.txt" in text
        assert "someone" not in text and str(tmp_path) not in text and str(Path.cwd()) not in text


def test_the_report_opens_with_date_and_recipe(tmp_path):
    run = make_run(tmp_path)
    run.write_json("training.json", {"loss": {"name": "projected_kl", "reason": "the tokenizers differ"}})
    page = write_report(run).read_text()
    assert "1 January 2026, 00:00 UTC" in page and "2026-01-01T" not in page.partition("How to repeat it")[0]
    facts = dict(re.findall(r"<span>([\w ]+) <strong>(.*?)</strong>", page))
    expected = {"loss": "projected_kl (chosen by auto)", "temperature": "1", "kd_ratio": "0.5"}
    assert facts == expected | {"steps": "100", "seed": "0"}
    assert "loss **projected\\_kl (chosen by auto)**" in (run.path / "report.md").read_text()
