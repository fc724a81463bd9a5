"""Solutions of differential equations, put back into them by differences."""

import re
from collections.abc import Callable, Mapping
from fractions import Fraction

from mpmath import mp

from kdkit.maths.problem import Problem
from kdkit.maths.problems.audit.calculus import as_mp, is_near
from kdkit.maths.problems.audit.formulas import DIGITS, Value, dollars, evaluate, names_in, split_relation

PLACES = (Fraction(3, 10), Fraction(-4, 10), Fraction(7, 10))
STEP = Fraction(1, 10**13)
CONSTANTS = ("C", "C_{1}", "C_{2}")
CHOICES = ((Fraction(13, 10), Fraction(-7, 10)), (Fraction(-21, 10), Fraction(9, 10)))
"""Values of the constants."""


def _solution(problem: Problem, constants: Mapping[str, Value]) -> Callable[[Value], Value]:
    latex = problem.answer.removeprefix("y =")
    return lambda x: as_mp(evaluate(latex, {"x": x, **constants}))


def _slopes(function: Callable[[Value], Value], x: Fraction) -> dict[str, Value]:
    """Return y and its first two derivatives at a place."""
    with mp.workdps(DIGITS):
        before, at, after, step = function(x - STEP), function(x), function(x + STEP), as_mp(STEP)
        return {"y": at, "y'": (after - before) / (2 * step), "y''": (after - 2 * at + before) / step**2}


def _solves(equation: str, function: Callable[[Value], Value]) -> bool:
    left, right = split_relation(equation)[0]
    for x in PLACES:
        slopes = _slopes(function, x)
        with mp.workdps(DIGITS):
            rest = as_mp(evaluate(left, {"x": x, **slopes})) - as_mp(evaluate(right, {"x": x, **slopes}))
        if abs(rest) > 1e-9 * (1 + max(map(abs, slopes.values()))):
            return False
    return True


def check_general(problem: Problem) -> bool:
    """It solves the equation for any constants, has as many as the equation's order, and each one matters."""
    equation = dollars(problem.problem)[0]
    order = 2 if "y''" in equation else 1
    constants = sorted(names_in(problem.answer) & set(CONSTANTS))
    if len(constants) != order:
        return False
    if not all(_solves(equation, _solution(problem, dict(zip(constants, chosen)))) for chosen in CHOICES):  # noqa: B905
        return False
    return _is_independent(problem, constants)


def _is_independent(problem: Problem, constants: list[str]) -> bool:
    """Return whether the constants change the solution in as many independent ways."""
    start = dict(zip(constants, CHOICES[0]))  # noqa: B905 - one or two of them
    places = PLACES[: len(constants)]
    changes = []
    for name in constants:
        moved = _solution(problem, {**start, name: start[name] + Fraction(1, 10)})
        changes.append([moved(x) - _solution(problem, start)(x) for x in places])
    if len(constants) == 1:
        return bool(abs(changes[0][0]) > 1e-9)
    (a, b), (c, d) = changes
    return bool(abs(a * d - b * c) > 1e-9)


def check_initial(problem: Problem) -> bool:
    """It solves the equation, has no constants, and starts as it should."""
    equation, *starts = dollars(problem.problem)
    function = _solution(problem, {})
    if names_in(problem.answer) & set(CONSTANTS) or not _solves(equation, function):
        return False
    at_zero = _slopes(function, Fraction(0))
    for start in starts:
        name, value = re.fullmatch(r"(y'?)\(0\) = (.*)", start).groups()
        if not is_near(at_zero[name], evaluate(value)):
            return False
    return len(starts) == (2 if "y''" in equation else 1)


CHECKS = {
    "ode_separable": check_general,
    "ode_linear": check_general,
    "ode_real_roots": check_general,
    "ode_double_root": check_general,
    "ode_complex_roots": check_general,
    "ode_forced": check_general,
    "ode_initial_value": check_initial,
    "ode_second_initial": check_initial,
}
