"""A run that is too short gets no verdict."""

import pytest

from kdkit.report.evidence import MIN_STEPS, too_few_steps, too_short
from kdkit.report.tables import language_verdict
from tests.report.test_page import make_evaluation


def with_steps(steps, late_gain=None, **levels):
    """Return an evaluation after so many steps, in whose last fifth the student gained so much."""
    evaluation = make_evaluation(**levels) | {"late_gain": late_gain}
    evaluation["models"]["student"]["training"]["steps"] = steps
    return evaluation


def test_few_steps_are_too_short_whatever_the_interval_says():
    verdict = language_verdict(with_steps(12, equal_time=1.4))
    assert verdict.startswith("Too short to tell whether distillation helped: 12 steps are fewer than the 50")
    assert "So far 1.500 against 2.000 bits per byte" in verdict
    for word in ("beat", "closed", "wall time"):
        assert word not in verdict


def test_as_many_steps_as_the_least_are_enough():
    assert too_few_steps(MIN_STEPS) == "" and too_few_steps(None) == ""
    assert "1 steps" not in language_verdict(with_steps(MIN_STEPS))


@pytest.mark.parametrize(
    ("late_gain", "student", "is_short"),
    [(0.02, 1.99, True), (0.02, 2.01, True), (0.02, 1.5, False), (0.02, 2.5, False), (-0.1, 1.99, False)],
)
def test_what_is_still_gained_late_must_be_less_than_the_difference(late_gain, student, is_short):
    evaluation = with_steps(250, late_gain, student=student)
    assert bool(too_short(evaluation)) == is_short
    assert language_verdict(evaluation).startswith("Too short to tell") == is_short


def test_the_measured_demo_is_long_enough():
    # seed 0 of the demo: 0.164 better after 250 steps, of which the last fifth gained 0.020
    assert too_short(with_steps(250, 0.0204, student=2.229, baseline=2.393, teacher=1.95)) == ""


def test_an_older_evaluation_is_judged_by_its_steps_alone():
    evaluation = with_steps(250, student=1.999)
    del evaluation["late_gain"]
    assert too_short(evaluation) == ""
