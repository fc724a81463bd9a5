"""The charts of the dashboard."""

import re
from xml.etree import ElementTree

from kdkit.training.live.drawing import MAX_POINTS, Chart, Head, Line, choose_evenly, draw_charts, draw_head, page


def draw(lines, total=100, **options):
    return draw_charts([Chart("Loss", lines, **options)], None, total)


def places(text):
    """Return the corners of the first line, `[(x, y), ...]`."""
    return [tuple(map(float, pair.split(","))) for pair in re.search('points="([^"]+)"', text)[1].split()]


def test_a_line_runs_from_left_to_right_and_higher_values_stand_higher():
    corners = places(draw([Line("a", [(0, 1.0), (50, 3.0), (100, 2.0)], "red")]))
    assert [x for x, _ in corners] == [40.0, 166.0, 292.0]
    heights = [y for _, y in corners]
    assert heights[1] < heights[2] < heights[0]


def test_the_axis_ends_where_the_training_does():
    assert places(draw([Line("a", [(0, 1.0), (50, 3.0)], "red")], total=200))[-1][0] == 40 + 252 / 4


def test_a_level_is_within_the_chart():
    text = draw([Line("a", [(0, 3.0), (100, 2.0)], "red")], level=Line("teacher", [(0, 0.5)], "grey"))
    level = float(re.search(r'M40 ([\d.]+)H292" stroke="grey"', text)[1])
    assert max(y for _, y in places(text)) < level < 114


def test_every_chart_is_well_formed():
    charts = [
        [(0, 1.0)],
        [(0, 2.0), (1, 2.0)],
        [(0, 0.0)],
        [(0, -1.0), (5, 1e9)],
        [(step, 1e-9 * step) for step in range(3 * MAX_POINTS)],
    ]
    for points in charts:
        ElementTree.fromstring(draw([Line("a & b", points, "red")], marks=True))
    ElementTree.fromstring(draw_charts([], [[0.5, 0.5], [1.0, 0.0]], 10))


def test_few_of_many_points_are_drawn_with_the_first_and_the_last():
    points = [(step, float(step % 7)) for step in range(10 * MAX_POINTS)]
    assert len(places(draw([Line("a", points, "red")]))) == MAX_POINTS
    assert choose_evenly(range(100), 4) == [0, 33, 66, 99] and choose_evenly([1, 2], 4) == [1, 2]


def test_names_are_escaped():
    text = page(draw_head(Head("<b>", "x<y", 1, 2, {"<i>": "<u>"}, "<p>")), draw([Line("<s>", [(0, 1.0)], "red")]))
    assert not re.search("<[upsy]>", text) and "&lt;s&gt;" in text and "x&lt;y" in text and "<b>&lt;b&gt;</b>" in text


def test_the_bar_is_as_long_as_the_steps_made():
    assert "width:25.0%" in draw_head(Head("student", "training", 30, 120))
    assert "width:0.0%" in draw_head(Head("student", "training", 0, 0))
