r"""Families over the whole numbers, `\frac{\pi}{6} + 2k\pi, k \in \mathbb{Z}`: compared as sets of numbers."""

import re
from dataclasses import dataclass
from fractions import Fraction
from math import lcm

import sympy
from mpmath import mp

from kdkit.maths.checking.equality import Formula
from kdkit.maths.checking.evaluating import DIGITS, OutOfRangeError, Value, evaluate
from kdkit.maths.checking.latex.units import convert
from kdkit.maths.checking.shapes import TEXT, Listing, Shape, name_of

LETTERS = ("k", "n", "m")
"""What may be whole numbers in an answer that does not say so, where the gold answer does."""
MOST_MEMBERS = 1000
"""Within one period."""
SIZING = re.compile(r"\\(?:left|right|q?quad|[,;:! ])(?![A-Za-z])|~")
INTEGERS = r"\\in\s*(?:\\mathbb\s*(?:\{\s*Z\s*\}|Z)|\\Z|\\Integers)"
STATED = re.compile(
    r"(?P<body>.*?)[\s,;]*(?P<open>[(\[])?\s*(?:(?:where|for|with|and)\s+)?(?:(?:any|all|some|every|an)\s+)?"
    rf"(?:integers?\s+(?P<first>[a-z])|(?P<second>[a-z])\s*(?:{INTEGERS}|(?:is\s+)?an(?:y)?\s+integer))\s*"
    r"(?(open)[)\]])\s*\.?\s*",
    re.DOTALL,
)
BUILDER = re.compile(rf"\\\{{(?P<body>.*)(?:\||:|\\mid)\s*(?P<second>[a-z])\s*{INTEGERS}\s*\\\}}", re.DOTALL)


def cut_integers(text: str) -> tuple[str, str | None]:
    r"""Cut off the words `k \in \mathbb{Z}`, or `where k is an integer`.

    Returns:
        What is left, and the letter; None: the text says of no letter that it is a whole number.
    """
    if "\\in" not in text and "integer" not in text:
        return text, None
    plain = SIZING.sub(" ", TEXT.sub(r" \1 ", text)).replace("$", " ").strip()
    if match := BUILDER.fullmatch(plain):
        return match["body"], match["second"]
    if match := STATED.fullmatch(plain):
        return match["body"], match["first"] or match["second"]
    return text, None


@dataclass(frozen=True)
class Family:
    """The numbers `start + k step` for all whole k."""

    start: Value
    step: Value


def are_same_families(gold: Shape, letter: str, answer: Shape, other: str | None) -> bool | None:
    """Compare families as the sets of numbers that they are.

    Args:
        gold: a formula in its letter, or a list of such.
        letter: a whole number in the gold answer.
        answer: to compare.
        other: the whole number in it; None: it does not say, and any usual letter is one.

    Returns:
        None: one of them is no such family.
    """
    with mp.workdps(DIGITS):
        ours, theirs = _read(gold, (letter,)), _read(answer, LETTERS if other is None else (other,))
        if ours is None or theirs is None:
            return None
        unit = ours[1][0].step
        periods = [_ratio(each.step, unit) for each in (*ours[1], *theirs[1])]
        if ours[0] and theirs[0] and ours[0] != theirs[0]:
            return False
        if None in periods:
            return False
        known = [each for each in periods if each is not None]
        below = lcm(*(each.denominator for each in known))
        whole = Fraction(lcm(*(abs(each.numerator) * (below // each.denominator) for each in known)), below)
        period = unit * whole.numerator / whole.denominator
        if sum(abs(whole / each) for each in known) > MOST_MEMBERS:
            return None
        first, second = (_members(families, period) for families in (ours[1], theirs[1]))
        return _covers(first, second, period) and _covers(second, first, period)


def _read(shape: Shape, letters: tuple[str, ...]) -> tuple[set[str], list[Family]] | None:
    """Read an answer's names and families; None: it is something else."""
    items = shape.items if isinstance(shape, Listing) and shape.brackets in ("", "{}") else (shape,)
    names, families = set(), []
    for name, item in map(name_of, items):
        names |= {name} - {None}
        if not isinstance(item, Formula) or item.decimals or not isinstance(item.value, sympy.Expr):
            return None
        value = convert(item.value)
        symbols = [each for each in value.free_symbols if each.name in letters]
        if len(symbols) != 1 or value.free_symbols != set(symbols):
            return None
        whole = sympy.Symbol("k", integer=True)
        value = value.xreplace({symbols[0]: whole})
        alternates = value.has(sympy.Pow(-1, whole))
        for part in (2 * whole, 2 * whole + 1) if alternates else (whole,):
            expanded = sympy.expand(value.subs(whole, part))
            step = expanded.coeff(whole, 1)
            start = expanded - step * whole
            if step == 0 or start.free_symbols or step.free_symbols:
                return None
            try:
                families.append(Family(evaluate(start, {}), evaluate(step, {})))
            except OutOfRangeError:
                return None
    return names, families


def _ratio(step: Value, unit: Value) -> Fraction | None:
    """Return how often one step goes into another; None: their ratio is not rational, and no period is common."""
    ratio = step / unit
    if abs(mp.im(ratio)) > mp.mpf(10) ** -40:
        return None
    found = Fraction(mp.nstr(mp.re(ratio), 50)).limit_denominator(MOST_MEMBERS)
    return found if abs(mp.re(ratio) - mp.mpf(found.numerator) / found.denominator) < mp.mpf(10) ** -40 else None


def _members(families: list[Family], period: Value) -> list[Value]:
    """List the members within one period."""
    return [
        each.start + each.step * number
        for each in families
        for number in range(max(1, int(mp.nint(abs(period / each.step)))))
    ]


def _covers(first: list[Value], second: list[Value], period: Value) -> bool:
    """Return whether each of the first is one of the second, but for whole periods."""
    limit = mp.mpf(10) ** -40
    turns = [[(one - other) / period for other in second] for one in first]
    return all(any(abs(turn - mp.nint(mp.re(turn))) < limit for turn in row) for row in turns)
