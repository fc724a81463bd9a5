"""Relations between formulas, proven before they are written."""

import functools
from fractions import Fraction
from itertools import pairwise
from typing import Any

from kdkit.maths.formulas.tree import Formula, Point, wrap
from kdkit.maths.formulas.writing import write
from kdkit.maths.problems.template import UnprovenStepError

NAMES = ("x", "y", "t", "u", "n", "r", "C", "C_{1}", "C_{2}")
PRIMES = (10007, 10009, 10037, 10039, 10061, 10067, 10069, 10079, 10091)
STARTS = (1.73, -0.61, 0.29, -2.37, 3.19, -5.83, 7.41)
NUM_POINTS = 3
"""At which two formulas are compared; further ones stand in where a formula has no value."""
EXACT = Fraction(1, 10**70)
TOLERANCE = 1e-9


def agree(left: Any, right: Any) -> bool:
    """Compare two values: exact ones, or measured slopes of exact ones, to 70 places, others to 9 digits."""
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return abs(left - right) < EXACT
    difference, size = abs(complex(left) - complex(right)), 1 + abs(complex(left))
    return difference <= TOLERANCE * size


@functools.cache
def usual_points() -> tuple[Point, ...]:
    """Return points, each coordinate a fraction with a prime denominator of its own.

    Two polynomials in one name with whole coefficients below 10007 that agree at p/10007 are one: the leading
    coefficient of their difference would be a multiple of 10007 (rational root theorem). Functions are compared to 9
    digits at three points.
    """
    return tuple(
        {name: Fraction(int(start * prime) + 1, prime) for name, prime in zip(NAMES, PRIMES, strict=True)}
        for start in STARTS
    )


def prove_equal(left: Formula, right: Formula, points: tuple[Point, ...] | None = None) -> None:
    """Compare two formulas at given points, or at three of `usual_points` where both have values.

    Raises:
        UnprovenStepError: they differ at one, or have no values.
    """
    num_compared = 0
    for at in points or usual_points():
        try:
            same = agree(left.value(at), right.value(at))
        except ArithmeticError:
            continue
        if not same:
            raise UnprovenStepError(f"{write(left)} = {write(right)} is not true at {at}")
        num_compared += 1
        if num_compared == NUM_POINTS:
            return
    if not num_compared:
        raise UnprovenStepError(f"{write(left)} = {write(right)}: one has no value at any point")


def equal(*members: Formula | int | Fraction, points: tuple[Point, ...] | None = None) -> str:
    """Write `$a = b = c$`, proven; neighbours that are written alike are written once.

    Raises:
        UnprovenStepError: two neighbours differ.
    """
    formulas = [wrap(member) for member in members]
    texts = [write(formula) for formula in formulas]
    for left, right in pairwise(formulas):
        prove_equal(left, right, points)
    return f"${' = '.join(text for k, text in enumerate(texts) if k == 0 or text != texts[k - 1])}$"
