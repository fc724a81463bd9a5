"""The page of an embedding run, its Markdown twin and the card."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
import yaml

from kdkit.errors import UserError
from kdkit.report.embeddings.page import write_embedding_report
from kdkit.report.embeddings.tables import (
    score_table,
)
from kdkit.report.embeddings.words import embedding_verdict

HOSTILE = '<script>alert(1)</script> | **x** & "more"'


def test_the_page_needs_no_other_file(page):
    found = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: found.extend(attributes)
    parser.feed(page.read_text())
    loads = [value for key, value in found if key in ("src", "srcset", "data", "poster", "action")]
    assert len(loads) == 5
    assert all(value.startswith("data:image/png;base64,") for value in loads)


def test_page_markdown_and_card_say_the_verdict(page):
    words = embedding_verdict(json.loads((page.parent / "evaluation.json").read_text()))
    for path in (page, page.parent / "report.md", page.parent / "student" / "README.md"):
        assert words.replace("'", "&#39;") in path.read_text().replace("'", "&#39;")


def test_card_shows_how_to_load_the_student(page):
    card = (page.parent / "student" / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["library_name"] == "sentence-transformers"
    assert 'SentenceTransformer("path/to/this/folder")' in card
    assert "## Licence" in card
    assert "12,345 distinct ones" in card


def test_the_page_shows_the_report_title_as_text(run):
    config = yaml.safe_load((run.path / "config.yaml").read_text())
    config["report"]["title"] = HOSTILE
    (run.path / "config.yaml").write_text(yaml.safe_dump(config))
    text = write_embedding_report(run).read_text()
    assert "<script>" not in text
    assert "&lt;script&gt;" in text


def test_a_hostile_task_name_is_text_on_the_page_and_in_markdown(run):
    text = json.dumps(run.read_json("evaluation.json")).replace("STS-B", json.dumps(HOSTILE)[1:-1])
    run.write_json("evaluation.json", json.loads(text))
    page = write_embedding_report(run)
    assert "<script>" not in page.read_text()
    table = next(line for line in (run.path / "report.md").read_text().splitlines() if line.startswith("|  |"))
    assert "<script>" not in table
    assert len(re.findall(r"(?<!\\)\|", table)) == 1 + len(score_table(run.read_json("evaluation.json"))[0])


def test_a_run_that_was_not_evaluated_is_refused(run):
    (run.path / "evaluation.json").unlink()
    with pytest.raises(UserError, match=r"evaluation\.json"):
        write_embedding_report(run)


def test_importing_the_report_loads_no_torch():
    code = "import sys, kdkit.report.embeddings.page; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_markdown_points_at_pictures_that_exist(page):
    names = re.findall(r"\]\((figures/[^)]+)\)", (page.parent / "report.md").read_text())
    assert len(names) == 5
    assert all((page.parent / name).is_file() for name in names)


def test_an_older_run_of_few_steps_gets_no_verdict(run):
    run.write_json("training.json", {"talas": run.read_json("training.json")["talas"] | {"steps": 6}})
    assert "Too short to tell whether training helped: 6 steps" in write_embedding_report(run).read_text()


def test_the_page_opens_with_the_recipe(page):
    assert "steps <strong>120</strong>" in page.read_text() and "**talas**" in (page.parent / "report.md").read_text()
