"""Whether two formulas are equal: exactly where both are numbers, else by 40 digits at random points.

Two formulas of the sizes of answers that agree in 25 digits at three random points are equal; sympy's `simplify` is
slower by a factor of hundreds, sometimes does not end, and sometimes does not see it.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

import sympy
from mpmath import mp
from sympy import Basic, Integer, MatrixBase, Rational

from kdkit.config.maths.settings import PolicyConfig
from kdkit.maths.checking.evaluating import DIGITS, OutOfRangeError, Value, evaluate, is_symbolic, symbols_of
from kdkit.maths.checking.latex.building import unit
from kdkit.maths.checking.latex.units import convert, drop, units_of

EXACT = 10**-25
"""Relative: equal formulas differ by rounding in the 40th digit, or a few more where terms cancel."""
SMALL = 10**-12
"""Relative: a smaller difference may be due to terms that cancel, and is looked at with more digits."""
COUNTED, TRIED = 3, 16
"""Points that must agree, and points that are tried: formulas need not be defined everywhere."""


COMPLEX = (sympy.I, sympy.conjugate, sympy.re, sympy.im, sympy.arg)
"""Where one of them occurs, values are compared as complex numbers."""
COMPLEX_LETTERS = ("z", "w", "\\zeta")
"""Of formulas with these, such letters stand for complex numbers; all others are real."""


@dataclass(frozen=True)
class Formula:
    """A formula with what its text says beside its value."""

    value: Basic
    decimals: bool = False
    """Whether a number in it has a decimal point."""
    standing: bool = False
    """Whether an integral, limit, determinant or the like is left to the reader."""
    places: int | None = None
    """Of a single decimal number: digits behind the point, less its power of ten; None: it is something else."""


def are_equal(gold: Formula, answer: Formula, policies: PolicyConfig) -> bool:
    """Return whether two formulas are equal under the policies of units, tolerance and rounding."""
    if answer.standing and not gold.standing and policies.unevaluated == "refused":
        return False
    left, right = gold.value, answer.value
    if left == right:
        return True
    if isinstance(left, MatrixBase) or isinstance(right, MatrixBase):
        return _are_equal_matrices(gold, answer, policies)
    pairs = _match_units(left, right, policies)
    return any(_are_equal_numbers(first, second, gold, answer, policies) for first, second in pairs)


def _are_equal_matrices(gold: Formula, answer: Formula, policies: PolicyConfig) -> bool:
    """Compare entry by entry; a number is no matrix."""
    left, right = gold.value, answer.value
    if not (isinstance(left, MatrixBase) and isinstance(right, MatrixBase)) or left.shape != right.shape:
        return False
    approximate = gold.decimals, answer.decimals
    return all(
        are_equal(Formula(first, approximate[0]), Formula(second, approximate[1]), policies)
        for first, second in zip(left.flat(), right.flat(), strict=True)
    )


def _match_units(left: Basic, right: Basic, policies: PolicyConfig) -> Iterator[tuple[Basic, Basic]]:
    """Yield what to compare: units converted, and dropped where a policy lets them be left out."""
    ours, theirs = units_of(left), units_of(right)
    if not ours and not theirs:
        yield left, right
        return
    if unit("%") in ours | theirs:
        yield from _match_percent(left, right, policies)
        return
    if policies.units == "ignored":
        yield left.subs(dict.fromkeys(ours, Integer(1))), right.subs(dict.fromkeys(theirs, Integer(1)))
        return
    is_one_sided = not ours or not theirs
    if not is_one_sided or policies.units != "required":
        yield convert(left), convert(right)
    if is_one_sided and policies.units == "optional":
        bare = [drop(each) if units_of(each) else each for each in (left, right)]
        if bare[0] is not None and bare[1] is not None:
            yield bare[0], bare[1]


def _match_percent(left: Basic, right: Basic, policies: PolicyConfig) -> Iterator[tuple[Basic, Basic]]:
    """Yield what to compare where one side at least has a percent sign."""
    percent = unit("%")
    hundredth = {percent: Rational(1, 100)}
    yield from _match_units(left.subs(hundredth), right.subs(hundredth), policies)
    if policies.percent == "either" and (percent in units_of(left)) != (percent in units_of(right)):
        whole = {percent: Integer(1)}
        yield from _match_units(left.subs(whole), right.subs(whole), policies)


def _are_equal_numbers(left: Basic, right: Basic, gold: Formula, answer: Formula, policies: PolicyConfig) -> bool:
    """Compare two formulas without units."""
    if left == right:
        return True
    if left.has(sympy.oo, -sympy.oo) or right.has(sympy.oo, -sympy.oo):
        return False  # equal ones are the same object
    is_approximate = gold.decimals or answer.decimals
    if left.is_Rational and right.is_Rational:
        is_whole = (left.is_Integer and not gold.decimals) or (right.is_Integer and not answer.decimals)
        if not is_approximate or is_whole:
            return _rounds_to(right, left, gold, policies)
        return _are_near(left, right, policies) or _rounds_to(right, left, gold, policies)
    tolerance = Decimal(str(policies.tolerance)) if is_approximate else None
    if are_equal_at_points(left, right, policies, None if tolerance is None else float(tolerance)):
        return True
    if policies.rounding == "gold" and gold.places is not None and not is_symbolic(right):
        with mp.workdps(DIGITS):
            try:
                found = evaluate(right, {})
            except OutOfRangeError:
                return False
            return not mp.im(found) and _rounds_to(Rational(str(mp.nstr(mp.re(found), 30))), left, gold, policies)
    return False


def _are_near(left: Rational, right: Rational, policies: PolicyConfig) -> bool:
    """Compare with the relative tolerance, exactly."""
    first, second = Fraction(left.p, left.q), Fraction(right.p, right.q)
    return abs(first - second) <= Fraction(Decimal(str(policies.tolerance))) * max(abs(first), abs(second))


def _rounds_to(number: Rational, target: Rational, gold: Formula, policies: PolicyConfig) -> bool:
    """Return whether a number rounds to the gold decimal."""
    if policies.rounding != "gold" or gold.places is None:
        return False
    return abs(number - target) * 2 <= Rational(1, 10) ** gold.places


def are_equal_at_points(left: Basic, right: Basic, policies: PolicyConfig, tolerance: float | None = None) -> bool:
    """Compare values at random points.

    Args:
        left: one formula.
        right: the other.
        policies: `letters` says which points.
        tolerance: relative; None: as good as exact.
    """
    symbols = symbols_of([left, right])
    is_complex = policies.letters == "complex" or left.has(*COMPLEX) or right.has(*COMPLEX)
    with mp.workdps(DIGITS):
        limit = EXACT if tolerance is None else tolerance
        if not symbols:
            return _agree_at(left, right, {}, limit, is_complex=True) is True
        counted = 0
        for number in range(TRIED):
            point = draw_point(symbols, number, policies.letters, is_complex)
            verdict = _agree_at(left, right, point, limit, is_complex)
            if verdict is False:
                return False
            counted += verdict is True
            if counted == COUNTED:
                return True
        if is_complex or counted:
            return counted > 0
        found = [_agree_at(left, right, draw_point(symbols, 100 + n, "real"), limit, is_complex=True) for n in range(6)]
        return True in found and False not in found


def _agree_at(left: Basic, right: Basic, point: dict, limit: float, is_complex: bool) -> bool | None:
    """Compare at one point; None: it does not count."""
    try:
        first, second = evaluate(left, point), evaluate(right, point)
    except OutOfRangeError:
        return None
    if not is_complex and max(abs(mp.im(first)), abs(mp.im(second))) > mp.mpf(10) ** -30:
        return None
    size, difference = max(abs(first), abs(second)), abs(first - second)
    if difference <= limit * size:
        return True
    if size > SMALL and difference > SMALL * size:
        return False
    with mp.workdps(3 * DIGITS):  # terms cancel, or both are zero
        first, second = evaluate(left, point), evaluate(right, point)
        size = max(abs(first), abs(second))
        return bool(abs(first - second) <= limit * size or size < mp.mpf(10) ** (-2 * DIGITS))


def draw_point(symbols: list, number: int, letters: str, is_complex: bool = False) -> dict[Basic, Value]:
    """Draw values of symbols: the same for the same number, of sizes from 0.3 to 3, every third point 0.03 to 30.

    Args:
        symbols: to draw for.
        number: of the point.
        letters: see the policy.
        is_complex: whether the formula is one of complex numbers, so that z is one.
    """
    draws = random.Random(number * 7919 + len(symbols))
    spread = 3.5 if number % 3 == 2 else 1.2
    point: dict[Basic, Value] = {}
    for symbol in symbols:
        size = mp.exp(mp.mpf(draws.uniform(-spread, spread)))
        angle, is_negative = draws.uniform(-3.1, 3.1), draws.random() < 0.5
        if symbol.is_positive or letters == "positive":
            point[symbol] = size
        elif letters == "complex" or (is_complex and symbol.name.split("_")[0] in COMPLEX_LETTERS):
            point[symbol] = size * mp.expj(angle)
        else:
            point[symbol] = -size if is_negative else size
    return point
