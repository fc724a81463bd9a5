"""Whether two answers that were read are the same, by what kind of answer the gold one is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import sympy
from mpmath import mp
from sympy import MatrixBase

from kdkit.config.maths.settings import PolicyConfig
from kdkit.maths.checking.equality import Formula, are_equal
from kdkit.maths.checking.evaluating import DIGITS, OutOfRangeError, evaluate, symbols_of
from kdkit.maths.checking.points import COUNTED, TRIED, draw_point
from kdkit.maths.checking.sets.regions import NoRegionError, are_same_regions
from kdkit.maths.checking.shapes import Chain, Listing, NumberSet, SetOperation, Shape, Words, name_of
from kdkit.maths.problem import AnswerKind

INEQUALITIES = {"<", ">", "<=", ">=", "!="}
YES, NO = {"yes", "true", "correct"}, {"no", "false", "incorrect"}
NOTHING = {"no solution", "no solutions", "none", "no real solution", "no real solutions", "empty set"}
NOWHERE = {"dne", "does not exist"}
EVERYTHING = {"all real numbers", "all reals", "real numbers", "all real values"}


def guess_kind(gold: Shape) -> AnswerKind:
    """Return what kind of answer a gold one is by its looks."""
    _, gold = name_of(gold)
    if isinstance(gold, Words):
        return "statement"
    if isinstance(gold, Formula):
        return "matrix" if isinstance(gold.value, MatrixBase) else "expression"
    if isinstance(gold, Listing):
        if gold.brackets == "()":
            return "tuple"
        if gold.brackets in ("", "{}"):
            return "set" if any(_is_inequality(item) for item in gold.items) else "values"
        return "set" if len(gold.items) == 2 else "tuple"
    if isinstance(gold, Chain):
        return "set" if _is_inequality(gold) and len(symbols_of(_values(gold))) < 2 else "equation"
    return "set"


@dataclass(frozen=True)
class Comparison:
    """Compares answers of all kinds but those that are proven by differentiation."""

    policies: PolicyConfig
    kind: AnswerKind
    is_guessed: bool = False
    """Whether the kind was not given: brackets then mean what they say."""

    def are_same(self, gold: Shape, answer: Shape) -> bool:
        """Return whether an answer is the gold one."""
        if isinstance(gold, Words) or isinstance(answer, Words):
            return self._are_same_words(gold, answer)
        if self.kind in ("values", "expression"):
            return self._are_same_values(gold, answer)
        if self.kind == "set":
            return self._are_same_sets(gold, answer)
        if self.kind == "tuple":
            return self._are_same_tuples(gold, answer)
        if self.kind == "matrix":
            return self._are_same_items(gold, answer)
        if self.kind == "equation":
            return self._are_same_equations(gold, answer)
        return self._are_same_items(gold, answer)

    def _are_same_words(self, gold: Shape, answer: Shape) -> bool:
        first, second = _words(gold), _words(answer)
        groups = (YES, NO, NOTHING, EVERYTHING, NOWHERE)
        return first == second != "" or any(first in group and second in group for group in groups)

    def _are_same_items(self, gold: Shape, answer: Shape) -> bool:
        """Compare two answers that are one thing: a formula, a matrix, or a part of a list."""
        ours, gold = name_of(gold)
        theirs, answer = name_of(answer)
        if ours and theirs and ours != theirs:
            return False
        if self.policies.names == "required" and ours and not theirs:
            return False
        gold, answer = self._last(gold), self._last(answer)
        if gold is None or answer is None:
            return False
        if isinstance(gold, Formula) and isinstance(answer, Formula):
            return are_equal(gold, answer, self.policies)
        if isinstance(gold, Formula) and isinstance(gold.value, MatrixBase):
            return self._are_same_tuples(gold, answer)
        if isinstance(gold, Listing) and gold.brackets:
            return self._are_same_tuples(gold, answer) if gold.brackets != "{}" else self._are_same_values(gold, answer)
        return isinstance(gold, NumberSet) and gold == answer

    def _last(self, shape: Shape) -> Shape | None:
        """Return the last side of equal ones, `2 + 3 = 5`; None: they are not equal."""
        if isinstance(shape, Chain) and not set(shape.signs) - {"=", "~"}:
            sides = [side for side in shape.sides if isinstance(side, Formula)]
            if (
                len(sides) == 2
                and isinstance(sides[1].value, MatrixBase)
                and not isinstance(sides[0].value, MatrixBase)
            ):
                return sides[1]  # the inverse of A, written with its name
            exact = [side for side, sign in zip(sides[1:], shape.signs, strict=False) if sign == "="]
            if len(sides) != len(shape.sides) or not all(are_equal(sides[0], side, self._lenient) for side in exact):
                return None
            return sides[-1]
        return shape

    @property
    def _lenient(self) -> PolicyConfig:
        """Within a chain an integral may stand on the left."""
        return self.policies.model_copy(update={"unevaluated": "accepted"})

    def _are_same_values(self, gold: Shape, answer: Shape) -> bool:
        """Compare solutions in any order, each as often as it likes."""
        ours, theirs = _solutions(gold), _solutions(answer)
        if ours is None or theirs is None:
            return False
        if len(ours) == 1 and len(theirs) == 1:
            return self._are_same_items(ours[0], theirs[0])
        names = {name_of(item)[0] for item in ours} - {None}
        if len(names) > 1:  # x = 1, y = 2: each belongs to its name
            return self._are_same_tuples(gold, answer)
        return all(any(self._are_same_items(one, other) for other in theirs) for one in ours) and all(
            any(self._are_same_items(one, other) for one in ours) for other in theirs
        )

    def _are_same_sets(self, gold: Shape, answer: Shape) -> bool:
        """Compare sets of real numbers; sets of anything else entry by entry."""
        if self.policies.inequalities == "written" and _is_inequality(gold) != _is_inequality(answer):
            return False
        if self._is_bare_tuple(gold) and self._is_bare_tuple(answer) and self.policies.brackets == "any":
            return self._are_same_tuples(gold, answer)
        try:
            return are_same_regions(gold, answer, self.policies)
        except NoRegionError:
            return self._are_same_values(gold, answer)

    def _is_bare_tuple(self, shape: Shape) -> bool:
        return isinstance(shape, Listing) and shape.brackets not in ("", "{}")

    def _are_same_tuples(self, gold: Shape, answer: Shape) -> bool:
        """Compare entries in their order; entries with names by their names."""
        ours, theirs = name_of(gold), name_of(answer)
        if ours[0] and theirs[0] and ours[0] != theirs[0]:
            return False
        gold, answer = ours[1], theirs[1]
        if _is_inequality(answer) and isinstance(gold, Listing) and len(gold.items) == 2:
            return self.is_guessed and self._are_same_sets(gold, answer)
        first, second = entries_of(gold), entries_of(answer)
        if first is None or second is None or len(first) != len(second):
            return False
        if not self._may_differ(gold, answer):
            return False
        names = [name_of(item)[0] for item in first], [name_of(item)[0] for item in second]
        if None not in names[0] and None not in names[1]:
            second = sorted(
                second, key=lambda item: names[0].index(name) if (name := name_of(item)[0]) in names[0] else -1
            )
        elif None not in names[1] and None in names[0]:
            second = sorted(second, key=lambda item: str(name_of(item)[0]))  # x = 1, y = 2 for (1, 2)
        if self.policies.tuple_order == "any":
            return _match(first, second, self._are_same_items)
        return all(self._are_same_items(one, other) for one, other in zip(first, second, strict=True))

    def _may_differ(self, gold: Shape, answer: Shape) -> bool:
        """Return whether the brackets of two tuples say the same."""
        if self.policies.brackets == "any" or not self.is_guessed or isinstance(gold, Formula):
            return True
        brackets = [each.brackets if isinstance(each, Listing) else "" for each in (gold, answer)]
        has_names = [isinstance(each, Listing) and name_of(each.items[0])[0] is not None for each in (gold, answer)]
        return brackets[0] == brackets[1] or any(has_names)

    def _are_same_equations(self, gold: Shape, answer: Shape) -> bool:
        """Compare relations: the same up to a factor, which is positive for inequalities."""
        if isinstance(gold, Listing) or isinstance(answer, Listing):
            first, second = entries_of(gold), entries_of(answer)
            return first is not None and second is not None and _match(first, second, self._are_same_equations)
        if not isinstance(gold, Chain) or not isinstance(answer, Chain):
            return self.policies.names == "dropped" and self._are_same_items(gold, answer)
        if len(gold.signs) != 1 or len(answer.signs) != 1:
            return gold.signs == answer.signs and all(map(self._are_same_items, gold.sides, answer.sides))
        sides = [*gold.sides, *answer.sides]
        if not all(isinstance(side, Formula) for side in sides):
            return False
        values = [side.value for side in sides]
        if any(isinstance(value, MatrixBase) for value in values):
            return all(map(self._are_same_items, gold.sides, answer.sides))
        return _is_multiple(values, gold.signs[0], answer.signs[0], self.policies)


def _is_multiple(values: Sequence, sign: str, other: str, policies: PolicyConfig) -> bool:
    """Return whether `a - b` and `c - d` have a constant ratio, of the sign that two relations ask for."""
    first, second = values[0] - values[1], values[2] - values[3]
    flipped = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}
    wanted = {sign == other: 1, flipped.get(sign) == other: -1}.get(True)
    if wanted is None:
        return False
    symbols, ratios = symbols_of([first, second]), []
    with mp.workdps(DIGITS):
        for number in range(TRIED):
            point = draw_point(symbols, number, "positive" if number % 2 else policies.letters)
            try:
                above, below = evaluate(first, point), evaluate(second, point)
            except OutOfRangeError:
                continue
            if not above and not below:
                continue
            if not above or not below:
                return False
            ratios.append(above / below)
            if abs(ratios[-1] - ratios[0]) > mp.mpf(10) ** -20 * abs(ratios[0]):
                return False
            if len(ratios) > COUNTED:
                break
        if len(ratios) < COUNTED:
            return False
        is_signed = sign in flipped
        return not is_signed or bool(mp.re(ratios[0]) * wanted > 0)


def entries_of(shape: Shape) -> list[Shape] | None:
    """List the entries of a tuple, vector or row of names; None: it has none."""
    if isinstance(shape, Formula) and isinstance(shape.value, MatrixBase):
        is_vector = 1 in shape.value.shape
        return [Formula(each, shape.decimals) for each in shape.value.flat()] if is_vector else None
    if isinstance(shape, Listing) and shape.brackets != "{}":
        return list(shape.items)
    return None


def _solutions(shape: Shape) -> list[Shape] | None:
    r"""List the solutions that an answer gives; `x = 2, 3` are two, and so is `x \in \{2, 3\}`."""
    name, inner = name_of(shape)
    if name is not None and isinstance(inner, Listing) and inner.brackets == "{}":
        shape = inner
    if isinstance(shape, Listing):
        if shape.brackets not in ("", "{}"):
            return [shape]
        items = list(shape.items)
        first = name_of(items[0])[0] if not shape.brackets else None
        if first is not None and all(name_of(item)[0] in (None, first) for item in items):
            items = [name_of(item)[1] for item in items]  # x = 2, 3
            items = [Chain((Formula(sympy.Symbol(first)), item), ("=",)) for item in items]
        return items
    return [] if shape == NumberSet("empty") else [shape]


def _match(first: Sequence[Shape], second: Sequence[Shape], are_same: Callable[[Shape, Shape], bool]) -> bool:
    """Return whether each of the first has one of its own among the second."""
    left = list(second)
    for one in first:
        found = next((place for place, other in enumerate(left) if are_same(one, other)), None)
        if found is None:
            return False
        del left[found]
    return not left


def _is_inequality(shape: Shape) -> bool:
    """Return whether an answer is written with `<` and the like."""
    if isinstance(shape, Listing):
        return not shape.brackets and any(_is_inequality(item) for item in shape.items)
    return isinstance(shape, Chain) and bool(set(shape.signs) & INEQUALITIES)


def _values(shape: Shape) -> list:
    """List the formulas of a chain."""
    return [side.value for side in shape.sides if isinstance(side, Formula)] if isinstance(shape, Chain) else []


def _words(shape: Shape) -> str:
    """Return an answer's words; a set that has words for it too."""
    if isinstance(shape, Words):
        return shape.text
    if isinstance(shape, NumberSet):
        return "none" if shape.name == "empty" else "all real numbers"
    if isinstance(shape, SetOperation | Chain | Formula):
        return ""
    is_line = shape.brackets == "()" and [str(getattr(item, "value", "")) for item in shape.items] == ["-oo", "oo"]
    return "all real numbers" if is_line else ""
