"""Functions to be made smallest or largest, and constraints, read from statements."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from kdkit.maths.latex import Exact, total
from kdkit.maths.reading import Statement, read_coefficients, read_polynomial, read_statement

MINIMUM = "minimum minimise minimize smallest least lowest minimal min"
MAXIMUM = "maximum maximise maximize largest greatest highest maximal max"
WORDS = "function point extremum global absolute attains takes over"
NAMES = ("x", "y", "f", "f(x)", "f(x, y)", "(x, y)")
QUADRATIC = ("x^{2}", "xy", "y^{2}", "x", "y", "")
POWERS = ((2, 0), (1, 1), (0, 2), (1, 0), (0, 1), (0, 0))


@dataclass(frozen=True)
class Aim:
    """What a statement asks for."""

    kind: str
    """`minimum` or `maximum`."""
    function: str
    """The formula, without `f(x) =`."""
    others: tuple[str, ...]
    """The statement's other formulas."""


def read_aim(text: str, words: str = "") -> Aim | None:
    """Read whether a minimum or a maximum is looked for, and of what: the first formula that is no lone name."""
    statement = read_statement(text)
    kinds = [kind for kind, needs in (("minimum", MINIMUM), ("maximum", MAXIMUM)) if _asks(statement, needs, words)]
    formulas = [
        formula for formula in statement.formulas if formula not in ("x", "y", "f", "f(x)", "f(x, y)", "(x, y)")
    ]
    if len(kinds) != 1 or not formulas:
        return None
    name, is_named, function = formulas[0].partition("=")
    if is_named and not name.replace(" ", "").startswith(("f", "g", "y", "h")):
        return None
    return Aim(kinds[0], function if is_named else name, tuple(formulas[1:]))


def _asks(statement: Statement, needs: str, words: str) -> bool:
    return statement.fits(f"{WORDS} {words}", needs)


def write_quadratic(coefficients: Sequence[Exact]) -> str:
    """Write `a x^2 + b xy + c y^2 + d x + e y + k`."""
    return total(zip(coefficients, QUADRATIC, strict=True))


def read_quadratic(formula: str) -> list[int] | None:
    """Read the six whole coefficients of a quadratic in x and y; None: it is none."""
    polynomial = read_polynomial(formula, "xy")
    if not polynomial or any(powers not in POWERS or value.denominator != 1 for powers, value in polynomial.items()):
        return None
    values = {powers: int(value) for powers, value in polynomial.items()}
    return [values.get(powers, 0) for powers in POWERS]


def read_whole(formula: str, variable: str = "x") -> list[int] | None:
    """Read the whole coefficients of a polynomial in one variable; None: it is none."""
    found = read_coefficients(formula, variable)
    return [int(value) for value in found] if found and all(value.denominator == 1 for value in found) else None


def read_line(formula: str) -> tuple[Fraction, Fraction, Fraction] | None:
    """Read a constraint `a x + b y = c`, anything linear on both sides; None: it is none."""
    sides = [read_polynomial(side, "xy") for side in formula.split("=")]
    if len(sides) != 2 or any(side is None for side in sides):
        return None
    moved = sides[0] - sides[1]
    if any(sum(powers) > 1 for powers in moved):
        return None
    x, y = moved.ring.gens
    a, b, c = (Fraction(int(each.numerator), int(each.denominator)) for each in map(moved.coeff, (x, y, 1)))
    return a, b, -c
