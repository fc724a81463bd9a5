"""The paired t test against printed tables and worked examples."""

import pytest

from kdkit.evaluate.significance import (
    central_probability,
    correct_for_comparisons,
    paired_t_test,
    standard_deviation,
    t_quantile,
)

TABLE = {
    (1, 0.95): 12.706,
    (2, 0.95): 4.303,
    (3, 0.95): 3.182,
    (4, 0.95): 2.776,
    (5, 0.99): 4.032,
    (9, 0.95): 2.262,
    (10, 0.99): 3.169,
    (29, 0.95): 2.045,
    (30, 0.90): 1.697,
    (120, 0.95): 1.980,
}
"""Two-sided critical values as every table of Student's distribution prints them, by degrees and confidence."""

SLEEP = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]
"""Hours of sleep gained, second drug less first, of Student's ten patients (1908): t = 4.06, p = 0.0028."""


@pytest.mark.parametrize(("place", "value"), TABLE.items())
def test_quantiles_are_those_of_the_printed_table(place, value):
    degrees, confidence = place
    assert t_quantile(confidence, degrees) == pytest.approx(value, abs=6e-4)


def test_one_and_two_degrees_agree_with_their_closed_forms():
    assert central_probability(1.0, 1) == pytest.approx(0.5)  # Cauchy's quartile
    assert central_probability(3.0, 2) == pytest.approx(3 / 11**0.5)  # t / sqrt(2 + t^2)


def test_many_degrees_come_to_the_normal_distribution():
    assert central_probability(1.959964, 100_000) == pytest.approx(0.95, abs=1e-5)


def test_students_own_example_is_reproduced():
    test = paired_t_test(SLEEP)
    assert test.num_pairs == 10 and test.mean == pytest.approx(1.58)
    assert test.t == pytest.approx(4.0621, abs=1e-4) and test.p == pytest.approx(0.00283, abs=1e-5)
    assert test.interval == pytest.approx((0.7001, 2.4599), abs=1e-4)


def test_the_sign_changes_the_direction_only():
    there, back = paired_t_test(SLEEP), paired_t_test([-hours for hours in SLEEP])
    assert (back.mean, back.t, back.p) == (-there.mean, -there.t, there.p)
    assert back.interval == (-there.interval[1], -there.interval[0])


def test_one_pair_is_not_tested():
    test = paired_t_test([0.1])
    assert (test.mean, test.t, test.p, test.interval) == (0.1, None, None, None)


def test_differences_that_do_not_vary_need_no_test():
    assert paired_t_test([0.0, 0.0]).p == 1.0
    assert paired_t_test([0.5, 0.5]).p == 0.0 and paired_t_test([0.5, 0.5]).interval == (0.5, 0.5)


def test_the_standard_deviation_is_the_samples():
    assert standard_deviation([1.0, 2.0, 3.0]) == 1.0 and standard_deviation([4.0]) == 0.0


def test_holms_correction_of_a_worked_example():
    # sorted: 0.01 * 4, 0.02 * 3, 0.03 * 2 (not below the one before), 0.2 * 1
    assert correct_for_comparisons([0.03, 0.01, 0.2, 0.02]) == pytest.approx([0.06, 0.04, 0.2, 0.06])
    assert correct_for_comparisons([0.6, 0.9]) == [1.0, 1.0] and correct_for_comparisons([]) == []
