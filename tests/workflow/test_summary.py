"""What a terminal shows at the end of a run."""

from kdkit.report.maths.verdict import run_verdict
from kdkit.workflow.summary import result_table
from tests.report.maths.results import maths_results
from tests.report.test_page import make_evaluation


def with_maths(*sets):
    results = maths_results()
    return make_evaluation() | {"maths": results | {"sets": dict.fromkeys(sets, results["sets"]["held_out"])}}


def test_of_maths_right_answers_come_before_bits_per_byte():
    heading, *rows = result_table(with_maths("held_out"))
    assert heading.index("right answers") < heading.index("bits per byte")
    named = {row.split("  ")[0]: row for row in rows}
    assert "100.0% (68% to 100%)" in named["teacher"] and "75.0% (41% to 93%)" in named["student"]
    assert "12.5% (2% to 47%)" in named["baseline"]
    assert any(row.startswith("gap closed in bits per byte: ") for row in rows)


def test_further_sets_have_a_line_of_their_own_and_all_fits_a_terminal():
    lines = result_table(with_maths("held_out", "held_out_templates"))
    expected = "right answers, held-out kinds of problems: student 75.0%, baseline 12.5%, teacher 100.0%"
    assert expected in lines and max(map(len, lines)) <= 100


def test_text_is_shown_as_before():
    lines = result_table(make_evaluation())
    assert not any("right" in line for line in lines)
    assert lines[-1] == "gap closed: 0.50"
    level = make_evaluation() | {"gap_closed_interval_95": None}
    assert result_table(level)[-1] == "gap closed: teacher and baseline are level"


def test_a_report_of_maths_begins_with_right_answers_and_one_of_text_with_bits():
    verdict = run_verdict(with_maths("held_out"))
    assert verdict.startswith("Right answers to 8 problems")
    assert verdict.index("teacher 100.0%") < verdict.index("In bits per byte")
    assert not run_verdict(make_evaluation()).startswith("Right answers")
