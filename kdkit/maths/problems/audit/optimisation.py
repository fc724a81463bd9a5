"""Extrema, checked by values on fine grids and by numpy's roots of interpolated polynomials."""

import re
from fractions import Fraction

import numpy as np

from kdkit.maths.problem import Problem
from kdkit.maths.problems.audit.algebra import coefficients
from kdkit.maths.problems.audit.formulas import dollars, evaluate, split_relation

TOLERANCE = 1e-6


def is_near(first: float, second: float) -> bool:
    """Compare two numbers relative to their size."""
    return abs(first - second) <= TOLERANCE * (1 + abs(first))


def is_minimum(problem: Problem) -> bool:
    """Return whether the statement asks for the least value."""
    return "minimum" in problem.problem


def function_of(problem: Problem) -> str:
    """Return the formula that is made least or greatest."""
    formula = dollars(problem.problem)[0]
    sides, signs = split_relation(formula)
    return sides[1] if signs == ["="] and sides[0].startswith("f") else formula


def check_one_variable(problem: Problem) -> bool:
    """The value at a critical point with the right curvature, or at an end of the interval."""
    polynomial = coefficients(function_of(problem))
    slope = np.polyder(polynomial)
    critical = [float(root.real) for root in np.roots(slope) if abs(root.imag) < 1e-6]
    best = min if is_minimum(problem) else max
    answer = float(evaluate(problem.answer))
    ends = re.search(r"\$\[(-?\d+), (-?\d+)\]\$|(-?\d+) \\leq x \\leq (-?\d+)", problem.problem)
    if ends:
        low, high = (float(end) for end in ends.groups() if end)
        places = [low, high, *(x for x in critical if low < x < high), *np.linspace(low, high, 1001)]
        return is_near(best(np.polyval(polynomial, places)), answer)
    curvature = np.polyder(slope)
    places = [x for x in critical if (np.polyval(curvature, x) > 0) == is_minimum(problem)]
    is_local = "local" in problem.problem or len(polynomial) == 3
    return is_local and len(places) == 1 and is_near(float(np.polyval(polynomial, places[0])), answer)


def _value(formula: str, x: float, y: float) -> float:
    return float(evaluate(formula, {"x": Fraction(x), "y": Fraction(y)}))


def _gradient_and_curvature(formula: str) -> tuple[np.ndarray, np.ndarray]:
    """Differences of a quadratic are its derivatives, whatever their width."""

    def f(x: float, y: float) -> float:
        return _value(formula, x, y)

    gradient = np.array([(f(1, 0) - f(-1, 0)) / 2, (f(0, 1) - f(0, -1)) / 2])
    along_x, along_y = f(1, 0) + f(-1, 0) - 2 * f(0, 0), f(0, 1) + f(0, -1) - 2 * f(0, 0)
    mixed = (f(1, 1) - f(1, -1) - f(-1, 1) + f(-1, -1)) / 4
    return gradient, np.array([[along_x, mixed], [mixed, along_y]])


def _kind(curvature: np.ndarray) -> str:
    signs = np.sign(np.linalg.eigvalsh(curvature))
    return "minimum" if all(signs > 0) else "maximum" if all(signs < 0) else "saddle point"


def check_two_variables(problem: Problem) -> bool:
    """Solve for the critical point; eigenvalues of the second derivatives say which kind it is."""
    formula = function_of(problem)
    gradient, curvature = _gradient_and_curvature(formula)
    x, y = np.linalg.solve(curvature, -gradient)
    is_kind = _kind(curvature) == ("minimum" if is_minimum(problem) else "maximum")
    return is_kind and is_near(_value(formula, float(x), float(y)), float(evaluate(problem.answer)))


def check_kind(problem: Problem) -> bool:
    """Eigenvalues of the second derivatives."""
    return problem.answer == rf"\text{{{_kind(_gradient_and_curvature(function_of(problem))[1])}}}"


def check_on_line(problem: Problem) -> bool:
    """Walk along the line: what is left is a quadratic in one number."""
    function, constraint = dollars(problem.problem.split(" with positive")[0].replace("for positive $x$ and $y$ ", ""))[
        -2:
    ]
    function = function.partition("=")[2] or function
    left, right = split_relation(constraint)[0]
    moved = f"{left} - ({right})"
    a, b, c = (_value(moved, 1, 0), _value(moved, 0, 1), _value(moved, 0, 0))
    a, b = a - c, b - c
    start = np.array([-c / a, 0.0])
    steps = np.array([-1.0, 0.0, 1.0])
    values = [_value(function, *(float(each) for each in start + step * np.array([b, -a]))) for step in steps]
    quadratic = np.polyfit(steps, values, 2)
    place = -quadratic[1] / (2 * quadratic[0])
    x, y = start + place * np.array([b, -a])
    is_allowed = "positive" not in problem.problem or (x > 0 and y > 0)
    is_kind = (quadratic[0] > 0) == is_minimum(problem)
    return is_allowed and is_kind and is_near(float(np.polyval(quadratic, place)), float(evaluate(problem.answer)))


def check_on_circle(problem: Problem) -> bool:
    """Walk around the circle in 100,000 steps."""
    function, constraint = dollars(problem.problem)[-2:]
    function = function.partition("=")[2] or function
    radius = float(split_relation(constraint)[0][1]) ** 0.5
    angles = np.linspace(0, 2 * np.pi, 100001)
    at = _value(function, 1, 0), _value(function, 0, 1)
    values = radius * (at[0] * np.cos(angles) + at[1] * np.sin(angles))
    best = values.min() if is_minimum(problem) else values.max()
    return split_relation(constraint)[0][0] == "x^{2} + y^{2}" and is_near(float(best), float(evaluate(problem.answer)))


CHECKS = {
    "quadratic_extremum": check_one_variable,
    "cubic_extremum": check_one_variable,
    "extremum_on_interval": check_one_variable,
    "quadratic_extremum_2": check_two_variables,
    "classify_critical_point": check_kind,
    "lagrange_line": check_on_line,
    "lagrange_product": check_on_line,
    "lagrange_circle": check_on_circle,
}
