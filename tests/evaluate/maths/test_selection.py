"""Choice among samples: who is right at which compute, counted by hand."""

import pytest

from kdkit.evaluate.maths.selection import WAYS, Samples, Single, compare_selection
from kdkit.evaluate.maths.voting import Contradictions

RIGHT, WRONG = True, False


@pytest.fixture
def samples():
    """Two problems with four samples: the vote finds the first, only steps and scores find the second."""
    return Samples(
        is_right=[[WRONG, RIGHT, RIGHT, RIGHT], [WRONG, WRONG, RIGHT, WRONG]],
        groups=[[0, 1, 1, 1], [0, 0, 2, None]],
        contradictions=[[Contradictions(0, n) for n in row] for row in ([0, 0, 0, 0], [1, 2, 0, 0])],
        tokens=[[10, 20, 30, 40], [10, 10, 10, 10]],
        prompt_tokens=[5, 15],
        scores=[[0.1, 0.2, 0.2, 0.2], [0.1, 0.1, 0.9, 1.0]],
    )


def test_each_way_chooses_as_it_says(samples):
    assert samples.hits("first", 1) == [WRONG, WRONG]
    assert samples.hits("vote", 4) == [RIGHT, WRONG]
    assert samples.hits("steps", 4) == [RIGHT, RIGHT]
    assert samples.hits("verified", 4) == [RIGHT, RIGHT]
    assert samples.hits("verifier", 4) == [RIGHT, RIGHT]
    assert samples.hits("vote", 2) == [WRONG, WRONG]


def test_a_prompt_is_read_once_and_a_verifier_reads_all_again(samples):
    assert samples.token_count("vote", 4) == (5 + 100 + 15 + 40) / 2
    assert samples.token_count("vote", 1) == (5 + 10 + 15 + 10) / 2
    assert samples.token_count("verifier", 2) == (5 + 30 + 30 + 10 + 15 + 20 + 20 + 30) / 2


def test_ways_stand_beside_the_greedy_answer_with_their_compute(samples):
    student = Single([RIGHT, WRONG], [15, 25], parameters=100)
    found = compare_selection(samples, student, {})
    rows = {(row["way"], row["samples"]): row for row in found["ways"]}
    assert set(rows) == {("first", 1)} | {(way, n) for way in WAYS if way != "first" for n in (2, 4)}
    best = rows["verified", 4]
    assert best["accuracy"] == 1.0 and best["difference"]["mean"] == 0.5
    assert best["compute"] == 100 * 80 and best["times_greedy"] == 4.0
    assert found["single"]["student"]["compute"] == 2000 and found["equal_compute"] == {}


def test_at_equal_compute_a_larger_model_gives_one_answer(samples):
    student = Single([RIGHT, WRONG], [15, 25], parameters=100)
    teacher = Single([RIGHT, WRONG], [40, 40], parameters=150)  # 6000: three samples cost 5500, four 8000
    twin = Single([RIGHT, WRONG], [15, 25], parameters=100)
    unknown = Single([RIGHT, WRONG], [15, 25], parameters=None)
    found = compare_selection(samples, student, {"teacher": teacher, "baseline": twin, "other": unknown})
    assert list(found["equal_compute"]) == ["teacher"]
    equal = found["equal_compute"]["teacher"]
    assert equal["compute"] == 6000 and equal["ways"]["verified"]["samples"] == 3
    assert equal["ways"]["verified"]["compute"] == 100 * (5 + 60 + 15 + 30) / 2 <= 6000
    assert equal["ways"]["verified"]["difference"]["mean"] == 0.5
    assert equal["ways"]["verifier"]["samples"] == 1  # it reads everything twice
    assert found["single"]["other"]["compute"] is None


def test_a_teacher_that_costs_less_than_one_sample_is_compared_with_none(samples):
    student, teacher = Single([RIGHT, WRONG], [15, 25], 100), Single([RIGHT, WRONG], [1, 1], 150)
    found = compare_selection(samples, student, {"teacher": teacher})["equal_compute"]["teacher"]
    assert found["ways"] == {} and found["accuracy"] == 0.5


def test_without_a_verifier_there_is_no_such_way(samples):
    rows = compare_selection(
        Samples(samples.is_right, samples.groups, samples.contradictions, samples.tokens, samples.prompt_tokens),
        Single([RIGHT, WRONG], [15, 25], 100),
        {},
    )["ways"]
    assert {row["way"] for row in rows} == {"first", "vote", "steps", "verified"}
