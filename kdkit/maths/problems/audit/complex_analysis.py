"""Answers in complex analysis, checked in complex numbers and by walks around poles."""

import re
from fractions import Fraction

from mpmath import mp

from kdkit.maths.problem import Problem
from kdkit.maths.problems.audit.calculus import STEP, as_mp, group_at, is_near, right_of
from kdkit.maths.problems.audit.formulas import DIGITS, Value, dollars, evaluate, holds, split_list, split_relation

NUM_POINTS = 400
"""On a circle: what is left of an integral falls like a power of it."""
SMALL = 1e-20
"""Residues such as 57 e^-35 are as small."""


def number_of(problem: Problem) -> Value:
    """Return the number that the statement's first formula is or names."""
    formula = dollars(problem.problem)[0]
    return evaluate(formula.removeprefix("z ="))


def check_value(problem: Problem) -> bool:
    """Evaluate both."""
    return is_near(number_of(problem), evaluate(problem.answer))


def check_modulus(problem: Problem) -> bool:
    """Mpmath's absolute value."""
    return is_near(abs(as_mp(number_of(problem))), evaluate(problem.answer))


def check_argument(problem: Problem) -> bool:
    """Mpmath's argument."""
    formula = dollars(problem.problem)[0].removeprefix("z =")
    inside = re.fullmatch(r"\\arg\((.*)\)", formula)
    return is_near(mp.arg(as_mp(evaluate(inside[1] if inside else formula))), evaluate(problem.answer))


def check_polar(problem: Problem) -> bool:
    """The same number, written with an exponential function."""
    return check_value(problem) and "e^{" in problem.answer


def check_roots(problem: Problem) -> bool:
    """Each solves the equation, and there are as many as its degree says."""
    formulas = dollars(problem.problem)
    equation = next((formula for formula in formulas if split_relation(formula)[1]), f"z^{{2}} = {formulas[0]}")
    values = [as_mp(evaluate(value)) for value in split_list(problem.answer)]
    degree = max(int(exponent) for exponent in re.findall(r"\^\{(\d)\}", equation))
    is_distinct = all(abs(a - b) > 1e-9 for i, a in enumerate(values) for b in values[:i])
    solved = all(holds(equation, {"z": value}) for value in values)
    return solved and is_distinct and len(values) == degree


def _partials(latex: str, x: Fraction, y: Fraction) -> tuple[Value, Value]:
    """Return the slopes along x and y, as central differences."""
    with mp.workdps(DIGITS):
        along_x = evaluate(latex, {"x": x + STEP, "y": y}) - evaluate(latex, {"x": x - STEP, "y": y})
        along_y = evaluate(latex, {"x": x, "y": y + STEP}) - evaluate(latex, {"x": x, "y": y - STEP})
        return along_x / (2 * STEP), along_y / (2 * STEP)


def _is_conjugate(u: str, v: str) -> bool:
    """Return whether the Cauchy-Riemann equations hold at three places."""
    for x, y in ((Fraction(1, 3), Fraction(2)), (Fraction(-5, 2), Fraction(1, 7)), (Fraction(3), Fraction(-4, 3))):
        (u_x, u_y), (v_x, v_y) = _partials(u, x, y), _partials(v, x, y)
        if not (is_near(u_x, v_y) and is_near(u_y, -v_x)):
            return False
    return True


def check_analytic(problem: Problem) -> bool:
    """The Cauchy-Riemann equations, in differences."""
    parts = dict(formula.split(" = ") for formula in dollars(problem.problem) if re.match(r"[uv] = ", formula))
    return _is_conjugate(parts["u"], parts["v"]) == (problem.answer == r"\text{yes}")


def check_conjugate(problem: Problem) -> bool:
    """The Cauchy-Riemann equations, in differences, and the value at the origin."""
    formula = next(formula for formula in dollars(problem.problem) if re.match(r"u(\(x, y\))? = ", formula))
    is_zero = evaluate(problem.answer, {"x": Fraction(0), "y": Fraction(0)}) == 0
    return is_zero and _is_conjugate(formula.split(" = ")[1], problem.answer)


def _walk(latex: str, centre: Value, radius: float) -> Value:
    """Return an integral around a circle, by the trapezoidal rule."""
    with mp.workdps(DIGITS):
        total = mp.mpc(0)
        for k in range(NUM_POINTS):
            direction = mp.expjpi(mp.mpf(2 * k) / NUM_POINTS)
            total += as_mp(evaluate(latex, {"z": centre + radius * direction})) * direction
        return total * radius * mp.mpc(0, 2) * mp.pi / NUM_POINTS


def check_residue(problem: Problem) -> bool:
    """A small walk around the pole."""
    function, pole = dollars(problem.problem)[0], dollars(problem.problem)[-1]
    around = _walk(right_of(function), as_mp(evaluate(pole.removeprefix("z ="))), 0.45)
    return is_near(around / (mp.mpc(0, 2) * mp.pi), evaluate(problem.answer), size=SMALL)


def check_contour(problem: Problem) -> bool:
    """A walk around the circle."""
    formula = dollars(problem.problem)[0]
    path, place = group_at(formula, formula.index("{"))
    radius = float(path.split("=")[1])
    around = _walk(formula[place:].removesuffix(r"\, dz"), mp.mpc(0), radius)
    return is_near(around, evaluate(problem.answer), size=SMALL)


CHECKS = {
    "complex_product": check_value,
    "complex_quotient": check_value,
    "complex_power": check_value,
    "complex_modulus": check_modulus,
    "complex_argument": check_argument,
    "complex_polar": check_polar,
    "complex_square_roots": check_roots,
    "complex_roots": check_roots,
    "complex_quadratic": check_roots,
    "cauchy_riemann": check_analytic,
    "harmonic_conjugate": check_conjugate,
    "residue_simple": check_residue,
    "residue_double": check_residue,
    "residue_exponential": check_residue,
    "contour_integral": check_contour,
}
