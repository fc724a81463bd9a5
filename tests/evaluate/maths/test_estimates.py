"""Figures out of verdicts: every one against its definition."""

from itertools import combinations

import pytest

from kdkit.evaluate.maths.estimates import by_group, difference, mean, pass_at, powers_up_to, share
from kdkit.evaluate.significance import paired_t_test


@pytest.mark.parametrize("num_samples", [1, 3, 6])
def test_pass_at_k_is_the_share_of_choices_that_hold_a_right_one(num_samples):
    for num_right in range(num_samples + 1):
        samples = [True] * num_right + [False] * (num_samples - num_right)
        for k in range(1, num_samples + 1):
            choices = list(combinations(samples, k))
            expected = sum(any(choice) for choice in choices) / len(choices)
            assert pass_at(num_samples, num_right, k) == pytest.approx(expected)


def test_pass_at_k_has_no_bias():
    """Its mean over all that n samples can be is the chance that k fresh ones hold a right one."""
    chance, n, k = 0.3, 5, 3
    found = 0.0
    for right in range(n + 1):
        ways = len(list(combinations(range(n), right)))
        found += ways * chance**right * (1 - chance) ** (n - right) * pass_at(n, right, k)
    assert found == pytest.approx(1 - (1 - chance) ** k)
    plug_in = sum(
        len(list(combinations(range(n), c))) * chance**c * (1 - chance) ** (n - c) * (1 - (1 - c / n) ** k)
        for c in range(n + 1)
    )
    assert abs(plug_in - (1 - (1 - chance) ** k)) > 0.01  # what the paper warns of


@pytest.mark.parametrize("numbers", [(4, 5, 1), (4, 1, 5), (4, 1, 0), (4, -1, 1)])
def test_numbers_that_make_no_sense_are_refused(numbers):
    with pytest.raises(ValueError, match="expected 1 <= k <= n"):
        pass_at(*numbers)


def test_a_share_knows_its_count_and_stays_within_its_bounds():
    found = share([True] * 20)
    assert found["accuracy"] == 1.0 and found["count"] == 20
    low, high = found["interval_95"]
    assert 0.8 < low < 0.9 and high == 1.0
    assert share([]) == {"count": 0, "accuracy": None, "interval_95": None}


def test_wilsons_interval_is_the_textbooks():
    low, high = share([True] * 10 + [False] * 10)["interval_95"]
    assert (low, high) == pytest.approx((0.2993, 0.7007), abs=1e-4)


def test_means_and_differences_are_students_t_over_problems():
    values = [0.0, 0.5, 1.0, 1.0]
    low, high = paired_t_test(values).interval
    assert mean(values) == {"mean": 0.625, "interval_95": (max(low, 0.0), min(high, 1.0))}
    first, second = [True, True, False, True], [True, False, False, False]
    test = paired_t_test([0.0, 1.0, 0.0, 1.0])
    assert difference(first, second) == {"mean": 0.5, "interval_95": test.interval}
    assert mean([1.0])["interval_95"] is None


def test_sample_counts_double_and_end_with_all():
    assert [powers_up_to(count) for count in (0, 1, 2, 6, 8)] == [[], [1], [1, 2], [1, 2, 4, 6], [1, 2, 4, 8]]


def test_groups_are_sorted_and_what_has_no_name_is_left_out():
    assert by_group([3, 1, None, 3, 10], lambda value: value) == {"1": [1], "3": [0, 3], "10": [4]}
