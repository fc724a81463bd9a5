"""Whether the steps of a solution are true: every relation, with names replaced by what they stand for."""

import re
from dataclasses import dataclass
from itertools import pairwise

import sympy
from mpmath import mp
from sympy import Basic, Dummy, MatrixBase, Symbol
from sympy.core.function import AppliedUndef

from kdkit.config.maths.settings import PolicyConfig
from kdkit.maths.checking.calculus import real
from kdkit.maths.checking.comparing import Comparison
from kdkit.maths.checking.equality import Formula, are_equal_at_points, draw_point
from kdkit.maths.checking.evaluating import DIGITS, OutOfRangeError, evaluate, symbols_of
from kdkit.maths.checking.facts import Facts
from kdkit.maths.checking.latex.marks import find_close, split
from kdkit.maths.checking.latex.tokens import UnreadableError, tokenise
from kdkit.maths.checking.shapes import Chain, Listing, Shape, read_tokens
from kdkit.maths.checking.verdicts import StepVerdict

__all__ = ["StepVerdict", "check_line", "check_steps"]

FORMULA = re.compile(r"\$\$(.+?)\$\$|\$(.+?)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]|<<(.+?)>>")
OR = re.compile(r"\s*,?\s*\bor\b\s*")
APPROXIMATE = 5e-3
"""Relative, of `\\approx`."""
ROWS = ('"cases', '"aligned', '"align', '"align*', '"gathered')


def check_steps(solution: str, facts: dict[str, tuple[str, ...]], policies: PolicyConfig) -> list[StepVerdict]:
    """Check each line of a solution.

    A line is right where each of its relations is true: for all values of letters, for each value of an unknown, and
    for one at least where it says `x = 2`. Relations joined by `or` must cover every value, and none may be idle.

    Args:
        solution: a step a line; formulas stand between dollar signs, or a line is one formula.
        facts: see `Problem.facts`.
        policies: of numbers, logarithms and the imaginary unit.
    """
    lines = solution.splitlines()
    return [check_line(lines, number, facts, policies) for number in range(len(lines))]


def check_line(lines: list[str], number: int, facts: dict[str, tuple[str, ...]], policies: PolicyConfig) -> StepVerdict:
    """Check one line of a solution; the lines before it may define names, as in `Let $u = x + 1$`."""
    known = Facts.read(facts, policies)
    for line in lines[:number]:
        for group in _read_line(line, known):
            for relation in group:
                _learn(relation, known)
    verdicts = []
    for group in _read_line(lines[number], known, keep_unreadable=True):
        try:
            verdicts.append(_check_group(group, known))
        except (UnreadableError, OutOfRangeError, RecursionError):
            verdicts.append(None)
    if False in verdicts:
        return StepVerdict.WRONG
    return StepVerdict.RIGHT if verdicts and None not in verdicts else StepVerdict.UNCHECKED


@dataclass(frozen=True)
class _Unreadable:
    """A relation that is no formula we know."""


Relation = Chain | _Unreadable


def _read_line(line: str, facts: Facts, keep_unreadable: bool = False) -> list[list[Relation]]:
    """Read the relations of a line, in groups that `or` joins."""
    matches = list(FORMULA.finditer(line))
    parts = [next(group for group in match.groups() if group is not None) for match in matches]
    gaps = [line[left.end() : right.start()] for left, right in pairwise(matches)]
    if not matches and re.search(r"[=<>]|\\l?g?eq?\b", line):
        parts = [re.sub(r"^[A-Za-z ,']{4,}:?\s|^[^=]*:\s|[.,]$", "", line.strip())]
    groups: list[list[Relation]] = []
    for place, part in enumerate(parts):
        try:
            found = _relations(_tokens(part, facts), facts.policies)
        except (UnreadableError, IndexError, KeyError):
            found = [[_Unreadable()]] if keep_unreadable and re.search(r"[=<>]|\\[lg]eq?\b", part) else []
        if place and found and groups and OR.fullmatch(gaps[place - 1]):
            groups[-1] += found[0]
            found = found[1:]
        groups += found
    return groups


def _tokens(part: str, facts: Facts) -> list[str]:
    """Cut a formula into tokens, with boxes opened and matrices in the place of their names."""
    part = re.sub(r"\\boxed\s*(?=\{)", "", part)
    tokens = tokenise(part, facts.policies, thousands="(" not in part)
    return facts.replace_matrices([token for token in tokens if token not in ("\\quad", "\\therefore", "\\because")])


def _relations(tokens: list[str], policies: PolicyConfig) -> list[list[Relation]]:
    """Read relations, also of several rows; an expression alone is none."""
    if tokens[:1] == ["\\begin"] and tokens[1] in ROWS and find_close(tokens, 0) == len(tokens) - 1:
        rows = [[token for token in row if token != "&"] for row in split(tokens[2:-1], "\\cr")]
        joined: list[list[str]] = []
        for row in filter(None, rows):
            if joined and row[0] in ("=", "<", ">", "\\le", "\\ge"):
                joined[-1] += row
            else:
                joined.append(row)
        return [group for row in joined for group in _relations(row, policies)]
    for mark in ("\\implies", "\\Rightarrow", "\\iff", "\\Leftrightarrow", "\\Longrightarrow"):
        if mark in tokens:
            return [group for part in split(tokens, mark) if part for group in _relations(part, policies)]
    shape = read_tokens(tokens, policies)
    if isinstance(shape, Chain):
        return [[shape]]
    if isinstance(shape, Listing) and not shape.brackets:
        chains: list[Relation] = [item for item in shape.items if isinstance(item, Chain)]
        return [chains] if shape.joined == "or" else [[chain] for chain in chains]
    return []


def _learn(relation: Relation, facts: Facts) -> None:
    """Note a definition that a solution makes for itself."""
    if not isinstance(relation, Chain) or relation.signs[0] != "=" or not _is_definition(relation, facts):
        return
    key, value = relation.sides[0], relation.sides[-1]
    if isinstance(key, Formula) and isinstance(value, Formula) and value.value.free_symbols - {key.value}:
        facts.note(key.value, [value.value])


def _is_definition(relation: Chain, facts: Facts) -> bool:
    """Return whether a relation gives a new name to something."""
    first = relation.sides[0]
    if not isinstance(first, Formula) or not isinstance(first.value, Symbol | AppliedUndef):
        return False
    if first.value in facts.values or facts.knows(first.value):
        return False
    letters = set().union(*(side.value.free_symbols for side in relation.sides[1:] if isinstance(side, Formula)))
    return first.value not in letters


def _check_group(group: list[Relation], facts: Facts) -> bool | None:
    """Check relations that `or` joins; None: one of them cannot be read, or is a definition."""
    if any(isinstance(each, _Unreadable) for each in group):
        return None
    chains = [each for each in group if isinstance(each, Chain)]
    if len(chains) == 1:
        return _check_relation(chains[0], facts)
    tables = [_truths(chain, facts) for chain in chains]
    if any(table is None for table in tables):
        return None
    rows = [table for table in tables if table is not None]
    width = max(map(len, rows))
    rows = [row * width if len(row) == 1 else row for row in rows]
    return all(any(column) for column in zip(*rows, strict=True)) and all(any(row) for row in rows)


def _check_relation(chain: Chain, facts: Facts) -> bool | None:
    """Check a relation that stands alone."""
    if not all(isinstance(side, Formula) for side in chain.sides):
        return _check_shapes(chain, facts)
    if set(chain.signs) & {"in", "to", "iff"}:
        return None
    sides = [side.value for side in chain.sides]
    if any(_has_open_integral(side) for side in sides):
        return _check_integrals(sides, facts) if set(chain.signs) == {"="} else None
    if _is_definition(chain, facts) and not _is_true(chain, facts, {}):
        return None
    if _defines_with_letters(chain, facts):
        return _is_true(chain, facts, {})
    truths = _truths(chain, facts)
    if truths is None:
        return None
    return any(truths) if _is_case(chain, facts) else all(truths)


def _truths(chain: Chain, facts: Facts) -> list[bool] | None:
    """Return for each value of the unknowns whether a relation is true; None: it cannot be computed."""
    if not all(isinstance(side, Formula) for side in chain.sides) or set(chain.signs) & {"in", "to", "iff"}:
        return None
    resolved = [facts.resolve(side.value) for side in chain.sides]
    return [_is_true(chain, facts, assignment) for assignment in facts.assignments(resolved)]


def _is_case(chain: Chain, facts: Facts) -> bool:
    """Return whether a relation may be one case of several: an equation that is linear in its one unknown."""
    if set(chain.signs) != {"="}:
        return False
    sides = [facts.resolve(side.value) for side in chain.sides]
    unknowns = [key for key in facts.values if any(side.has(key) for side in sides)]
    if len(unknowns) != 1 or not isinstance(unknowns[0], Symbol):
        return False
    return not any(sympy.diff(side, unknowns[0]).has(unknowns[0]) for side in sides)


def _defines_with_letters(chain: Chain, facts: Facts) -> bool:
    """Return whether a known name is said to equal a formula of its letters: that must hold for all of them."""
    names = [side for side in chain.sides if facts.knows(side.value) and not side.value.is_number]
    named = [side for side in names if facts.resolve(side.value).free_symbols]
    others = [side for side in chain.sides if side not in named and side.value.free_symbols]
    return bool(named and others) and "=" in chain.signs


def _is_true(chain: Chain, facts: Facts, assignment: dict[Basic, Basic]) -> bool:
    """Return whether every relation of a chain holds with unknowns replaced, and for all values of other letters."""
    sides = [side.value for side in chain.sides]
    if any(isinstance(side, MatrixBase) for side in sides):
        compare = Comparison(facts.policies.model_copy(update={"unevaluated": "accepted"}), "matrix")
        return all(compare.are_same(left, right) for left, right in pairwise(chain.sides))
    sides = [facts.resolve(side).subs(assignment) for side in sides]
    decimals = any(side.decimals for side in chain.sides)
    relations = zip(pairwise(sides), chain.signs, strict=True)
    return all(_holds(left, right, sign, facts.policies, decimals) for (left, right), sign in relations)


def _holds(left: Basic, right: Basic, sign: str, policies: PolicyConfig, decimals: bool) -> bool:
    """Return whether one relation holds, at every point where both sides are defined."""
    if sign in ("=", "~", "!="):
        tolerance = APPROXIMATE if sign == "~" else policies.tolerance if decimals else None
        is_equal = left == right or are_equal_at_points(left, right, policies, tolerance)
        return is_equal != (sign == "!=")
    symbols, counted = symbols_of([left, right]), 0
    with mp.workdps(DIGITS):
        for number in range(12 if symbols else 1):
            point = draw_point(symbols, number, policies.letters)
            try:
                difference = mp.re(evaluate(left, point) - evaluate(right, point))
            except OutOfRangeError:
                continue
            counted += 1
            is_zero = abs(difference) < mp.mpf(10) ** -25
            is_less = difference < 0 and not is_zero
            if not {"<": is_less, "<=": is_less or is_zero, ">": not is_less and not is_zero, ">=": not is_less}[sign]:
                return False
    return counted > 0


def _has_open_integral(formula: Basic) -> bool:
    return any(len(each.limits[0]) == 1 for each in formula.atoms(sympy.Integral))


def _check_integrals(sides: list[Basic], facts: Facts) -> bool | None:
    """Check an equation of indefinite integrals by the derivatives of its sides."""
    first = next(each for side in sides for each in sorted(side.atoms(sympy.Integral), key=str))
    variable = first.variables[0]
    if (definition := facts.definitions.get(variable)) is not None:
        letters = definition.free_symbols - set(facts.values)
        variable = min(letters, key=lambda each: each.name)
    slopes = [_slope(side, variable, facts) for side in sides]
    return all(are_equal_at_points(left, right, facts.policies) for left, right in pairwise(slopes))


def _slope(side: Basic, variable: Symbol, facts: Facts) -> Basic:
    """Differentiate; an integral's derivative is its integrand, times the derivative of its own letter."""
    places, slopes = {}, {}
    real_variable = Symbol(variable.name, real=True)
    for integral in side.atoms(sympy.Integral):
        if len(integral.limits[0]) != 1:
            continue
        letter = integral.variables[0]
        stand_in = sympy.Function(Dummy().name + str(len(places)))(real_variable)
        inner = sympy.diff(facts.resolve(letter), variable) if letter != variable else sympy.Integer(1)
        places[integral] = stand_in
        slopes[stand_in.diff(real_variable)] = real(facts.resolve(integral.function) * inner)
    resolved = real(facts.resolve(side.xreplace(places)))
    return sympy.diff(resolved, real_variable).xreplace(slopes)


def _check_shapes(chain: Chain, facts: Facts) -> bool | None:
    """Check an equation of tuples or sets; None: it says nothing that we can check."""
    if set(chain.signs) != {"="}:
        return None
    sides: list[Shape] = list(chain.sides)
    if isinstance(sides[0], Formula) and not isinstance(sides[0].value, MatrixBase):
        return None
    compare = Comparison(facts.policies, "tuple")
    return all(compare.are_same(left, right) for left, right in pairwise(sides))
