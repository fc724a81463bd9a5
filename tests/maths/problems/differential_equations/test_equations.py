"""Solutions put back into their equations by mpmath and by sympy."""

import random

import mpmath
import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from kdkit.maths.formulas.reading import read_formula
from kdkit.maths.notation import normalise
from kdkit.maths.problems.differential_equations import TEMPLATES, first_order, forced, second_order
from kdkit.maths.problems.differential_equations.first_order import OdeInitialValue, OdeLinear, OdeSeparable
from kdkit.maths.problems.differential_equations.forced import OdeForced
from kdkit.maths.problems.differential_equations.second_order import (
    OdeComplexRoots,
    OdeDoubleRoot,
    OdeRealRoots,
    OdeSecondInitial,
)
from kdkit.maths.problems.template import UnprovenStepError

CONSTANTS = {"C": 900.3, "C_{1}": 0.7, "C_{2}": -1.4}


def solution_of(problem):
    """Return y as a function of x, read from the answer."""
    formula = read_formula(problem.answer.removeprefix("y = "))
    return lambda x: complex(formula.value({"x": float(x), **CONSTANTS})).real


def misses(problem, equation, x):
    """Return how far the answer is from the equation at a place, relative to the equation's largest term."""
    y = solution_of(problem)
    at = {"x": x, "y": y(x), "y'": float(mpmath.diff(y, x, h=1e-4)), "y''": float(mpmath.diff(y, x, 2, h=1e-3))}
    left, right = (complex(read_formula(side).value(at)).real for side in equation.split("="))
    return abs(left - right) / (1 + max(abs(at["y''"]), abs(at["y'"]), abs(left), abs(right)))


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(TEMPLATES), st.integers(1, 5), st.integers(0, 10**6))
def test_answers_solve_their_equation(kind, level, seed):
    template = kind()
    level = min(template.levels, key=lambda each: abs(each - level))
    problem = template.build(template.draw(random.Random(seed), level), level)
    equation = problem.check_against or problem.problem.split("$")[1]
    assert max(misses(problem, equation, x) for x in (0.11, -0.23)) < 1e-2
    y, text = solution_of(problem), problem.problem
    if problem.answer_kind == "expression":
        start = float(text.split("y(0) = ")[1].split("$")[0])
        assert abs(y(0) - start) < 1e-9
    if "y'(0)" in text:
        assert abs(float(mpmath.diff(y, 0, h=1e-5)) - float(text.split("y'(0) = ")[1].split("$")[0])) < 1e-3


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([OdeRealRoots(), OdeDoubleRoot(), OdeComplexRoots()]), st.integers(0, 10**6))
def test_second_order_solutions_are_sympys(template, seed):
    a, b, c = parameters = template.draw(random.Random(seed), max(template.levels))
    r = sympy.Symbol("r")
    roots = sympy.roots(sympy.Poly([a, b, c], r))
    written = [complex(read_formula(each).value({})) for each in template.solve(parameters).facts["r"]]
    assert len(written) == len(roots)
    assert all(min(abs(root - complex(each)) for each in roots) < 1e-9 for root in written)


@pytest.mark.parametrize(
    ("template", "parameters", "answer"),
    [
        (OdeSeparable, ("y", 2, 0), "y = Ce^{x^{2}}"),
        (OdeSeparable, ("square", 1), r"y = -\frac{1}{x + C}"),
        (OdeSeparable, ("exponential", 2, 0), r"y = \ln(x^{2} + C)"),
        (OdeLinear, (2, "polynomial", 6), "y = 3 + Ce^{-2x}"),
        (OdeLinear, (1, "polynomial", 1, 0), "y = x - 1 + Ce^{-x}"),
        (OdeLinear, (1, "exp", 2, 1), "y = e^{x} + Ce^{-x}"),
        (OdeLinear, (1, "exp", 1, -1), "y = (x + C)e^{-x}"),
        (OdeInitialValue, ("separable", 2, 3), "2e^{3x}"),
        (OdeInitialValue, ("linear", 5, 2, 6), "3 + 2e^{-2x}"),
        (OdeRealRoots, (1, -5, 6), "y = C_{1}e^{2x} + C_{2}e^{3x}"),
        (OdeRealRoots, (1, 1, 0), "y = C_{1}e^{-x} + C_{2}"),
        (OdeDoubleRoot, (1, -4, 4), "y = (C_{1} + C_{2}x)e^{2x}"),
        (OdeComplexRoots, (1, 2, 5), r"y = e^{-x}(C_{1}\cos(2x) + C_{2}\sin(2x))"),
        (OdeComplexRoots, (1, 0, 9), r"y = C_{1}\cos(3x) + C_{2}\sin(3x)"),
        (OdeSecondInitial, (-3, 2, 1, 1), "e^{x}"),
        (OdeSecondInitial, (0, 4, 1, 2), r"\cos(2x) + \sin(2x)"),
        (OdeForced, (-3, 2, 4, 0), "y = C_{1}e^{x} + C_{2}e^{2x} + 2"),
    ],
)
def test_answers_of_textbooks(template, parameters, answer):
    assert template().solve(parameters).answer == answer


@pytest.mark.parametrize(
    ("template", "statement", "parameters"),
    [
        (OdeSeparable, "Solve dy/dx = 2xy", ("y", 2, 0)),
        (OdeSeparable, r"Find the general solution of $\frac{dy}{dx} = y^2$.", ("square", 1)),
        (OdeLinear, "Solve the differential equation y' + 2y = 6.", (2, "polynomial", 6)),
        (OdeLinear, r"Solve $\frac{dy}{dx} = x - y$.", (1, "polynomial", 1, 0)),
        (OdeInitialValue, "Solve y' = 3y, y(0) = 2", ("separable", 2, 3)),
        (OdeInitialValue, "Find the solution of y'(x) = 6 - 2y(x) with y(0) = 5.", ("linear", 5, 2, 6)),
        (OdeRealRoots, "Solve y'' - 5y' + 6y = 0", (1, -5, 6)),
        (OdeRealRoots, r"Solve $\frac{d^2y}{dx^2} - 5\frac{dy}{dx} + 6y = 0$.", (1, -5, 6)),
        (OdeDoubleRoot, "Find the general solution to y\u2033 = 4y\u2032 - 4y.", (1, -4, 4)),
        (OdeComplexRoots, "Find the general solution of the ODE y''(x) + 2y'(x) + 5y(x) = 0", (1, 2, 5)),
        (OdeSecondInitial, "Solve y'' - 3y' + 2y = 0 with y(0) = 1, y'(0) = 1.", (-3, 2, 1, 1)),
        (OdeForced, "Solve $y'' - 3y' + 2y = 4$.", (-3, 2, 4, 0)),
    ],
)
def test_other_phrasings_are_read(template, statement, parameters):
    assert template().read(normalise(statement)) == parameters


@pytest.mark.parametrize(
    ("module", "name", "wrong", "template", "parameters"),
    [
        (first_order, "integrate_power", lambda a, n: first_order.X, OdeSeparable, ("y", 2, 0)),
        (first_order, "particular", lambda a, kind, numbers: first_order.Number(7), OdeLinear, (2, "polynomial", 6)),
        (first_order, "integrate_power", lambda a, n: first_order.X, OdeInitialValue, ("separable", 2, 2, 0)),
        (second_order, "sqrt", lambda number: second_order.Number(number), OdeRealRoots, (1, -5, 4)),
        (second_order, "exp", lambda u: second_order.Number(1), OdeRealRoots, (1, -5, 6)),
        (second_order, "sin", second_order.cos, OdeComplexRoots, (1, 2, 5)),
        (second_order, "_constants", lambda *_: (1, 1), OdeSecondInitial, (-3, 2, 1, 1)),
        (forced, "solution", lambda coefficients: second_order.C1 * second_order.X, OdeForced, (-3, 2, 4, 0)),
    ],
)
def test_a_wrong_rule_is_caught(monkeypatch, module, name, wrong, template, parameters):
    template().solve(parameters)
    monkeypatch.setattr(module, name, wrong)
    with pytest.raises(UnprovenStepError):
        template().solve(parameters)
