"""Tables and pictures of confidence, places and writing: what stands in them is what was measured."""

import json

import pytest

from kdkit.report.measures.figures import draw_calibration, draw_places
from kdkit.report.measures.harness import harness_table
from kdkit.report.measures.tables import (
    contexts_table,
    contexts_words,
    diversity_table,
    measure_tables,
    places_table,
    sure_table,
)
from kdkit.report.writing import Best

NAMES = ("teacher", "student", "baseline")


def level(value: float, key: str) -> dict:
    return {key: value, f"{key}_interval_95": [value - 0.1, value + 0.1]}


def calibrated(error: float) -> dict:
    bins = [
        {"share": 0.5, "confidence": x, "accuracy": x - error, "accuracy_interval_95": [0.0, 1.0]} for x in (0.2, 0.8)
    ]
    return (
        {"bins": bins} | level(0.5, "accuracy") | level(0.5, "confidence") | level(error, "ece") | level(0.9, "brier")
    )


@pytest.fixture
def evaluation():
    """What notebook 04 writes, as far as these tables read it."""
    entries = {name: level(2.0 + i, "bits_per_byte") | level(8.0, "perplexity") for i, name in enumerate(NAMES)}
    kept = {"top_k": 5, "attention_similarity": None}
    for key in ("kl_to_teacher", "top_k_overlap", "top_1_agreement"):
        kept |= level(0.5, key)
    place = {name: {"bits_per_byte": 2.0 + i, "interval_95": [1.5, 4.5]} for i, name in enumerate(NAMES)}
    for name in NAMES[1:]:
        place[name] |= level(0.5, "kl_to_teacher") | level(0.25, "top_1_agreement")
    row = {"bin": "1 to 9", "share": 0.25, "models": place, "gap_closed": 0.5, "gap_closed_interval_95": [0.4, 0.6]}
    ways = {
        way: level(2.5, "bits_per_byte") | level(9.0, "perplexity") for way in ("in_windows", "sliding", "by_document")
    }
    sides = {"length": {"student": 24, "teacher": 48}, "stride": {"student": 8, "teacher": 16}}
    measures = ("distinct_1", "distinct_2", "distinct_3", "entropy_2", "self_bleu", "copied_run", "copied_share")
    writers = {n: {key: {"value": 0.5, "interval_95": None} for key in measures} for n in ("people", "student")}
    return {
        "models": entries,
        "retention": {"student": kept, "baseline": kept | level(0.9, "kl_to_teacher")},
        "calibration": {name: calibrated(0.03 + 0.01 * i) for i, name in enumerate(NAMES)},
        "places": {"frequency": [row, row | {"bin": "10", "gap_closed_interval_95": None}]},
        "contexts": {"bytes": 4_400, "documents": 1, "models": dict.fromkeys(NAMES, ways), **sides},
        "diversity": {"num_prompts": 3, "words": 14, "writers": writers},
    }


def test_every_figure_of_quality_has_its_interval_and_the_best_student_is_bold(evaluation):
    headings, rows = sure_table(evaluation)
    cells = {row[0]: row[1:] for row in rows}
    assert headings[1:] == ["teacher", "student (distilled)", "baseline, equal steps"]
    assert cells["bits per byte \u2193"] == [
        "2.000 (1.900 to 2.100)",
        "3.000 (2.900 to 3.100)",
        "4.000 (3.900 to 4.100)",
    ]
    assert [isinstance(cell, Best) for cell in cells["bits per byte \u2193"]] == [False, True, False]
    assert cells["KL to the teacher, nats \u2193"][0] == "-" and cells["attention like the teacher's \u2191"][1] == "-"
    assert cells["calibration error \u2193"][2] == "5.00% (-5.00% to 15.00%)"


def test_places_contexts_and_writing_stand_in_rows(evaluation):
    headings, rows = places_table(evaluation, "frequency")
    assert len(headings) == len(rows[0]) and [row[0] for row in rows] == ["1 to 9", "10"]
    assert rows[0][1] == "25.0%" and rows[0][5] == "0.50 (0.40 to 0.60)" and rows[0][8] == "25.0% (15.0% to 35.0%)"
    assert rows[1][5] == "level"  # a share of a gap that the choice of the text explains
    headings, rows = contexts_table(evaluation)
    assert headings[0] == "4,400 bytes, 1 document" and len(rows) == 6
    assert "moves on by 8" in contexts_words(evaluation) and "has 16 or more" in contexts_words(evaluation)
    headings, rows = diversity_table(evaluation)
    assert headings == ["3 texts, 14 words of each", "people", "student (distilled)"] and rows[-1][1] == "50.0%"


def test_a_run_of_an_older_build_has_no_such_tables(evaluation, run):
    for key in ("calibration", "places", "contexts", "diversity"):
        del evaluation[key]
    tables = measure_tables(evaluation)
    assert tables["sure"][1] == tables["contexts"][1] == tables["diversity"][1] == tables["places"] == []
    (run.path / "evaluation.json").write_text(json.dumps(evaluation))
    assert draw_calibration(run) is draw_places(run) is None


def test_pictures_show_the_bins_of_each_model(evaluation, run, drawn):
    (run.path / "evaluation.json").write_text(json.dumps(evaluation))
    draw_calibration(run)
    draw_places(run)
    panels = drawn["calibration.png"].axes
    assert [axes.get_title() for axes in panels][1] == "student (distilled): error 4.0%"
    assert panels[0].lines[1].get_ydata().tolist() == pytest.approx([0.17, 0.77])
    (axes,) = drawn["places.png"].axes
    assert [line.get_ydata().tolist() for line in axes.lines] == [[2.0, 2.0], [3.0, 3.0], [4.0, 4.0]]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1-9", "10"]


def test_the_harness_table_marks_the_better_student_and_signs_differences():
    metric = {
        "higher_is_better": True,
        "models": {name: {"value": 0.5 - 0.1 * i, "interval_95": [0.1, 0.9]} for i, name in enumerate(NAMES)},
        "differences": {"baseline": {"value": 0.1, "interval_95": [0.02, 0.18]}},
    }
    entry = {"num_documents": 1_200, "num_fewshot": 5, "reference": "student", "metrics": {"acc,none": metric}}
    _, (teacher, student, baseline) = harness_table({"tasks": {"piqa": entry}})
    assert teacher[:4] == ["piqa", "acc \u2191", "1,200, 5-shot", "teacher"] and student[:3] == ["", "", ""]
    assert student[4] == "0.400 (0.100 to 0.900)" and isinstance(student[4], Best) and not isinstance(baseline[4], Best)
    assert baseline[5] == "+0.100 (+0.020 to +0.180)"
