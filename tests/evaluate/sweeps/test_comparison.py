"""The figures of a sweep and its report, from trials made by hand."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kdkit.evaluate.language import paired_interval
from kdkit.evaluate.significance import paired_t_test
from kdkit.evaluate.sweeps.comparison import Trial, compare_variants
from kdkit.report.sweeps.page import write_sweep_report
from kdkit.report.sweeps.tables import difference_table, level_table
from kdkit.report.sweeps.words import against_reference, conclusion, cost_sentence, unseen_sentence
from kdkit.runs.folder import Run
from kdkit.training.score import Score

ROOT = Path(__file__).resolve().parents[3]
LEVELS = [2.2, 2.1, 2.0]
GAINS = {
    "reference": [0.0, 0.0, 0.0],
    "clear": [0.030, 0.031, 0.032],
    "noisy": [0.030, -0.031, 0.032],
    "harmful": [-0.100, -0.101, -0.102],
    "no effect": [0.0, 0.0, 0.0],
    "close": [0.030, 0.040, 0.060],
    "partial": [0.030, None, 0.031],
    "once": [None, 0.02, None],
    "never": [None, None, None],
}


def make_trial(level, gain, windows=8):
    """Return a trial whose windows gain unequally, and together what they should."""
    nats = [100 * 0.6931 * (level - gain * (0.5 + i / (windows - 1))) for i in range(windows)]
    return Trial(1.5, 2.5, level - gain, 10.0, 500, nats, [100] * windows)


@pytest.fixture
def summary():
    """Summarise the trials above as `sweep.json` does."""
    trials = {
        (name, seed): None if gain is None else make_trial(LEVELS[seed], gain)
        for seed in range(3)
        for name, gain in ((name, gains[seed]) for name, gains in GAINS.items())
    }
    facts = {"name": "few", "command": "python -m kdkit sweep few.yaml", "config": "base.yaml", "environment": {}}
    found = facts | compare_variants(trials, "reference")
    for entry in found["variants"]:
        entry |= {"settings": {"router.kind": "<b>|"}, "folder": entry["name"]}
    return json.loads(json.dumps(found))  # as a file would hold it


@pytest.fixture
def entry(summary):
    """Return a variant's entry by its name."""
    return {entry["name"]: entry for entry in summary["variants"]}.__getitem__


def test_a_difference_is_above_0_where_the_variant_needs_fewer_bits(entry):
    assert entry("clear")["difference"]["per_seed"] == pytest.approx(GAINS["clear"])
    assert entry("harmful")["difference"]["mean"] == pytest.approx(-0.101)
    assert entry("reference")["difference"] is None


def test_means_and_spread_are_those_of_the_seeds(entry):
    assert entry("reference")["mean"] == pytest.approx(2.1) and entry("reference")["spread"] == pytest.approx(0.1)
    assert entry("reference")["mean_gap_closed"] == pytest.approx((0.3 + 0.4 + 0.5) / 3)
    assert entry("never")["mean"] is None and entry("never")["mean_seconds"] is None


def test_no_mean_share_is_told_of_a_gap_that_seeds_explain():
    gaps = [0.01, -0.02, 0.03]  # the share of the first seed would be 40
    trials = {("a", seed): Trial(2.5 - gap, 2.5, 2.1, 10.0, 500, [100.0], [100]) for seed, gap in enumerate(gaps)}
    (entry,) = compare_variants(trials, "a")["variants"]
    assert entry["gap_closed"][0] == pytest.approx(40) and entry["mean_gap_closed"] is None
    assert entry["gap_closed_interval_95"] is None


def test_the_test_is_paired_by_seed(entry):
    difference, expected = entry("noisy")["difference"], paired_t_test(GAINS["noisy"])
    assert difference["t"] == pytest.approx(expected.t) and difference["p"] == pytest.approx(expected.p)
    assert difference["interval_95"] == pytest.approx(expected.interval)
    partial = entry("partial")["difference"]
    assert partial["num_pairs"] == 2 and partial["mean"] == pytest.approx(0.0305)
    assert partial["p"] == pytest.approx(paired_t_test([0.030, 0.031]).p)


def test_p_is_corrected_for_the_comparisons_that_were_tested(summary, entry):
    assert summary["num_comparisons"] == 6  # without the reference, one seed only, and none
    smallest = min((e["difference"] for e in summary["variants"] if e["difference"]), key=lambda d: d["p"] or 1)
    assert smallest["p_corrected"] == pytest.approx(6 * smallest["p"])
    assert entry("once")["difference"]["p_corrected"] is None


def test_the_interval_over_text_pools_the_windows_of_all_seeds(entry):
    pairs = [(make_trial(LEVELS[i], 0.0), make_trial(LEVELS[i], GAINS["clear"][i])) for i in range(3)]
    first, second = (
        Score(
            np.concatenate([pair[side].window_nats for pair in pairs]),
            np.concatenate([pair[side].window_bytes for pair in pairs]),
            0,
        )
        for side in (0, 1)
    )
    low, high = entry("clear")["difference"]["interval_95_over_text"]
    assert (low, high) == paired_interval(first, second, seed=0) and low < 0.031 < high


def test_variants_that_read_other_windows_have_no_interval_over_text():
    trials = {("a", 0): make_trial(2.0, 0.0), ("b", 0): make_trial(2.0, 0.1, windows=7)}
    difference = compare_variants(trials, "a")["variants"][1]["difference"]
    assert difference["interval_95_over_text"] is None and difference["mean"] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("reference", r"^The reference\.$"),
        ("clear", r"^Better: \+0\.031 bits per byte \(\+0\.029 to \+0\.033\), better on every seed\.$"),
        ("harmful", r"^Worse: -0\.101 .*, worse on every seed\.$"),
        ("noisy", r"^Not distinguishable: .*, better on 2 of 3 seeds\.$"),
        (
            "close",
            r"^Not distinguishable: .* better on every seed; alone it would count, but not among 6 comparisons\.$",
        ),
        ("no effect", "^The same figures as the reference on every seed"),
        ("partial", r"Only 2 of 3 seeds are trained\.$"),
        (
            "once",
            r"^0\.020 better than the reference on one seed \(\+0\.\d+ to .* over the held-out documents\)",
        ),
        ("never", r"^Not trained\.$"),
    ],
)
def test_the_verdict_says_what_the_corrected_test_says(summary, entry, name, words):
    assert re.search(words, against_reference(entry(name), summary))


def test_it_is_said_how_large_a_difference_stays_unseen_and_when_seconds_say_nothing(summary):
    assert "With 3 seeds, mean differences below 0.002 to 0." in unseen_sentence(summary)
    assert "cheaper is not shown" in cost_sentence(summary)  # ten seconds each
    next(entry for entry in summary["variants"] if entry["name"] == "clear")["seconds"] = [50.0, 51.0, 50.0]
    assert cost_sentence(summary) == ""


def test_the_conclusion_names_who_is_better_and_worse(summary):
    assert re.search(
        r"Better: clear.*\. Worse: harmful\. Not distinguishable: noisy; no effect; close.*"
        r"The best mean difference is \+0\.043 \(close, which is not distinguishable\)\.",
        conclusion(summary),
    )


def test_a_sweep_of_one_seed_concludes_nothing():
    trials = {("a", 0): make_trial(2.0, 0.0), ("b", 0): make_trial(2.0, 0.5)}
    assert conclusion(compare_variants(trials, "a")).startswith("Nothing can be concluded yet")


def test_the_tables_have_a_column_per_seed_and_a_dash_where_nothing_was_trained(summary):
    headings, rows = level_table(summary)
    levels = {name: cells for name, *cells in rows}
    assert headings[1:4] == ["seed 0", "seed 1", "seed 2"] and all(len(row) == len(headings) for row in rows)
    assert levels["partial"][:3] == ["2.170", "-", "1.969"] and levels["never"] == ["-"] * 7
    assert levels["baseline: no teacher, equal steps"][:4] == ["2.500"] * 4
    headings, rows = difference_table(summary)
    assert all(len(row) == len(headings) for row in rows)
    assert {row[0] for row in rows} == GAINS.keys() - {"reference", "never"}
    assert "p, corrected for 6" in headings


def test_a_sweep_of_few_steps_gets_no_verdict(summary):
    for of_variant in summary["variants"]:
        of_variant["steps"] = 12
    clear = next(of_variant for of_variant in summary["variants"] if of_variant["name"] == "clear")
    assert against_reference(clear, summary).startswith("Too short to tell: 12 steps are fewer")
    assert conclusion(summary).startswith("Too short to tell which variant is better: 12 steps")


def test_the_page_needs_no_other_file_and_escapes_what_users_write(summary, tmp_path):
    folder = Run(tmp_path, tmp_path)
    folder.write_json("sweep.json", summary)
    page = write_sweep_report(folder).read_text()
    assert re.findall(r"\bsrc=\"(.{22})", page) == ["data:image/png;base64,"] * 2
    assert "<b>" not in page and "&lt;b&gt;" in page
    markdown = (tmp_path / "report.md").read_text()
    assert "![one dot per seed](variants.png)" in markdown and (tmp_path / "variants.png").stat().st_size > 10_000
    assert "<b>" not in markdown and conclusion(summary) in markdown


def test_the_report_of_a_sweep_loads_no_torch():
    code = "import sys, kdkit.report.sweeps.page; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
