"""What a model or a text says is shown as it was written: it makes no HTML, no Markdown, and steers no terminal."""

import io
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import ipywidgets
import pytest
import yaml
from markdown_it import MarkdownIt

from kdkit.errors import UserError
from kdkit.maths.checking.steps import StepVerdict
from kdkit.report.display import show_conversation, show_facts, show_table, show_verdict
from kdkit.report.explore import experts
from kdkit.report.maths.solution import SolvedProblem, to_page
from kdkit.report.page import write_report
from kdkit.report.render import TEMPLATES
from kdkit.report.tables import to_html
from kdkit.report.terminal import to_text
from kdkit.report.tokens.words import show_tokens
from kdkit.report.writing import Best
from kdkit.runs.folder import Run
from kdkit.training.live.drawing import Head, draw_head
from kdkit.workflow import generate
from kdkit.workflow.terminal import Terminal

SCRIPT = "</pre></script><script>alert(1)</script><img src=x onerror=alert(2)> & | `a` [b](javascript:alert(3))"
STEERS = "\x1b[2J\x1b]0;title\x07\x9b31m"
"""Clears a terminal, renames its window, and colours what follows."""
HOSTILE = f"{SCRIPT} {STEERS}"
MADE_BY_TEXT = {"script", "img", "iframe", "a", "svg", "object", "style", "link", "form", "input"}
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def elements(page):
    """Return (tag, attributes) of every element of HTML."""
    found = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: found.append((tag, dict(attributes)))
    parser.feed(page)
    return found


def text_of(page):
    """Return what a reader of HTML sees."""
    seen = []
    parser = HTMLParser()
    parser.handle_data = seen.append
    parser.feed(page)
    return "".join(seen)


def is_harmless(page, allowed=frozenset()):
    """Return whether HTML holds no element that only a text could have made, and no control character."""
    made = {tag for tag, _ in elements(page)} & MADE_BY_TEXT
    attributes = {name for _, of_element in elements(page) for name in of_element}
    return made <= allowed and not {name for name in attributes if name.startswith("on")} and not CONTROL.search(page)


@pytest.mark.parametrize(
    "show",
    [
        lambda text: show_table(([text], [[text]])).data,
        lambda text: show_facts({text: text}).data,
        lambda text: show_verdict(text).data,
        lambda text: show_conversation([(text, True), (text, False)]).data,
        lambda text: show_tokens({text: [text.encode()]}).data,
    ],
    ids=["table", "facts", "verdict", "conversation", "tokens"],
)
def test_what_a_notebook_shows_is_text(show):
    page = show(HOSTILE)
    assert is_harmless(page) and "alert(1)" in text_of(page)


def test_the_words_of_the_dashboard_are_text():
    page = draw_head(Head(SCRIPT, SCRIPT, 1, 2, {SCRIPT: SCRIPT}, SCRIPT))
    assert is_harmless(page) and "alert(1)" in text_of(page)


def test_an_error_in_the_explorer_of_experts_is_text(monkeypatch):
    monkeypatch.setattr(experts, "picture_of", lambda facts, shown: None)
    monkeypatch.setattr(experts, "to_png", lambda figure: b"")
    shown = {"tokens": ["a", "b"], "position": 1}

    def refuse(text, place):
        raise UserError(f"text: expected one that the teacher reads, got {text!r}; {HOSTILE}")

    box = experts.explorer({"texts": [HOSTILE, "b"], "shown": shown}, refuse)
    box.children[1].value = "another"
    (message,) = [widget.value for widget in box.children if type(widget) is ipywidgets.HTML]
    assert is_harmless(message) and "alert(1)" in text_of(message)


LATEX = [
    r"\text{<script>alert(1)</script>}",
    r"\text{&lt;script&gt;alert(1)&lt;/script&gt;}",
    r"\textcolor{\"><script>alert(1)</script>}{x}",
    r"\href{javascript:alert(1)}{x}",
    r"\style{background:url(http://a/b)}{x}",
    r"x<y>z",
]


@pytest.mark.parametrize("latex", LATEX)
def test_a_formula_that_a_model_wrote_is_a_formula(latex):
    solved = SolvedProblem(f"${latex}$", [(f"so ${latex}$ {HOSTILE}", StepVerdict.WRONG)], latex, None, None, "student")
    page = to_page([solved], HOSTILE)
    assert is_harmless(page, {"style"}) and not re.search(r"href=|url\(|<script", page)
    shown = solved._repr_markdown_()
    assert is_harmless(MarkdownIt("commonmark", {"html": True}).render(shown)) and not CONTROL.search(shown)
    assert not CONTROL.search(solved.to_text())


def test_formulas_are_still_set():
    solved = SolvedProblem(r"$\frac{1}{2} < \text{one}$", [], "1", None, None, "student")
    assert "<mfrac>" in solved.to_html() and "<mo>&lt;</mo>" in solved.to_html() and "one" in text_of(solved.to_html())
    assert r"\frac{1}{2} \lt  \text{one}" in solved._repr_markdown_()


@pytest.fixture
def reported(tmp_path):
    """The report of an old run whose texts, names and settings are hostile."""
    shutil.copytree(Path(__file__).parent / "old" / "smoke", tmp_path / "runs" / "smoke")
    run = Run(tmp_path / "runs" / "smoke", tmp_path / "cache")
    evaluation, manifest = run.read_json("evaluation.json"), run.read_json("data/manifest.json")
    for entry in evaluation["continuations"]:
        entry |= dict.fromkeys(entry, HOSTILE)
    evaluation["models"]["teacher"]["architecture"] = HOSTILE
    manifest["corpus"]["source"] = HOSTILE
    run.write_json("evaluation.json", evaluation)
    run.write_json("data/manifest.json", manifest)
    config = yaml.safe_load((run.path / "config.yaml").read_text())
    config["report"]["title"] = config["teacher"]["path"] = HOSTILE
    (run.path / "config.yaml").write_text(yaml.safe_dump(config))
    write_report(run)
    return run


def test_the_report_and_the_card_hold_text_alone(reported):
    page = (reported.path / "report.html").read_text()
    made = [(tag, of) for tag, of in elements(page) if tag in MADE_BY_TEXT - {"style"}]
    pictures, links = ([of for tag, of in made if tag == wanted] for wanted in ("img", "a"))
    assert len(made) == len(pictures) + len(links)
    assert all(of["src"].startswith("data:image/png;base64,") for of in pictures)
    assert all(re.match(r"#[a-z0-9-]+$|https://arxiv\.org/abs/[\d.]+$", of["href"]) for of in links)
    assert not CONTROL.search(page) and text_of(page).count("alert(1)") > 4
    for name in ("report.md", "student/README.md"):
        text = (reported.path / name).read_text()
        shown = MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
        pictures = [of["src"] for tag, of in elements(shown) if tag == "img"]
        assert all(source.startswith("figures/") for source in pictures), pictures
        assert not {tag for tag, _ in elements(shown)} & (MADE_BY_TEXT - {"img"}), name
        assert not CONTROL.search(text) and "alert(1)" in text_of(shown), name


@pytest.mark.parametrize("template", sorted(TEMPLATES.rglob("*.html.j2")), ids=lambda path: path.name)
def test_a_page_escapes_all_but_tables_which_escape_themselves(template):
    expressions = re.findall(r"{{(.*?)}}", template.read_text(encoding="utf-8"))
    assert [each for each in expressions if "safe" in each and not each.endswith("| table_html | safe ")] == []
    assert "autoescape false" not in template.read_text(encoding="utf-8")
    assert is_harmless(to_html(([HOSTILE], [[HOSTILE], [Best(HOSTILE)]])))


def test_a_terminal_is_not_steered(capsys):
    stream = io.StringIO()
    Terminal(stream=stream).say(f"student: {HOSTILE}")
    generate._say(f"a\tb\n{HOSTILE}")
    table = to_text((["", "text"], [["a", HOSTILE]]))
    printed = capsys.readouterr().out
    assert not CONTROL.search(stream.getvalue() + printed + table)
    assert printed.startswith("a\tb\n") and "\u241b[2J" in printed and "\u241b[2J" in table
