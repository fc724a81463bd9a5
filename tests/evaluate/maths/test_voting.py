"""Votes: equal answers are one group, contradictions lose their votes, and nobody looks at the true answer."""

import random
from dataclasses import replace

import pytest

from kdkit.config.maths.settings import PolicyConfig
from kdkit.evaluate.maths.solutions import judge_solutions
from kdkit.evaluate.maths.voting import (
    Contradictions,
    count_contradictions,
    group_answers,
    majority,
    own_facts,
    split_answer,
    verified_vote,
    vote_by_steps,
    weighted_vote,
)
from kdkit.maths.checking.answers import Verdict
from kdkit.maths.problem import Problem
from kdkit.models.writer import Written
from tests.evaluate.maths.solvers import equation, solution


def judged(problem, texts, pool):
    """Return solutions of one problem."""
    (row,) = judge_solutions([problem], [[Written(text, 1, True) for text in texts]], pool, PolicyConfig())
    return row


def test_equal_answers_are_one_group_however_they_are_written(pool):
    problem = equation(2, 1, 5)
    answers = ["0.5", "3", r"\frac{1}{2}", "", r"\frac12", "7", "3"]
    row = judged(
        problem, [solution(each) for each in answers[:3]] + ["no box"] + list(map(solution, answers[4:])), pool
    )
    assert group_answers([problem], [row], pool) == [[0, 1, 0, None, 0, 5, 1]]


def test_an_answer_that_cannot_be_read_or_took_too_long_has_no_vote(pool):
    problem = equation(2, 1, 5)
    row = judged(problem, [solution("5"), solution("6"), solution("5")], pool)
    row[1], row[2] = replace(row[1], verdict=Verdict.UNREADABLE), replace(row[2], verdict=Verdict.TIMED_OUT)
    assert group_answers([problem], [row], pool) == [[0, None, None]]


def test_groups_of_several_problems_are_found_at_once(pool):
    problems = [equation(2, 1, 5), equation(3, 1, 2), equation(3, 2, 4)]
    texts = [["5", "4", "4", "5"], ["2", "2", "2", "2"], []]
    rows = [judged(p, list(map(solution, each)), pool) for p, each in zip(problems, texts, strict=True)]
    assert group_answers(problems, rows, pool) == [[0, 1, 1, 0], [0, 0, 0, 0], []]


def test_the_groups_of_the_first_samples_are_those_of_all_cut_off(pool):
    problem, draw = equation(2, 1, 5), random.Random(0)
    row = judged(problem, [solution(draw.randint(1, 4)) for _ in range(12)], pool)
    (whole,) = group_answers([problem], [row], pool)
    for count in range(1, 13):
        assert group_answers([problem], [row[:count]], pool) == [whole[:count]]


def contradictions(problem, texts, pool):
    """Return how often each solution of a problem contradicts itself."""
    return count_contradictions([problem], [judged(problem, texts, pool)], pool)[0]


def test_an_answer_is_put_into_the_equation_and_into_its_own_steps(pool):
    problem = equation(2, 1, 5)  # 2x + 1 = 11
    right = solution(5, "Subtract: $2x = 10$.", "Divide: $x = 5$.")
    wrong = solution(6, "Subtract: $2x = 12$.", "Divide: $x = 6$.")  # true with x = 6, but the equation is not
    torn = solution(5, "Subtract: $2x = 12$.", "Divide: $x = 6$.")
    found = contradictions(problem, [right, wrong, torn, "no answer, $2x = 9$"], pool)
    assert found == [(0, 0), (1, 0), (0, 2), (0, 0)]


def test_the_true_answer_is_not_looked_at(pool):
    """Of a wrong problem only the statement counts: the derivative of a given function can be computed."""
    facts = {"f(x)": ("x^{3}",), "f'(x)": ("5x^{4}",)}
    problem = Problem("1", "Find the derivative of $f(x) = x^{3}$.", "5x^{4}", facts=facts)
    right = solution("3x^{2}", "Together: $f'(x) = 3x^{2}$.")
    wrong = solution("2x^{2}", "I know it.")
    torn = solution("3x^{2}", r"$\frac{d}{dx}(x^{3}) = 2x^{2}$", "Together: $f'(x) = 2x^{2}$.")
    gold = solution("5x^{4}", "Together: $f'(x) = 5x^{4}$.")
    assert contradictions(problem, [right, wrong, torn, gold], pool) == [(0, 0), (1, 0), (0, 2), (1, 1)]


def test_what_a_step_says_of_a_name_that_nobody_knows_is_left_out(pool):
    problem = Problem("1", "Solve $x^{2} = 9$.", "3, -3", answer_kind="values", facts={"x": ("3", "-3"), "D": ("36",)})
    assert contradictions(problem, [solution("3, -3", "$D = 1$", "$x = 3$ or $x = -3$", "$2 + 2 = 5$")], pool) == [
        (0, 1)
    ]


def test_without_facts_the_statement_says_nothing_about_a_sample(pool):
    problem = Problem("1", "Is $1 = 2$?", "no", answer_kind="statement")
    assert contradictions(problem, [solution("no"), solution("yes", "since $1 = 2$")], pool) == [(0, 0), (0, 1)]


def test_the_largest_group_wins_and_of_equal_ones_the_first():
    assert majority([0, 1, 1, 0, 1]) == 1
    assert majority([0, 1, 1, 0]) == 0
    assert majority([None, None, 2]) == 2
    assert majority([None, None]) == 0


def test_wrong_steps_lose_their_votes():
    groups = [0, 0, 0, 3, 3]
    assert majority(groups) == 0
    assert vote_by_steps(groups, [1, 2, 1, 0, 0]) == 3
    # one clean vote each: all votes count, and the clean one is shown
    assert vote_by_steps(groups, [1, 0, 1, 0, 4]) == 1
    assert vote_by_steps(groups, [1, 2, 1, 3, 4]) == 0  # none is clean
    assert vote_by_steps([None, None], [0, 1]) == 0


def test_an_answer_that_does_not_hold_in_the_statement_loses_to_one_that_does():
    groups = [0, 0, 0, 3, 3]
    false, torn, clean = Contradictions(1, 0), Contradictions(0, 2), Contradictions(0, 0)
    assert verified_vote(groups, [false, false, false, torn, torn]) == 3
    assert verified_vote(groups, [clean, torn, clean, torn, clean]) == 0
    assert verified_vote(groups, [false] * 5) == 0  # none holds: the steps and the vote decide
    assert verified_vote([None, 1], [clean, false]) == 1 and verified_vote([None, None], [false, false]) == 0


def test_weights_decide():
    assert weighted_vote([0, 0, 2], [0.2, 0.3, 0.6]) == 2
    assert weighted_vote([0, 0, 2], [0.2, 0.5, 0.6]) == 0


@pytest.mark.parametrize(
    ("answer", "parts"),
    [
        ("3", ["3"]),
        (r"2, 3", ["2", "3"]),
        (r"\{2, 3\}", ["2", "3"]),
        (r"\left(2, \frac{1}{3}\right)", ["2", r"\frac{1}{3}"]),
        ("x = 2, 3", ["2", "3"]),
        ("x = 2, y = 3", ["2", "3"]),
        ("(a, b), (c, d)", ["(a,b)", "(c,d)"]),
        ("f'(x) = 3x^{2}", ["3x^{2}"]),
        (r"\begin{pmatrix} 1 & 2 \end{pmatrix}", [r"\begin{pmatrix}1&2\end{pmatrix}"]),
        ("", []),
    ],
)
def test_an_answer_is_split_into_its_parts(answer, parts):
    assert split_answer(answer) == parts


def test_own_facts_take_nothing_from_the_true_answer():
    problem = equation(2, 1, 5)
    assert own_facts(problem, "7") == {"x": ("7",)}
    assert own_facts(problem, "7, 8") == {"x": ("7", "8")}
    system = Problem("1", "Solve $x + y = 5$, $x - y = 1$.", "(3, 2)", facts={"x": ("3",), "y": ("2",)})
    assert own_facts(system, "(4, 1)") == {"x": ("4",), "y": ("1",)}
    assert own_facts(system, "4") == {}
    facts = {"f(x)": ("x^{2}",), "f'(x)": ("2x",), "h": ("8",)}
    derivative = Problem("2", "Find the derivative of $f(x) = x^{2}$.", "2x", facts=facts)
    assert own_facts(derivative, "3x") == {"f(x)": ("x^{2}",), "f'(x)": ("3x",)}  # h is nobody's to know


def test_a_true_value_that_stands_in_the_statement_by_chance_is_not_given_away():
    problem = Problem("1", "Solve $5x + 5 = 30$.", "5", facts={"x": ("5",)})
    assert own_facts(problem, "6") == {"x": ("6",)}
    given = Problem("1", "Evaluate $x^{2}$ at $x = 5$.", "25", facts={"x": ("5",)})
    assert own_facts(given, "6") == {"x": ("5",)}
    longer = Problem("1", "Let $x = 55$.", "5", facts={"x": ("5",)})
    assert own_facts(longer, "6") == {"x": ("6",)}
