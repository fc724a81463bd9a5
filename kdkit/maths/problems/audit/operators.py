"""Steps with a derivative, an integral or a limit written out, checked as the answers of such problems are."""

import re
from fractions import Fraction

from kdkit.maths.problems.audit.calculus import (
    LIMIT_NEAR,
    PLACES,
    function_of,
    is_near,
    limit_at,
    slope,
    split_limit,
)
from kdkit.maths.problems.audit.formulas import evaluate, split_relation

DERIVATIVE = re.compile(r"\\frac\{d\}\{dx\}\((.*)\)")
INTEGRAL = re.compile(r"\\int (.*) \\, dx")


def check_operator(formula: str) -> bool | None:
    """Return whether a chain that begins with an operator is true; None: it does not, or has names of its own.

    Raises:
        UnreadableError: a side cannot be read.
    """
    sides, signs = split_relation(formula)
    if not signs or set(signs) != {"="}:
        return None
    derivative, integral = DERIVATIVE.fullmatch(sides[0]), INTEGRAL.fullmatch(sides[0])
    if derivative:
        function = function_of(derivative[1])
        return all(is_near(slope(function, x), evaluate(side, {"x": x})) for side in sides[1:] for x in PLACES)
    if integral:
        found = [side for side in sides[1:] if r"\int" not in side]
        antiderivatives = [function_of(side, C=Fraction(37, 100)) for side in found]
        integrand = function_of(integral[1])
        return all(is_near(slope(each, x), integrand(x)) for each in antiderivatives for x in PLACES) if found else None
    if sides[0].startswith(r"\lim_"):
        values = [limit_at(*split_limit(side)) if side.startswith(r"\lim_") else evaluate(side) for side in sides]
        return all(is_near(values[0], value, LIMIT_NEAR) for value in values[1:])
    return None
