"""Whether two formulas are equal under the policies: of units, percent, tolerance and rounding."""

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

import sympy
from mpmath import mp
from sympy import Basic, Integer, MatrixBase, Rational

from kdkit.config.maths.settings import PolicyConfig
from kdkit.maths.checking.evaluating import DIGITS, OutOfRangeError, evaluate, is_symbolic
from kdkit.maths.checking.latex.building import unit
from kdkit.maths.checking.latex.units import convert, drop, units_of
from kdkit.maths.checking.points import are_equal_at_points


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
