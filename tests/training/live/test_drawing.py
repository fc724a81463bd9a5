"""The charts of the dashboard."""

import re
from xml.etree import ElementTree

from kdkit.training.live.drawing import (
    LEFT,
    MAX_POINTS,
    RIGHT,
    WIDTH,
    Chart,
    Head,
    Line,
    choose_evenly,
    draw_charts,
    draw_head,
    page,
)


def draw(lines, total=100, **options):
    return draw_charts([Chart("Loss", lines, **options)], None, total)


def places(text):
    """Return the corners of the first line, `[(x, y), ...]`."""
    return [tuple(map(float, pair.split(","))) for pair in re.search('points="([^"]+)"', text)[1].split()]


def test_a_line_runs_from_left_to_right_and_higher_values_stand_higher():
    corners = places(draw([Line("a", [(0, 1.0), (50, 3.0), (100, 2.0)], "red")]))
    assert [x for x, _ in corners] == [LEFT, (LEFT + WIDTH - RIGHT) / 2, WIDTH - RIGHT]
    heights = [y for _, y in corners]
    assert heights[1] < heights[2] < heights[0]


def test_the_axis_ends_where_the_training_does():
    assert (
        places(draw([Line("a", [(0, 1.0), (50, 3.0)], "red")], total=200))[-1][0] == LEFT + (WIDTH - LEFT - RIGHT) / 4
    )


def test_a_level_is_within_the_chart():
    text = draw([Line("a", [(0, 3.0), (100, 2.0)], "red")], level=Line("teacher", [(0, 0.5)], "grey"))
    level = float(re.search(r' ([\d.]+)H\d+" stroke="grey"', text)[1])
    assert max(y for _, y in places(text)) < level < 114


def test_ticks_have_the_digits_that_tell_them_apart():
    for low, high in ((2.931, 2.936), (0.0, 0.01), (0.0, 12_000.0), (1e-9, 2e-9), (3.0, 3.0)):
        labels = re.findall(r'text-anchor="end">([^<]+)<', draw([Line("a", [(0, low), (10, high)], "red")], total=10))
        assert len(labels) == len(set(labels)) >= 3 and max(map(len, labels)) <= 8, labels


def test_an_axis_from_zero_shows_what_hardly_changes_as_such():
    points = [(0, 99.0), (100, 100.0)]
    (_, first), (_, last) = places(draw([Line("a", points, "red")], from_zero=True))
    (_, other), (_, end) = places(draw([Line("a", points, "red")]))
    assert 0 < first - last < 2 and other - end > 90


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
