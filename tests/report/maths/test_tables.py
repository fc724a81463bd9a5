"""Tables, sentences and the picture of solved problems say what the evaluation holds."""

import json

import pytest

from kdkit.report.maths.figures import draw_solving
from kdkit.report.maths.tables import (
    accuracy_table,
    contamination_sentence,
    details_table,
    maths_headline,
    maths_sections,
    selection_table,
    solving_verdict,
    title_of,
)
from kdkit.report.writing import Best
from tests.report.maths.results import maths_results
from tests.tiny import make_run


@pytest.fixture(scope="module")
def found():
    """Return the results of one set."""
    return maths_results()["sets"]["held_out"]


def test_accuracy_stands_by_domain_and_level_and_the_best_student_is_marked(found):
    headings, rows = accuracy_table(found, "held_out")
    assert headings[0].startswith("right answers, held-out numbers") and len(headings) == 5
    assert [row[0] for row in rows] == ["all problems", "algebra", "calculus", "level 1", "level 2"]
    assert [row[1] for row in rows] == ["8", "4", "4", "4", "4"]
    assert rows[0][3].startswith("75.0% (41% to 93%)") and isinstance(rows[0][3], Best)
    assert not isinstance(rows[0][2], Best)  # a teacher does not compete


def test_steps_samples_and_errors_stand_side_by_side(found):
    rows = {row[0]: row[1:] for row in details_table(found)[1]}
    assert rows["checked steps that are right \u2191"] == ["100.0%", "87.5%", "56.2%"]
    assert rows["solutions without a wrong step \u2191"] == ["100.0%", "75.0%", "12.5%"]
    assert rows["solutions that go wrong first at step"] == ["-", "2: 2", "2: 7"]
    assert rows["one sample \u2191"][0].startswith("50.0%") and rows["pass@2 \u2191"][0].startswith("100.0%")
    assert rows["vote of 2 samples \u2191"][1].startswith("100.0%")


def test_without_samples_there_is_no_such_row():
    found = maths_results(num_samples=0)["sets"]["held_out"]
    assert selection_table(found) is None
    assert not [row for row in details_table(found)[1] if "sample" in row[0]]


def test_a_choice_stands_with_its_compute(found):
    headings, rows = selection_table(found)
    assert len(headings) == len(rows[0]) == 6
    named = {(row[0], row[1]): row for row in rows}
    assert named["teacher: greedy", "1"][2] == "4.0" and named["student (distilled): greedy", "1"][2] == "1.0"
    assert named["student (distilled): a vote", "2"][2:5] == ["1.7", "100.0% (68% to 100%)", "+25.0"]


def test_the_verdict_compares_in_pairs_and_at_equal_compute(found):
    text = solving_verdict(found)
    assert "more than the baseline of equal steps (+62.5 points" in text
    assert "no more and no fewer than the teacher (-25.0 points" in text
    assert "At no more compute than one greedy answer of the teacher (100.0% right), 2 sample(s) of the student" in text


def test_the_headline_names_student_twin_and_teacher_with_intervals():
    text = maths_headline({"maths": maths_results()})
    assert text.startswith("Right answers to 8 problems (held-out numbers): student (distilled) 75.0% (41% to 93%), ")
    assert "baseline, equal steps 12.5% (2% to 47%), teacher 100.0% (68% to 100%)" in text
    assert "student minus twin +62.5 points (" in text
    assert maths_headline({}) == ""


def test_contamination_is_a_sentence(found):
    assert "100 training texts word for word: 0.0%, with the same numbers in the same words: 12.5%" in (
        contamination_sentence(found["contamination"])
    )
    assert "Nothing is known" in contamination_sentence({"training_texts": 0})


def test_a_file_has_its_own_name():
    assert title_of("gsm8k") == "problems of gsm8k"
    assert title_of("held_out_templates") == "held-out kinds of problems"


def test_a_run_without_problems_has_no_section(tmp_path):
    assert maths_sections({}) == []
    run = make_run(tmp_path)
    run.write_json("evaluation.json", {"models": {}})
    assert draw_solving(run) is None


def test_the_picture_is_drawn_with_and_without_samples(tmp_path):
    for count in (2, 0):
        run = make_run(tmp_path, f"run{count}")
        run.write_json("evaluation.json", json.loads(json.dumps({"maths": maths_results(num_samples=count)})))
        path = draw_solving(run)
        assert path.name == "solving.png" and path.stat().st_size > 10_000
        sections = maths_sections(run.read_json("evaluation.json"))
        assert [section["title"] for section in sections] == ["held-out numbers"]
