"""Sets of real numbers: intervals, unions and solved inequalities, compared at their ends and between them."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import sympy
from mpmath import mp
from sympy import Basic

from kdkit.config.maths.settings import PolicyConfig
from kdkit.maths.checking.equality import Formula
from kdkit.maths.checking.evaluating import DIGITS, OutOfRangeError, Value, evaluate, symbols_of
from kdkit.maths.checking.points import COUNTED, draw_point
from kdkit.maths.checking.shapes import Chain, Listing, NumberSet, SetOperation, Shape, name_of

FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}


class NoRegionError(ValueError):
    """A shape that is no set of real numbers."""


@dataclass(frozen=True)
class Region:
    """A set of real numbers."""

    contains: Callable[[Value], bool]
    ends: tuple[Value, ...]
    """Where it may begin or end."""


def are_same_regions(gold: Shape, answer: Shape, policies: PolicyConfig) -> bool:
    """Return whether two sets are equal.

    Args:
        gold: an interval, a union, a set in braces, or an inequality that is solved for its letter.
        answer: the same.
        policies: of tolerance.

    Raises:
        NoRegionError: one of them is no such set.
    """
    formulas = [*_formulas(gold), *_formulas(answer)]
    letters = symbols_of([each.value for each in formulas])
    tolerance = policies.tolerance if any(each.decimals for each in formulas) else 0.0
    variables = {name for each in (gold, answer) for name in _variables(each)}
    if len(variables) > 1:
        return False
    letters = [each for each in letters if each.name not in variables]
    with mp.workdps(DIGITS):
        fault = NoRegionError("a set that is empty for all letters")
        counted = 0
        for number in range(12 if letters else 1):
            maker = RegionMaker(
                draw_point(letters, number, "real" if number % 2 else "positive"), max(tolerance, 10**-25)
            )
            try:
                ours = maker.make(gold)
            except NoRegionError as error:  # these letters turn an interval around
                fault = error
                continue
            if not maker.are_same(ours, maker.make(answer)):
                return False
            counted += 1
            if counted == COUNTED:
                break
        if not counted:
            raise fault
    return True


class RegionMaker:
    """Makes regions with letters replaced by numbers."""

    def __init__(self, point: dict[Basic, Value], tolerance: float) -> None:
        """Keep the point and the relative tolerance of ends."""
        self.point, self.tolerance = point, tolerance

    def are_same(self, first: Region, second: Region) -> bool:
        """Compare at every end, between any two, and beyond them."""
        ends = sorted([*first.ends, *second.ends])
        distinct = [end for place, end in enumerate(ends) if not place or not self._is_near(end, ends[place - 1])]
        between = [(left + right) / 2 for left, right in pairwise(distinct)]
        beyond = [distinct[0] - 1, distinct[-1] + 1] if distinct else [mp.mpf(0)]
        return all(first.contains(at) == second.contains(at) for at in [*distinct, *between, *beyond])

    def make(self, shape: Shape) -> Region:
        """Make a region."""
        if isinstance(shape, Formula):
            return self._point(shape)
        if isinstance(shape, NumberSet):
            is_all = shape.name == "reals"
            return Region(lambda at: is_all, ())
        if isinstance(shape, SetOperation):
            return self._combine(shape.sign, self.make(shape.left), self.make(shape.right))
        if isinstance(shape, Chain):
            return self._relation(shape)
        if isinstance(shape, Listing):
            return self._listing(shape)
        raise NoRegionError("words")

    def _listing(self, shape: Listing) -> Region:
        if shape.brackets not in ("", "{}"):
            if len(shape.items) != 2:
                raise NoRegionError("an interval has two ends")
            lower, upper = (self._value(item) for item in shape.items)
            return self._interval(lower, upper, shape.brackets[0] == "[", shape.brackets[1] == "]")
        parts = [self.make(item) for item in shape.items]
        is_relation = [isinstance(item, Chain) and not set(item.signs) & {"=", "in"} for item in shape.items]
        sign = "\\cap" if all(is_relation) and shape.joined in (",", "and") and not shape.brackets else "\\cup"
        whole = parts[0]
        for part in parts[1:]:
            whole = self._combine(sign, whole, part)
        nothing = Region(lambda at: False, ())
        if sign == "\\cap" and shape.joined == "," and self.are_same(whole, nothing):
            return self._listing(Listing(shape.items, joined="or"))  # x < 1, x > 2
        return whole

    def _combine(self, sign: str, left: Region, right: Region) -> Region:
        ends = (*left.ends, *right.ends)
        if sign == "\\cup":
            return Region(lambda at: left.contains(at) or right.contains(at), ends)
        if sign == "\\cap":
            return Region(lambda at: left.contains(at) and right.contains(at), ends)
        return Region(lambda at: left.contains(at) and not right.contains(at), ends)

    def _relation(self, shape: Chain) -> Region:
        r"""Make the region of `x < 2`, `1 < x < 2`, `x = 3`, `x \ne 3` or `x \in` a set."""
        name, rest = name_of(shape)
        if name is not None:
            return self.make(rest)
        sides, signs = list(shape.sides), list(shape.signs)
        place = _find_variable(shape)
        if place is None:
            raise NoRegionError("an inequality that is not solved")
        whole = Region(lambda at: True, ())
        for other, sign in enumerate(signs):
            side = sides[other if other < place else other + 1]
            whole = self._combine("\\cap", whole, self._half(side, FLIPPED.get(sign, sign) if other < place else sign))
        return whole

    def _half(self, side: Shape, sign: str) -> Region:
        """Make the region of numbers that are in a relation to a side."""
        value = self._value(side)
        if sign == "!=":
            return self._combine("\\setminus", Region(lambda at: True, ()), self._point(side))
        if sign in ("<", "<="):
            return self._interval(-mp.inf, value, False, sign == "<=")
        if sign in (">", ">="):
            return self._interval(value, mp.inf, sign == ">=", False)
        raise NoRegionError(sign)

    def _interval(self, lower: Value, upper: Value, has_lower: bool, has_upper: bool) -> Region:
        if lower > upper:
            raise NoRegionError("an interval from above to below")

        def contains(at: Value) -> bool:
            if self._is_near(at, lower):
                return has_lower and mp.isfinite(lower) and (has_upper or not self._is_near(at, upper))
            if self._is_near(at, upper):
                return has_upper and mp.isfinite(upper)
            return bool(lower < at < upper)

        return Region(contains, tuple(end for end in (lower, upper) if mp.isfinite(end)))

    def _point(self, shape: Shape) -> Region:
        value = self._value(shape)
        if not mp.isfinite(value):
            raise NoRegionError("infinity is no number")
        return Region(lambda at: self._is_near(at, value), (value,))

    def _is_near(self, first: Value, second: Value) -> bool:
        if not (mp.isfinite(first) and mp.isfinite(second)):
            return bool(first == second)
        return bool(abs(first - second) <= self.tolerance * max(abs(first), abs(second)))

    def _value(self, shape: Shape) -> Value:
        """Return the number that an end is."""
        _, shape = name_of(shape)
        if not isinstance(shape, Formula):
            raise NoRegionError("an end that is no number")
        if shape.value in (sympy.oo, -sympy.oo):
            return mp.inf if shape.value is sympy.oo else -mp.inf
        try:
            value = evaluate(shape.value, self.point)
        except OutOfRangeError as error:
            raise NoRegionError(str(error)) from error
        if abs(mp.im(value)) > mp.mpf(10) ** -30:
            raise NoRegionError("a complex number")
        return mp.re(value)


def _find_variable(chain: Chain) -> int | None:
    """Return the side that is the letter which an inequality is solved for: the middle of three, one of two."""
    if len(chain.sides) == 3:
        return 1 if _is_letter(chain.sides[1]) else None
    places = [place for place, side in enumerate(chain.sides) if _is_letter(side)]
    return places[0] if places and len(chain.sides) == 2 else None


def _is_letter(shape: Shape) -> bool:
    return isinstance(shape, Formula) and isinstance(shape.value, sympy.Symbol) and not shape.value.name.startswith('"')


def _variables(shape: Shape) -> set[str]:
    """Return the letters that relations are solved for."""
    if isinstance(shape, Chain):
        name, _ = name_of(shape)
        place = _find_variable(shape)
        return {name} if name is not None else set() if place is None else {str(shape.sides[place].value)}
    if isinstance(shape, Listing):
        return {name for item in shape.items for name in _variables(item)}
    if isinstance(shape, SetOperation):
        return _variables(shape.left) | _variables(shape.right)
    return set()


def _formulas(shape: Shape) -> list[Formula]:
    """List the formulas within."""
    if isinstance(shape, Formula):
        return [shape]
    if isinstance(shape, SetOperation):
        return [*_formulas(shape.left), *_formulas(shape.right)]
    if isinstance(shape, Chain):
        return [each for side in shape.sides for each in _formulas(side)]
    if isinstance(shape, Listing):
        return [each for item in shape.items for each in _formulas(item)]
    return []
