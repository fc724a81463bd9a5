"""Differential equations for y(x), written and read. A solution is proven by measured slopes."""

import functools
import re
from dataclasses import dataclass
from fractions import Fraction

from kdkit.maths.formulas.measured import Derivative
from kdkit.maths.formulas.reading import find_formula
from kdkit.maths.formulas.rules import derive
from kdkit.maths.formulas.tree import Formula, Name, Named, Number, Point, Product, Sum, add, multiply
from kdkit.maths.formulas.writing import write
from kdkit.maths.problems.relations import equal, usual_points
from kdkit.maths.problems.template import UnprovenStepError
from kdkit.maths.reading import read_statement

C, C1, C2 = Name("C"), Name("C_{1}"), Name("C_{2}")
DERIVATIVES = ("y", "y'", "y''")
PLAIN = (Name("y"), Name("y'"), Name("y''"))
WORDS = (
    "general solution differential equation ordinary first second order linear separable homogeneous initial condition"
    " conditions subject satisfies satisfying ode function"
)
SPELLINGS = (
    (r"\\frac\s*\{\s*d\s*\^\s*\{?2\}?\s*y\s*\}\s*\{\s*d\s*x\s*\^\s*\{?2\}?\s*\}|d\^\{?2\}?y\s*/\s*dx\^\{?2\}?", "y''"),
    (r"\\frac\s*\{\s*dy\s*\}\s*\{\s*dx\s*\}|\bdy\s*/\s*dx\b", "y'"),
    (r"y('*)\s*\(\s*x\s*\)", r"y\1"),
)
SMALLEST = 1e-9
"""Of what a change of a constant has to bring about."""
INITIAL = re.compile(r"y('?)\s*\(\s*0\s*\)\s*=(.+)")


@functools.cache
def near_points() -> tuple[Point, ...]:
    """Return points near 0, where large exponentials do not swallow what they cancel to, with a large C."""
    return tuple({**point, "x": point["x"] / 7, "C": point["C"] + 1000} for point in usual_points())


def holds(*members: Formula | int | Fraction) -> str:
    """Write `$a = b = c$`, proven at `near_points`."""
    return equal(*members, points=near_points())


def derivatives_of(y: Formula) -> tuple[Named, Named, Named]:
    """Return y, y' and y'' with measured slopes: y' of y, y'' of what the rules say y' is, which y' proves."""
    return Named("y", y), Named("y'", Derivative(y, "x")), Named("y''", Derivative(derive(y), "x"))


def facts_of(y: Formula, order: int) -> dict[str, tuple[str, ...]]:
    """Return what y and its derivatives stand for."""
    facts = {}
    for name in DERIVATIVES[: order + 1]:
        facts[name] = (write(y),)
        y = derive(y)
    return facts


def left_side(names: tuple[Formula, ...], p: int | Fraction, q: int | Fraction) -> Formula:
    """Return y'' + p y' + q y, or y' + q y for two names."""
    if len(names) == 2:
        return add(names[1], q * names[0])
    return add(names[2], p * names[1], q * names[0])


def prove_general(y: Formula, *constants: Name) -> None:
    """Prove that a solution has as many degrees of freedom as constants.

    Raises:
        UnprovenStepError: a change of one constant does the same as a change of the others, or nothing.
    """
    points = [near_points()[k] for k in (0, 2)][: len(constants)]
    changes = []
    for constant in constants:
        try:
            moved = [_change(y, constant, at) for at in points]
        except ArithmeticError as error:
            raise UnprovenStepError(f"{write(y)} has no value where it is checked") from error
        size = max(map(abs, moved)) or 1.0
        changes.append([each / size for each in moved])
    volume = changes[0][0] if len(changes) == 1 else changes[0][0] * changes[1][1] - changes[0][1] * changes[1][0]
    if abs(volume) < SMALLEST:
        raise UnprovenStepError(f"{write(y)} is not the general solution")


def _change(y: Formula, constant: Name, at: Point) -> complex:
    return complex(y.value({**at, constant.name: at[constant.name] + 1})) - complex(y.value(at))


@dataclass(frozen=True)
class Equation:
    """What a statement says of y."""

    left: Formula
    right: Formula
    initial: dict[int, Formula]
    """y(0) and y'(0) by order."""

    def linear(self) -> dict[str, Formula] | None:
        """Return the coefficients of y'', y', y by name, and under "" all else with its sign as on the left side."""
        parts: dict[str, list[Formula]] = {name: [] for name in (*DERIVATIVES, "")}
        difference = self.left - self.right
        for term in difference.terms if isinstance(difference, Sum) else (difference,):
            factors = term.factors if isinstance(term, Product) else (term,)
            names = [each.name for each in factors if isinstance(each, Name) and each.name in DERIVATIVES]
            rest = [each for each in factors if not (isinstance(each, Name) and each.name in DERIVATIVES)]
            if len(names) > 1 or any("'y'" in repr(each) for each in rest):
                return None
            parts[names[0] if names else ""].append(multiply(*rest, Number(1)))
        return {name: add(*terms, Number(0)) for name, terms in parts.items()}


def find_equation(text: str) -> Equation | None:
    """Read a statement of one differential equation with or without initial values at 0; None: it is none."""
    for pattern, spelling in SPELLINGS:
        text = re.sub(pattern, spelling, text)
    statement = read_statement(text)
    if not statement.fits(WORDS):
        return None
    equations, initial = [], {}
    for each in statement.formulas:
        if found := INITIAL.fullmatch(each):
            initial[len(found[1])] = find_formula(found[2])
        elif each not in ("y", "x"):
            equations.append(each)
    if len(equations) != 1 or equations[0].count("=") != 1 or "y'" not in equations[0] or None in initial.values():
        return None
    left, right = (find_formula(side) for side in equations[0].split("="))
    return None if left is None or right is None else Equation(left, right, initial)


def find_number(formula: Formula | None) -> int | None:
    """Return a whole number; None: it is none."""
    return formula.number if isinstance(formula, Number) and isinstance(formula.number, int) else None
