"""Antiderivatives and solutions of differential equations: proven by differentiation, not by their looks."""

import re
from dataclasses import dataclass

import sympy
from mpmath import mp
from sympy import Basic, Expr, Symbol
from sympy.core.function import AppliedUndef

from kdkit.config.maths.settings import PolicyConfig
from kdkit.maths.checking.equality import Formula, are_equal_at_points, draw_point
from kdkit.maths.checking.evaluating import DIGITS, OutOfRangeError, evaluate, symbols_of
from kdkit.maths.checking.latex.tokens import UnreadableError
from kdkit.maths.checking.shapes import Chain, Listing, Shape, name_of, read_shape

DERIVATIVE = re.compile(r"d(?P<order>\d?)(?P<head>.+)/d(?P<variable>.+)")
USUAL_VARIABLES = ("x", "t", "s", "z", "u", "r", "\\theta")


def real(formula: Basic) -> Basic:
    """Make all letters real numbers, so that |x| can be differentiated."""
    return formula.xreplace({each: Symbol(each.name, real=True) for each in formula.free_symbols})


def is_antiderivative(gold: Shape, answer: Shape, against: str, policies: PolicyConfig) -> bool:
    """Return whether an answer's derivative is the integrand, with its constant where the policy wants one.

    Args:
        gold: an antiderivative; it says for which letter.
        answer: to check.
        against: LaTeX of the integrand; empty: the gold one's derivative.
        policies: `constant`.

    Raises:
        UnreadableError: the gold answer is no formula, or no antiderivative.
    """
    ours, theirs = _formula_of(gold), _formula_of(answer)
    if ours is None:
        raise UnreadableError("the gold antiderivative")
    if theirs is None:
        return False
    integrand, variable = _find_integrand(ours, against, policies)
    known = integrand.free_symbols | {variable}
    wants = policies.constant == "required" or (policies.constant == "gold" and bool(ours.free_symbols - known))
    if wants and not theirs.free_symbols - known:
        return False
    return are_equal_at_points(integrand, sympy.diff(theirs, variable), policies)


def _formula_of(shape: Shape) -> Expr | None:
    """Return the formula behind `F(x) =` or an integral sign; None: there is none, or an integral is left."""
    _, shape = name_of(shape)
    if isinstance(shape, Chain) and set(shape.signs) == {"="}:
        shape = shape.sides[-1]
    if not isinstance(shape, Formula) or shape.value.has(sympy.Integral) or not isinstance(shape.value, Expr):
        return None
    return real(shape.value)


def _find_integrand(gold: Expr, against: str, policies: PolicyConfig) -> tuple[Expr, Symbol]:
    """Find the integrand and the letter that the gold answer belongs to."""
    integrand = None
    if against:
        shape = read_shape(against, policies)
        if not isinstance(shape, Formula):
            raise UnreadableError("the integrand")
        integrand = real(shape.value)
        if isinstance(integrand, sympy.Integral):
            return integrand.function, integrand.variables[0]
    letters = symbols_of([gold])
    if integrand is not None:
        letters = sorted(letters, key=lambda each: each not in integrand.free_symbols)
        for letter in letters:
            if are_equal_at_points(integrand, sympy.diff(gold, letter), policies):
                return integrand, letter
        raise UnreadableError("the gold answer is no antiderivative of the integrand")
    usual = [each for name in USUAL_VARIABLES for each in letters if each.name == name]
    if not usual:
        raise UnreadableError("an antiderivative of an unknown letter")
    return sympy.diff(gold, usual[0]), usual[0]


@dataclass(frozen=True)
class Equation:
    """A differential equation with its conditions."""

    left: Basic
    right: Basic
    head: str
    """The unknown function's name."""
    variable: str | None
    """None: the equation does not say."""
    order: int
    conditions: tuple[tuple[Basic, Basic], ...]
    """Such as y(0) and 1."""

    @property
    def letters(self) -> set[str]:
        """Names of its parameters."""
        symbols = self.left.free_symbols | self.right.free_symbols
        for pair in self.conditions:
            symbols |= pair[0].free_symbols | pair[1].free_symbols
        return {each.name for each in symbols if _order_of(each.name, self.head) is None} - {self.variable}

    def substitute(self, solution: Expr, variable: Symbol) -> tuple[Basic, Basic]:
        """Put a solution in the unknown function's place."""
        places = {}
        for side in (self.left, self.right):
            for each in [*side.free_symbols, *side.atoms(AppliedUndef)]:
                name = each.func.__name__ if isinstance(each, AppliedUndef) else each.name
                if (order := _order_of(name, self.head)) is not None:
                    places[each] = sympy.diff(solution, variable, order) if order else solution
        ours = {each: real(each) for side in (self.left, self.right) for each in side.free_symbols - set(places)}
        return self.left.xreplace(places | ours), self.right.xreplace(places | ours)


def _order_of(name: str, head: str) -> int | None:
    """Return which derivative of the unknown function a name stands for; None: none."""
    if name.rstrip("'") == head:
        return len(name) - len(head)
    match = DERIVATIVE.fullmatch(name)
    return int(match["order"] or 1) if match and match["head"] == head else None


def read_equation(text: str, policies: PolicyConfig) -> Equation:
    """Read a differential equation, and conditions behind commas.

    Raises:
        UnreadableError: it is none.
    """
    shape = read_shape(text, policies)
    chains = list(shape.items) if isinstance(shape, Listing) else [shape]
    pairs = []
    for chain in chains:
        if not isinstance(chain, Chain) or chain.signs != ("=",):
            raise UnreadableError("a differential equation")
        sides = [side.value for side in chain.sides if isinstance(side, Formula)]
        if len(sides) != 2:
            raise UnreadableError("a differential equation")
        pairs.append((sides[0], sides[1]))
    (left, right), *conditions = pairs
    head, variable = None, None
    for each in [*left.free_symbols, *right.free_symbols, *left.atoms(AppliedUndef), *right.atoms(AppliedUndef)]:
        name = each.func.__name__ if isinstance(each, AppliedUndef) else each.name
        match = DERIVATIVE.fullmatch(name)
        if match or name.endswith("'"):
            head = match["head"] if match else name.rstrip("'")
            variable = match["variable"] if match else variable
            if isinstance(each, AppliedUndef) and isinstance(each.args[0], Symbol):
                variable = each.args[0].name
    if head is None:
        raise UnreadableError("an equation without a derivative")
    named = [each.name for each in (left.free_symbols | right.free_symbols)]
    named += [each.func.__name__ for side in (left, right) for each in side.atoms(AppliedUndef)]
    order = max(_order_of(name, head) or 0 for name in named)
    return Equation(left, right, head, variable, order, tuple(conditions))


def solves_equation(gold: Shape, answer: Shape, against: str, policies: PolicyConfig) -> bool:
    """Return whether an answer solves a differential equation, with as many free constants as the gold one.

    Args:
        gold: a solution; it says how many constants are free, and which letter is the variable.
        answer: to check: `y = ...`, the right side alone, or a relation of both letters for an equation of first order.
        against: LaTeX of the equation, with conditions such as `y(0) = 1` behind commas.
        policies: of numbers and letters.

    Raises:
        UnreadableError: the equation is none, or the gold answer does not solve it.
    """
    equation = read_equation(against, policies)
    found = _find_variable(gold, equation, policies)
    if found is None:
        raise UnreadableError("the gold answer does not solve the equation")
    variable, wanted = found
    answers = answer.items if isinstance(answer, Listing) and not answer.brackets else (answer,)
    return all(_check(each, equation, variable, policies) == wanted for each in answers)


def _find_variable(gold: Shape, equation: Equation, policies: PolicyConfig) -> tuple[Symbol, int] | None:
    """Return the variable for which the gold answer is a solution, and how many constants are free in it."""
    gold = gold.items[0] if isinstance(gold, Listing) and not gold.brackets else gold
    letters = {each.name for side in _sides(gold) for each in side.free_symbols} - {equation.head}
    usual = sorted(letters, key=lambda name: USUAL_VARIABLES.index(name) if name in USUAL_VARIABLES else 99)
    for name in [equation.variable] if equation.variable else usual:
        variable = Symbol(name, real=True)
        constants = _check(gold, equation, variable, policies)
        if constants is not None:
            return variable, constants
    return None


def _sides(shape: Shape) -> list[Basic]:
    sides = shape.sides if isinstance(shape, Chain) else (shape,)
    return [side.value for side in sides if isinstance(side, Formula)]


def _check(shape: Shape, equation: Equation, variable: Symbol, policies: PolicyConfig) -> int | None:
    """Return how many constants are free in a solution; None: it is none."""
    name, rest = name_of(shape)
    if isinstance(shape, Chain) and (name is None or name.split("(")[0] != equation.head):
        return _check_implicit(shape, equation, variable, policies)
    solution = _formula_of(rest)
    if solution is None or equation.head in {each.name for each in solution.free_symbols}:
        return None
    left, right = equation.substitute(solution, variable)
    if not are_equal_at_points(left, right, policies):
        return None
    for place, value in equation.conditions:
        order = _order_of(place.func.__name__, equation.head) if isinstance(place, AppliedUndef) else None
        if order is None:
            raise UnreadableError("a condition")
        reached = sympy.diff(solution, variable, order).subs(variable, place.args[0]) if order else None
        reached = solution.subs(variable, place.args[0]) if reached is None else reached
        if not are_equal_at_points(real(value), reached, policies):
            return None
    return _count_constants(solution, variable, equation.letters)


def _check_implicit(shape: Chain, equation: Equation, variable: Symbol, policies: PolicyConfig) -> int | None:
    """Check a relation between x and y, for an equation of first order."""
    sides = _sides(shape)
    if len(sides) != 2 or len(shape.signs) != 1 or equation.order != 1 or equation.conditions:
        return None
    unknown = Symbol(equation.head, real=True)
    relation = real(sides[0] - sides[1])
    known = equation.letters | {variable.name, equation.head}
    constants = [each for each in symbols_of([relation]) if each.name not in known]
    if unknown not in relation.free_symbols or not constants:
        return None
    slope = -sympy.diff(relation, variable) / sympy.diff(relation, unknown)
    if constants[0] in slope.free_symbols:
        at_zero, at_one = relation.subs(constants[0], 0), relation.subs(constants[0], 1)
        slope = slope.subs(constants[0], at_zero / (at_zero - at_one))
    places = {each: value for each in equation.left.free_symbols | equation.right.free_symbols
              for value in [_in_relation(each.name, equation.head, unknown, slope)] if value is not None}  # fmt: skip
    if any(side.atoms(AppliedUndef) for side in (equation.left, equation.right)):
        raise UnreadableError("a relation for functions with brackets")
    left, right = real(equation.left.xreplace(places)), real(equation.right.xreplace(places))
    return 1 if are_equal_at_points(left, right, policies) else None


def _in_relation(name: str, head: str, unknown: Symbol, slope: Expr) -> Expr | None:
    """Return what a name becomes on a curve: the unknown itself or its slope."""
    order = _order_of(name, head)
    return None if order is None else slope if order else unknown


def _count_constants(solution: Expr, variable: Symbol, parameters: set[str]) -> int:
    """Count the constants that can be chosen freely: the rank of the derivatives by them, at several places."""
    constants = [each for each in symbols_of([solution]) if each.name not in parameters and each != variable]
    if not constants:
        return 0
    slopes = [sympy.diff(solution, each) for each in constants]
    with mp.workdps(DIGITS):
        rows = []
        others = [each for each in symbols_of([solution]) if each != variable]
        fixed = draw_point(others, 1, "positive")
        for number in range(4 * len(constants) + 4):
            try:
                at = fixed | draw_point([variable], 3 * number, "positive")
                rows.append([evaluate(slope, at) for slope in slopes])
            except OutOfRangeError:
                continue
        return _rank(rows)


def _rank(rows: list[list]) -> int:
    """Return the rank of a matrix of numbers, by elimination."""
    rank = 0
    rows = [list(row) for row in rows]
    for column in range(len(rows[0]) if rows else 0):
        left = rows[rank:]
        if not left:
            break
        pivot = max(range(rank, len(rows)), key=lambda place: abs(rows[place][column]))
        if abs(rows[pivot][column]) < mp.mpf(10) ** -25:
            continue
        rows[rank], rows[pivot] = rows[pivot], rows[rank]
        for place in range(rank + 1, len(rows)):
            factor = rows[place][column] / rows[rank][column]
            rows[place] = [below - factor * above for below, above in zip(rows[place], rows[rank], strict=True)]
        rank += 1
    return rank
