"""Thousands of answers that were made by rule: right ones, wrong constants, and nonsense."""

import time
from collections import Counter

import pytest

from kdkit.config.maths.settings import CheckerConfig, PolicyConfig
from kdkit.maths.checking.answers import check_answer
from kdkit.maths.checking.pool import CheckerPool
from tests.maths.checking.made_answers import fuzzed_answers, right_answers, wrong_answers

MANY = pytest.mark.slow
SECONDS = 3.0


def wrong_verdicts(jobs, expected):
    """List the jobs with another verdict than expected."""
    policies = PolicyConfig()
    said = ((check_answer(job.gold, job.answer, policies, job.kind, job.against), job) for job in jobs)
    return [(verdict, job) for verdict, job in said if verdict != expected]


@pytest.mark.parametrize("count", [300, pytest.param(3000, marks=MANY)])
def test_the_same_in_other_words_is_right(count):
    assert wrong_verdicts(right_answers(count, seed=0), "right") == []


@pytest.mark.parametrize("count", [500, pytest.param(5000, marks=MANY)])
def test_a_wrong_constant_is_wrong(count):
    jobs = list(wrong_answers(count, seed=0))
    assert len(jobs) == count
    assert wrong_verdicts(jobs, "wrong") == []


@pytest.mark.parametrize("count", [200, pytest.param(2000, marks=MANY)])
def test_any_text_has_a_verdict_in_bounded_time(count):
    jobs = list(fuzzed_answers(count, seed=0))
    found = Counter()
    with CheckerPool(CheckerConfig(num_workers=2, seconds=SECONDS, memory_mb=512)) as pool:
        pool.check([jobs[0]])
        for start in range(0, count, 2):
            started = time.monotonic()
            found.update(pool.check(jobs[start : start + 2]))
            assert time.monotonic() - started < 10 * SECONDS
    assert found["timed_out"] <= count // 100
    assert found["unreadable"] > count // 3
