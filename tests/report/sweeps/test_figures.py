"""The pictures of a sweep: what its labels and its legend say."""

import itertools

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from kdkit.evaluate.sweeps.comparison import Trial, compare_variants
from kdkit.report.sweeps.figures import draw_variants


def compared(seeds):
    """Return two variants that differ by thousandths."""
    trials = {
        (name, seed): Trial(1.0, 4.0, 3.0 + seed + place * (0.0005 + 0.0015 * seed), 10.0, 500, [100.0], [100])
        for (place, name), seed in itertools.product(enumerate(("one", "two")), range(seeds))
    }
    sweep = compare_variants(trials, "one")
    for entry in sweep["variants"]:
        entry |= {"settings": {}, "folder": entry["name"]}
    return sweep


def test_labels_of_small_differences_do_not_touch(tmp_path, drawn):
    draw_variants(compared(2), tmp_path / "variants.png")
    figure = drawn["variants.png"]
    FigureCanvasAgg(figure).draw()
    for axes in figure.axes:
        low, high = sorted(axes.get_xlim())
        shown = [label for label in axes.get_xticklabels() if low <= label.get_position()[0] <= high]
        boxes = [label.get_window_extent() for label in shown]
        assert len(boxes) > 2 and all(one.x1 + 4 < two.x0 for one, two in itertools.pairwise(boxes))


@pytest.mark.parametrize("seeds", [1, 2])
def test_the_legend_names_an_interval_where_one_is_drawn(tmp_path, drawn, seeds):
    draw_variants(compared(seeds), tmp_path / "variants.png")
    words = [text.get_text() for text in drawn["variants.png"].legends[0].get_texts()]
    assert ("95 % interval over seeds" in words) == (seeds == 2)
