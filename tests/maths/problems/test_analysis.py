"""What all kinds of problems of calculus, complex analysis and differential equations have in common."""

import contextlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdkit.maths.notation import normalise
from kdkit.maths.problems import calculus, complex_analysis, differential_equations
from kdkit.maths.problems.template import UnprovenStepError
from tests.maths.problems.relations import false_relations

TEMPLATES = [each() for each in (*calculus.TEMPLATES, *complex_analysis.TEMPLATES, *differential_equations.TEMPLATES)]
each_template = pytest.mark.parametrize("template", TEMPLATES, ids=[each.name for each in TEMPLATES])
each_level = pytest.mark.parametrize(
    ("template", "level"),
    [pytest.param(each, level, id=f"{each.name}-{level}") for each in TEMPLATES for level in each.levels],
)


def draw_problems(template, level, number, wording=0):
    """Return parameters and problems."""
    draws = random.Random(f"{template.name} {level} {wording}")
    for _ in range(number):
        parameters = template.draw(draws, level)
        yield parameters, template.build(parameters, level, wording)


def test_names_are_unique():
    names = [each.name for each in TEMPLATES]
    assert len(names) == len(set(names))


@each_level
def test_each_wording_is_read_back_and_by_no_kind_before(template, level):
    for wording in range(len(template.wordings)):
        for parameters, problem in draw_problems(template, level, 10, wording):
            statement = normalise(problem.problem)
            assert "<<" not in statement
            assert template.read(statement) == parameters, statement
            assert next(each for each in TEMPLATES if each.read(statement) is not None) is template, statement


@each_level
def test_numbers_do_not_run_out(template, level):
    draws = random.Random(level)
    assert len({template.draw(draws, level) for _ in range(1500)}) > 130


@each_level
def test_steps_are_short_lines_of_formulas(template, level):
    for _, problem in draw_problems(template, level, 20):
        assert 1 <= len(problem.steps) <= 10
        assert all(step.count("$") % 2 == 0 and "\n" not in step and "$" in step for step in problem.steps[:-2])
        assert len(problem.solution) < 900
        assert problem.answer_kind not in ("ode", "antiderivative") or problem.check_against


@each_template
def test_relations_hold_for_an_independent_reader(template):
    level = max(template.levels)
    for _, problem in draw_problems(template, level, 1):
        assert false_relations(problem) == [], problem.solution


@pytest.mark.slow  # latex2sympy needs up to a tenth of a second for a formula
@each_level
def test_relations_of_many_hold_for_an_independent_reader(template, level):
    for _, problem in draw_problems(template, level, 10):
        assert false_relations(problem) == [], problem.solution


@pytest.mark.parametrize(
    "statement",
    [
        "",
        "What is the derivative?",
        "Find the second derivative of $x^{3}$.",
        r"Find $\int \frac{1}{\sqrt{x}} \, dx$.",
        "Solve $x^{2} - 4 = 0$.",
        "Solve $y'' + xy = 0$.",
        "Solve $y' = x + y^{2}$.",
        r"Find $\lim_{x \to 0} \frac{\sin(x)}{x^{2} + 1}$.",
        "Find the residue of $f(z) = e^{z}$ at $z = 0$.",
        "A shop sells 3 apples for 2 dollars. How much are 12 apples?",
        "Find the derivative of f(x) = ((((x",
        r"Compute $\frac{1}{0}$.",
        "Solve $y'' - 5y' + 6y = 0$ with $y(1) = 2$.",
    ],
)
def test_nothing_of_ours_is_left_alone(statement):
    assert [each.name for each in TEMPLATES if each.read(normalise(statement)) is not None] == []


PIECES = [*"xyzi-+()^{}|0'\\$=/,", "17", r"\frac", r"\sin", "e^"]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(TEMPLATES), st.integers(0, 10**6))
def test_spoilt_statements_are_read_or_left_alone(template, seed):
    draws = random.Random(seed)
    problem = template.build(template.draw(draws, draws.choice(template.levels)), 1, draws.randrange(4))
    text = list(problem.problem)
    for _ in range(draws.randint(1, 4)):
        text[draws.randrange(len(text))] = draws.choice(PIECES)
    statement = normalise("".join(text))
    for each in TEMPLATES:
        parameters = each.read(statement)
        if parameters is not None:
            with contextlib.suppress(UnprovenStepError):  # numbers so large that they cannot be checked
                assert each.build(parameters, None).answer
