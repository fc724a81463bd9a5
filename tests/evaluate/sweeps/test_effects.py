"""Effects of a grid's settings, from levels made by hand, and what its report says of them."""

import itertools
import json

import pytest

from kdkit.evaluate.significance import paired_t_test
from kdkit.evaluate.sweeps.comparison import Trial, compare_variants
from kdkit.evaluate.sweeps.effects import add_effects
from kdkit.report.sweeps.figures import pareto_front
from kdkit.report.sweeps.page import write_sweep_report
from kdkit.report.sweeps.tables import effects_table
from kdkit.report.sweeps.words import effect_sentences
from kdkit.runs.folder import Run

TEMPERATURES, LOSSES = [1, 2], ["jsd", {"name": "alm"}, "tvd"]
NOISE = [0.001, 0.0, -0.002]


def level(temperature, loss, seed):
    """Temperature 2 costs 0.05, a loss of its own gains 0.1, each seed a little more or less; tvd does nothing."""
    return 2.0 + seed - 0.1 * isinstance(loss, dict) + (0.05 + NOISE[seed]) * (temperature == 2)


def make_grid(missing=(), steps=500):
    """Return the figures of a grid of two settings over three seeds."""
    settings = {
        f"t={t} l={i}": {"distill.temperature": t, "distill.loss": loss}
        for t, (i, loss) in itertools.product(TEMPERATURES, enumerate(LOSSES))
    }
    trials = {}
    for (name, values), seed in itertools.product(settings.items(), range(3)):
        bits = level(*values.values(), seed)
        trial = Trial(1.0, 4.0, bits, 10.0, steps, [100 * bits * 0.6931], [100], parameters=10)
        trials[name, seed] = None if (name, seed) in missing else trial
    sweep = compare_variants(trials, "t=1 l=0")
    for entry in sweep["variants"]:
        entry |= {"settings": settings[entry["name"]], "folder": entry["name"]}
    sweep["grid"] = [
        {"key": "distill.temperature", "values": TEMPERATURES, "names": ["1", "2"]},
        {"key": "distill.loss", "values": LOSSES, "names": ["#1", "#2", "#3"]},
    ]
    add_effects(sweep)
    return json.loads(json.dumps(sweep))


def test_an_effect_is_the_mean_over_the_values_of_the_others_in_pairs_of_a_seed():
    temperature, loss = make_grid()["effects"]
    gains = [-0.05 - noise for noise in NOISE]
    assert temperature["reference"] == 0 and temperature["values"][1]["per_seed"] == pytest.approx(gains)
    expected = paired_t_test(gains)
    assert temperature["values"][1]["p"] == pytest.approx(expected.p)
    assert temperature["values"][1]["interval_95"] == pytest.approx(expected.interval)
    assert loss["values"][1]["mean"] == pytest.approx(0.1) and loss["values"][2]["mean"] == pytest.approx(0.0)
    assert temperature["values"][1]["level"] == pytest.approx(3.0 - 0.1 / 3 + 0.05 - 0.001 / 3)


def test_p_is_corrected_for_all_effects_together_and_the_reference_is_no_test():
    sweep = make_grid()
    temperature = sweep["effects"][0]["values"][1]
    assert sweep["num_effects"] == 3 and temperature["p_corrected"] == pytest.approx(
        2 * temperature["p"]
    )  # l=1 is surer
    assert sweep["effects"][0]["values"][0]["p_corrected"] is None


def test_a_seed_without_the_whole_grid_is_left_out_of_an_effect():
    temperature = make_grid(missing={("t=2 l=2", 1)})["effects"][0]["values"][1]
    assert temperature["per_seed"][1] is None and temperature["per_seed"][0] == pytest.approx(-0.051)


def test_the_words_name_values_that_differ_and_settings_that_do_nothing():
    sweep = make_grid()
    first, second = effect_sentences(sweep)
    assert first.startswith("distill.temperature: 2 is worse than 1 by 0.050 bits per byte (0.046 to 0.053)")
    assert second.startswith("distill.loss: #2 is better than #1 by 0.100 bits per byte") and "#3" not in second
    assert effect_sentences(make_grid(steps=12)) == [
        "Too short to tell: 12 steps are fewer than the 50 below which a difference says little."
    ]


def test_the_report_of_a_grid_shows_effects_pairs_and_costs(tmp_path):
    facts = {"name": "grid", "command": "kdkit sweep", "config": "base.yaml", "environment": {}, "processes": 2}
    folder = Run(tmp_path, tmp_path)
    folder.write_json("sweep.json", facts | make_grid())
    page = write_sweep_report(folder).read_text()
    assert page.count("data:image/png;base64,") == 4 and "2 runs at once" in page
    for name in ("variants", "effects", "heat_map", "costs"):
        assert (tmp_path / f"{name}.png").is_file() and f"({name}.png)" in (tmp_path / "report.md").read_text()
    headings, rows = effects_table(make_grid())
    assert [row[3] for row in rows] == ["the reference", "-0.050", "the reference", "+0.100", "+0.000"]
    assert all(len(row) == len(headings) for row in rows)


def test_the_front_holds_what_nothing_beats_in_both():
    points = [(1.0, 3.0), (2.0, 2.0), (3.0, 2.5), (2.0, 2.2), (4.0, 1.0)]
    assert pareto_front(points, higher_is_better=False) == [0, 1, 4]
    assert pareto_front(points, higher_is_better=True) == [0]
