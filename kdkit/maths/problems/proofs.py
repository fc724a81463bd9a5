"""TEMPORARY union of two worktrees' proofs."""

import functools
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

from kdkit.maths.formulas.tree import Formula, Point, wrap
from kdkit.maths.formulas.writing import write
from kdkit.maths.latex import Exact
from kdkit.maths.problems.template import UnprovenStepError

NAMES = ("x", "y", "t", "u", "n", "r", "C", "C_{1}", "C_{2}")
PRIMES = (10007, 10009, 10037, 10039, 10061, 10067, 10069, 10079, 10091)
STARTS = (1.73, -0.61, 0.29)
EXACT = Fraction(1, 10**50)
TOLERANCE = 1e-9


def agree(left: Any, right: Any) -> bool:
    """Compare two values: exact ones, or measured slopes of exact ones, to 50 places, others to 9 digits."""
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return abs(left - right) < EXACT
    difference, size = abs(complex(left) - complex(right)), 1 + abs(complex(left))
    return difference <= TOLERANCE * size


@functools.cache
def usual_points() -> tuple[Point, ...]:
    """Return three points, each coordinate a fraction with a prime denominator of its own.

    Two polynomials in one name with whole coefficients below 10007 that agree at p/10007 are one: the leading
    coefficient of their difference would be a multiple of 10007 (rational root theorem). Functions are compared to 9
    digits at all three points.
    """
    return tuple(
        {name: Fraction(int(start * prime) + 1, prime) for name, prime in zip(NAMES, PRIMES, strict=True)}
        for start in STARTS
    )


def prove_equal(left: Formula, right: Formula, points: tuple[Point, ...] | None = None) -> None:
    """Compare two formulas at points, `usual_points` if none are given.

    Raises:
        UnprovenStepError: they differ at one.
    """
    for at in points or usual_points():
        if not agree(left.value(at), right.value(at)):
            raise UnprovenStepError(f"{write(left)} = {write(right)} is not true at {at}")


def equal(*members: Formula | int | Fraction, points: tuple[Point, ...] | None = None) -> str:
    """Write `$a = b = c$`, proven.

    Raises:
        UnprovenStepError: two neighbours differ.
    """
    formulas = [wrap(member) for member in members]
    for left, right in pairwise(formulas):
        prove_equal(left, right, points)
    return f"${' = '.join(write(formula) for formula in formulas)}$"


def proven(step: str, *claims: bool) -> str:
    """Return a step whose claims are all true.

    Raises:
        UnprovenStepError: one is false.
    """
    if not all(claims):
        raise UnprovenStepError(f"not true: {step}")
    return step


def value_at(coefficients: Sequence[Exact], x: Exact) -> Exact:
    """Return a polynomial's value, highest degree first."""
    value: Exact = 0
    for coefficient in coefficients:
        value = value * x + coefficient
    return value


def times(first: Sequence[Exact], second: Sequence[Exact]) -> list[Exact]:
    """Multiply two polynomials, highest degree first."""
    result: list[Exact] = [0] * (len(first) + len(second) - 1)
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            result[i + j] += a * b
    return result


def derivative(coefficients: Sequence[Exact]) -> list[Exact]:
    """Differentiate a polynomial, highest degree first."""
    degree = len(coefficients) - 1
    return [value * (degree - i) for i, value in enumerate(coefficients[:-1])] or [0]


def quotient(over: Exact, under: Exact) -> Exact:
    """Divide exactly: whole numbers where it comes out even."""
    result = Fraction(over) / under
    return int(result) if result.denominator == 1 else result


def exact(parameter: int | str) -> Exact:
    """Read a parameter of a template: a whole number, or text such as `1/2`."""
    return quotient(Fraction(parameter), 1)
