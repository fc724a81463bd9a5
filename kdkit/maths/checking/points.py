"""Whether two formulas have the same values at random points.

Two formulas of the sizes of answers that agree in 45 digits at three random points are equal; sympy's `simplify` is
slower by a factor of hundreds, sometimes does not end, and sometimes does not see it.
"""

import math
import random
from itertools import pairwise

import sympy
from mpmath import mp
from sympy import Basic
from sympy.core.relational import Relational

from kdkit.config.maths.settings import PolicyConfig
from kdkit.maths.checking.evaluating import DIGITS, OutOfRangeError, Value, evaluate, magnitude, symbols_of

EXACT = 10**-45
"""Relative: equal formulas differ by rounding in the 60th digit, or a few more where terms cancel."""
MANY_DIGITS = 600
"""Where a sum has a term that the others hide, such as 1 beside 10^100 x."""
COUNTED, TRIED = 3, 24
"""Points that must agree, and points that are tried: formulas need not be defined everywhere."""
COMPLEX = (sympy.I, sympy.conjugate, sympy.re, sympy.im, sympy.arg)
"""Where one of them occurs, values are compared as complex numbers."""
COMPLEX_LETTERS = ("z", "w", "\\zeta")
"""Of formulas with these, such letters stand for complex numbers; all others are real."""


def are_equal_at_points(left: Basic, right: Basic, policies: PolicyConfig, tolerance: float | None = None) -> bool:
    """Compare values at random points.

    Args:
        left: one formula.
        right: the other.
        policies: `letters` says which points.
        tolerance: relative; None: as good as exact.
    """
    if left.has(sympy.Piecewise) or right.has(sympy.Piecewise):
        return _are_equal_in_pieces(left, right, EXACT if tolerance is None else tolerance)
    symbols = symbols_of([left, right])
    is_complex = policies.letters == "complex" or left.has(*COMPLEX) or right.has(*COMPLEX)
    limit = EXACT if tolerance is None else tolerance
    with mp.workdps(DIGITS):
        if not symbols:
            return _agree_at(left, right, {}, limit, is_complex=True) is not False and all(
                _has_value_at(each, {}) for each in (left, right)
            )
        counted, blind = 0, []
        for number in range(TRIED):
            point = draw_point(symbols, number, policies.letters, is_complex)
            verdict = _agree_at(left, right, point, limit, is_complex, blind)
            if verdict is False:
                return False
            counted += verdict is True
            if counted == COUNTED:
                return True
        if counted:
            return True
        if blind:
            return _agree_in_many_digits(left, right, blind, is_complex, tolerance)
        if is_complex:
            return False
        found = [_agree_at(left, right, draw_point(symbols, 100 + n, "real"), limit, is_complex=True) for n in range(6)]
        return True in found and False not in found


def _are_equal_in_pieces(left: Basic, right: Basic, limit: float) -> bool:
    """Compare functions in pieces where a piece ends, between such places and beyond them."""
    conditions = [each for each in (*left.atoms(Relational), *right.atoms(Relational)) if each.free_symbols]
    letters = [{each for each in condition.args if isinstance(each, sympy.Symbol)} for condition in conditions]
    common = sorted(set.intersection(*letters), key=str) if letters else []
    if not common:
        return False
    variable = common[-1]
    bounds = {each for condition in conditions for each in condition.args} - {variable}
    if any(variable in bound.free_symbols for bound in bounds):
        return False
    others = [each for each in symbols_of([left, right]) if each != variable]
    compared = 0
    with mp.workdps(DIGITS):
        for number in range(COUNTED):
            point = draw_point(others, number, "real")
            try:
                ends = sorted({mp.re(evaluate(bound, point)) for bound in bounds})
            except OutOfRangeError:
                return False
            shares = [mp.mpf(random.Random(number + place).random()) for place in range(COUNTED)]
            between = [lower + (upper - lower) * share for lower, upper in pairwise(ends) for share in shares]
            beyond = [
                mp.mpf(end) + 9 * sign * share for end, sign in ((ends[0], -1), (ends[-1], 1)) for share in shares
            ]
            for at in [*ends, *between, *beyond]:
                here = {**point, variable: at}
                known = [_has_value_at(each, here) for each in (left, right)]
                if known[0] != known[1] or (all(known) and not _agree_at(left, right, here, limit, is_complex=True)):
                    return False
                compared += all(known)
    return compared > 0


def _has_value_at(formula: Basic, point: dict) -> bool:
    try:
        evaluate(formula, point)
    except OutOfRangeError:
        return False
    return True


def _agree_in_many_digits(
    left: Basic, right: Basic, points: list[dict], is_complex: bool, tolerance: float | None
) -> bool:
    """Compare where terms hide others; a tolerance is then one of the smallest term."""
    with mp.workdps(MANY_DIGITS):
        if tolerance is not None:
            return all(_agree_in_smallest(left, right, point, tolerance) for point in points[:COUNTED])
        limit = mp.mpf(10) ** (50 - MANY_DIGITS)
        return [_agree_at(left, right, point, limit, is_complex) for point in points[:COUNTED]] == [True] * COUNTED


def _agree_in_smallest(left: Basic, right: Basic, point: dict, tolerance: float) -> bool:
    """Return whether a difference is small beside the smallest term."""
    spreads: list[int] = []
    first, second = evaluate(left, point, spreads), evaluate(right, point, spreads)
    return bool(abs(first - second) <= tolerance * mp.ldexp(max(abs(first), abs(second)), -max(spreads)))


def _agree_at(
    left: Basic, right: Basic, point: dict, limit: Value, is_complex: bool, blind: list[dict] | None = None
) -> bool | None:
    """Compare at one point; None: it does not count, and `blind` gets it where one term hides another."""
    spreads: list[int] = []
    try:
        first, second = evaluate(left, point, spreads), evaluate(right, point, spreads)
    except OutOfRangeError:
        return None
    if not is_complex and max(abs(mp.im(first)), abs(mp.im(second))) > mp.mpf(10) ** -30:
        return None
    size, difference = max(abs(first), abs(second)), abs(first - second)
    if difference > limit * size and not _is_rounding(left, right, point, limit):
        return False
    if point and spreads and max(spreads) > -math.log2(limit) - 7:
        if blind is not None:
            blind.append(point)
        return None
    return True


def _is_rounding(left: Basic, right: Basic, point: dict, limit: Value) -> bool:
    """Return whether a difference goes away with three times the digits."""
    digits = 3 * mp.dps
    with mp.workdps(digits):
        try:
            first, second = evaluate(left, point), evaluate(right, point)
            size = magnitude(left, point) + magnitude(right, point)
        except OutOfRangeError:
            return False
        difference = abs(first - second)
        return bool(
            difference <= limit * max(abs(first), abs(second)) or difference <= mp.mpf(10) ** (-2 * digits // 3) * size
        )


def draw_point(symbols: list, number: int, letters: str, is_complex: bool = False) -> dict[Basic, Value]:
    """Draw values of symbols: the same for the same number.

    Their sizes are 0.3 to 3, of every third point 0.03 to 30, and of points from the twelfth on ever smaller.

    Args:
        symbols: to draw for.
        number: of the point.
        letters: see the policy.
        is_complex: whether the formula is one of complex numbers, so that z is one.
    """
    draws = random.Random(number * 7919 + len(symbols))
    spread, smaller = (3.5 if number % 3 == 2 else 1.2), max(0, number % 100 - 11)
    point: dict[Basic, Value] = {}
    for symbol in symbols:
        size = mp.exp(mp.mpf(draws.uniform(-spread, spread) - smaller))
        angle, is_negative = draws.uniform(-3.1, 3.1), draws.random() < 0.5
        if symbol.is_positive or letters == "positive":
            point[symbol] = size
        elif letters == "complex" or (is_complex and symbol.name.split("_")[0] in COMPLEX_LETTERS):
            point[symbol] = size * mp.expj(angle)
        else:
            point[symbol] = -size if is_negative else size
    return point
