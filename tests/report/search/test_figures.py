"""The pictures of a search: a legend that cannot be taken for a trial, and names only what is drawn."""

import pytest

from kdkit.report.search.figures import draw_curves, draw_settings


def make_search(*states):
    """Return a search of one setting whose trials ended so."""
    trials = [
        {"number": i, "state": state, "level": 2.0 + i, "params": {"x": i}, "curve": [[50, 3.0 + i], [100, 2.0 + i]]}
        for i, state in enumerate(states)
    ]
    measure = {"name": "bits per byte", "is_score": False}
    return {"trials": trials, "space": [{"key": "x", "is_log": False}], "measure": measure, "seeds": [0]}


def test_the_dot_of_the_legend_stands_outside_the_picture_of_trials(tmp_path, drawn):
    draw_settings(make_search("complete", "complete"), tmp_path / "settings.png")
    figure = drawn["settings.png"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["best"]
    assert figure.axes[0].get_legend() is None


@pytest.mark.parametrize(
    ("states", "words"),
    [
        (["complete"], ["best"]),
        (["complete", "complete"], ["best", "trained"]),
        (["complete", "pruned"], ["best", "not finished"]),
        (["running"], ["not finished"]),
    ],
)
def test_the_curves_legend_names_what_is_drawn(tmp_path, drawn, states, words):
    draw_curves(make_search(*states), tmp_path / "curves.png")
    legend = drawn["curves.png"].axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == words
