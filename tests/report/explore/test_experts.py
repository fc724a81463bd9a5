"""The picture of the experts of a text, and the widgets that choose text and token."""

import pytest

from kdkit.errors import UserError
from kdkit.report.explore import experts as expert_explorer
from kdkit.report.explore.experts import explorer, picture_of, show_experts
from kdkit.report.explore.widgets import problem
from tests.report.test_page import EXPERTS


def texts(axes):
    """Return the words written into a panel."""
    return [text.get_text() for text in axes.texts]


def test_the_experts_of_every_token_are_named_and_the_chosen_token_marked(drawn):
    choices, entropy, signals, *_ = picture_of(EXPERTS, EXPERTS["shown"]).axes
    assert texts(choices) == ["0 1", "3 2", "1 0", "2 0", "2 1", "0 3"]
    labels = choices.get_xticklabels()
    assert [label.get_text() for label in labels] == ["Once", "\u2423$x_1$", "\u23ce"]
    assert [label.get_fontweight() for label in labels] == ["normal", "bold", "normal"]
    assert entropy.images[0].get_array().tolist() == EXPERTS["shown"]["entropy"]
    assert entropy.images[0].get_clim() == (0, 2)
    assert texts(signals) == ["\u2423a  50.0%", "$$  25.0%", "\u2423b  75.0%", "c  12.5%"]
    assert [label.get_text() for label in signals.get_yticklabels()] == ["its own routing", "expert 2"]
    assert "after \u2423$x_1$, where the text goes on with \u23ce" in signals.get_title()


def test_characters_that_the_font_does_not_have_are_written_as_their_number(drawn):
    shown = EXPERTS["shown"] | {"tokens": ["na\u00efve", "\x13", "\u65e5"]}
    labels = picture_of(EXPERTS, shown).axes[0].get_xticklabels()
    assert [label.get_text() for label in labels] == ["na\u00efve", "\\x13", "\\u65e5"]


@pytest.fixture
def asked(drawn):
    """Make the widgets with a teacher that notes what it is asked."""
    calls = []

    def explore(text, position):
        calls.append((text, position))
        if not text:
            raise UserError("write some text")
        return EXPERTS["shown"] | {"position": 1 if position is None else position}

    return calls, explorer(EXPERTS, explore).children


def test_another_text_is_explored_once_at_its_middle(asked):
    calls, (chosen, text, token, _, _) = asked
    assert calls == [] and token.max == 2 and token.value == 1
    chosen.value = "upon"
    assert text.value == "upon" and calls == [("upon", None)]
    text.value = "my own"
    assert calls[1:] == [("my own", None)]


def test_another_token_of_the_same_text_is_explored(asked):
    calls, (_, _, token, _, _) = asked
    token.value = 2
    assert calls == [("Once $x_1$", 2)]


def test_a_text_that_is_refused_is_answered_with_the_reason_and_the_picture_stays(asked):
    _, (_, text, _, message, picture) = asked
    before = picture.value
    text.value = ""
    assert message.value == problem("write some text") and picture.value == before
    text.value = "better"
    assert message.value == ""


def test_widgets_are_for_somebody_who_watches_and_a_picture_for_all_others(run, drawn, monkeypatch):
    run.write_json("teacher/experts.json", EXPERTS)
    monkeypatch.setattr(expert_explorer, "Image", lambda filename, width: filename)
    assert show_experts(run, print) == str(run.path / "figures" / "experts.png")
    monkeypatch.setattr(expert_explorer, "is_watched", lambda: True)
    shown = show_experts(run, print)._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in shown
    assert shown["text/html"].startswith("<img ")  # where a saved notebook is read without widgets
    run.write_json("teacher/experts.json", {"missing": "It is dense."})
    assert show_experts(run, None).data == "It is dense."
