"""The token explorer of 02 with a tiny teacher: text and token are chosen, and everything written is escaped."""

import re

import pytest

from kdkit.report.explore import tokens as explored
from kdkit.report.explore.tokens import predictions_table, show_next_tokens, tokens_html
from kdkit.teachers.token_probe import probe_tokens
from tests.tiny import make_config, make_data, make_run, make_session, make_teacher

pytestmark = pytest.mark.usefixtures("one_thread")

SCRIPT = "the <script>alert(1)</script> 'fox'"


@pytest.fixture(scope="module")
def probed(tmp_path_factory):
    """A run with a probed teacher, and what explores other texts."""
    folder = tmp_path_factory.mktemp("tokens")
    config = make_config(folder)
    data, run = make_data(config, folder), make_run(folder)
    return run, probe_tokens(make_session(config, run), data, make_teacher(data)).explore


@pytest.fixture
def widgets(probed, monkeypatch):
    """Held-out text, own text, token, message and view, as a person sees them."""
    monkeypatch.setattr(explored, "is_watched", lambda: True)
    return show_next_tokens(*probed).box.children


def words(shown):
    """Return the text of HTML, without its marks."""
    return re.sub("<[^>]+>", "", shown)


def test_the_first_held_out_text_is_shown_to_everybody(probed, widgets, monkeypatch):
    run, explore = probed
    first = tokens_html(run.read_json("teacher/tokens.json")["shown"])
    assert widgets[-1].value == first
    monkeypatch.setattr(explored, "is_watched", lambda: False)
    assert show_next_tokens(run, explore).data == first


def test_a_saved_notebook_holds_the_first_text_beside_the_widgets(probed, monkeypatch):
    monkeypatch.setattr(explored, "is_watched", lambda: True)
    bundle = show_next_tokens(*probed)._repr_mimebundle_()
    assert bundle.keys() == {"application/vnd.jupyter.widget-view+json", "text/html", "text/plain"}
    assert bundle["text/html"] == tokens_html(probed[0].read_json("teacher/tokens.json")["shown"])


def test_another_text_and_another_token_are_read_by_the_teacher(probed, widgets):
    _, explore = probed
    chosen, text, token, message, view = widgets
    chosen.value = chosen.options[1][1]
    assert text.value == chosen.options[1][1]
    assert view.value == tokens_html(explore(text.value))
    token.value = 1
    assert view.value == tokens_html(explore(text.value, 1)) != tokens_html(explore(text.value))
    text.value = "the lazy dog"
    assert token.max == len(explore("the lazy dog")["tokens"]) - 1
    assert "lazy" in words(view.value) and message.value == ""


def test_a_text_that_is_refused_is_answered_in_one_line_and_the_view_stays(widgets):
    _, text, _, message, view = widgets
    before = view.value
    text.value = ""
    assert "expected at least one token" in message.value and view.value == before
    text.value = "the fox"
    assert message.value == ""


def test_typed_text_is_escaped(widgets):
    widgets[1].value = SCRIPT
    assert "<script" not in widgets[-1].value and "&lt;" in widgets[-1].value
    assert "'fox'" not in re.sub(r"title='[^']*'", "", widgets[-1].value)


def test_the_list_and_the_sentence_say_what_the_teacher_expects(probed):
    shown = probed[1]("the quick brown fox", 1)
    headings, rows = predictions_table(shown)
    assert headings[:2] == ["next token", "probability"] and len(rows) == 10
    assert [row[1] for row in rows] == [f"{entry['probability']:.1%}" for entry in shown["predictions"]]
    text = words(tokens_html(shown))
    assert f"{shown['entropy'][1]:.2f} bits of entropy" in text and f"{shown['on_common'][1]:.1%}" in text
    assert f"number {shown['following']['rank']} of the teacher's list" in text.replace("&#x27;", "'")
    assert "The text ends here" in words(tokens_html(probed[1]("the quick", 99)))


def test_spans_that_the_tokenizers_cut_differently_are_yellow(probed):
    shown = probed[1]("the quick brown fox")
    different = [span for span in shown["spans"] if (len(span["student"]), len(span["teacher"])) != (1, 1)]
    drawn = tokens_html(shown)
    assert 0 < len(different) < len(shown["spans"])
    assert drawn.count(explored.DIFFERENT) == sum(len(span["student"]) for span in different)
    assert f"in yellow {len(different)} of {len(shown['spans'])} spans" in drawn
