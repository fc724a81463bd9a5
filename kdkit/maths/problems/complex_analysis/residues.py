"""Residues and the contour integrals they give; each is proven by the trapezoid rule on a circle."""

import math
import random
import re
from abc import abstractmethod
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy

from kdkit.maths.formulas.measured import Derivative
from kdkit.maths.formulas.reading import find_formula, find_integers
from kdkit.maths.formulas.rules import derive
from kdkit.maths.formulas.tree import (
    Formula,
    Function,
    Name,
    Named,
    Number,
    Point,
    Power,
    Product,
    Quotient,
    add,
    exp,
    multiply,
    polynomial,
)
from kdkit.maths.formulas.writing import write
from kdkit.maths.problems.calculus.elementary import draw_nonzero, one_order
from kdkit.maths.problems.complex_analysis.numbers import I
from kdkit.maths.problems.proofs import value_at
from kdkit.maths.problems.relations import equal
from kdkit.maths.problems.template import Parameters, Solved, Template
from kdkit.maths.reading import Statement, read_statement

Z = Name("z")
PI = Name(r"\pi")
WORDS = "residue pole function contour integral circle at counterclockwise theorem using around its"

POINTS = ({"z": Fraction(12345, 10007)}, {"z": Fraction(-23456, 10007)}, {"z": Fraction(3457, 10007)})
"""Where quotients of polynomials are compared: none of whole coefficients below 10,007 is zero there."""


@dataclass(frozen=True, slots=True)
class CircleIntegral(Formula):
    """The integral of a function of z around a circle, measured with the trapezoid rule.

    The rule's error falls with the distance of the poles from the circle to the power of its number of points
    (Trefethen and Weideman 2014, The exponentially convergent trapezoidal rule).
    """

    formula: Formula
    centre: Fraction
    radius: Fraction
    points: int = 160

    def value(self, at: Point) -> Any:
        """See Formula."""
        arms = float(self.radius) * numpy.exp(2j * math.pi * numpy.arange(self.points) / self.points)
        with numpy.errstate(over="raise", invalid="raise", divide="raise"):
            values = self.formula.value({"z": float(self.centre) + arms})
            return complex(2j * math.pi * numpy.mean(values * arms))


def residue_of(function: Formula, pole: int) -> Formula:
    r"""Return the residue at a pole whose neighbours are at least 1 away, named `\operatorname{Res}(f, 2)`."""
    around = CircleIntegral(function, Fraction(pole), Fraction(1, 4), 32)
    return Named(rf"\operatorname{{Res}}(f, {pole})", Quotient(around, 2 * PI * I))


def line(root: int) -> Formula:
    """Return z - root."""
    return polynomial((1, -root), "z") if root else Z


def find_function(statement: Statement) -> Formula | None:
    """Return f of a statement's `f(z) = ...`, or its only quotient."""
    found = []
    for each in statement.formulas:
        left, *rest = each.split("=")
        if len(rest) == 1 and re.fullmatch(r"\s*f\s*\(\s*z\s*\)\s*", left):
            return find_formula(rest[0])
        found.append(find_formula(each) if not rest else None)
    quotients = [each for each in found if isinstance(each, Quotient) and not isinstance(each, Number)]
    return quotients[0] if len(quotients) == 1 else None


def find_pole(statement: Statement) -> int | None:
    """Return a of a statement's `z = a`."""
    found = [re.fullmatch(r"z\s*(?:=|_\{?0\}?\s*=)\s*(-?\d+)", each) for each in statement.formulas]
    poles = [int(each[1]) for each in found if each]
    return poles[0] if len(poles) == 1 else None


def find_roots(bottom: Formula) -> list[tuple[int, int]] | None:
    """Return the whole zeros, with their orders, of a product of z - a and powers of them; None: it is none."""
    roots = []
    for factor in bottom.factors if isinstance(bottom, Product) else (bottom,):
        base, order = factor, 1
        if isinstance(factor, Power) and isinstance(factor.exponent, Number):
            base, order = factor.base, factor.exponent.number
        linear = find_integers(base, "z")
        if not linear or len(linear) != 2 or linear[0] != 1:
            return None
        roots.append((-linear[1], order))
    return roots


class Residue(Template):
    """A residue of a quotient at a whole number: what its kinds share."""

    domain = "complex_analysis"
    wordings = (
        "Find the residue of $f(z) = <<function>>$ at $z = <<pole>>$.",
        "Compute the residue of $f(z) = <<function>>$ at the pole $z = <<pole>>$.",
        "Let $f(z) = <<function>>$. Determine its residue at $z = <<pole>>$.",
    )

    @abstractmethod
    def find(self, function: Quotient, pole: int) -> Parameters | None:
        """Find the parameters of a function at a pole; None: it is of another kind."""

    def read(self, text: str) -> Parameters | None:
        """See Template."""
        statement = read_statement(text)
        function, pole = find_function(statement), find_pole(statement)
        if not statement.fits(WORDS, "residue") or not isinstance(function, Quotient) or pole is None:
            return None
        return self.find(function, pole)


def conclude(function: Formula, pole: int, value: Formula, steps: list[str], facts: dict[str, str]) -> Solved:
    """Put a solution together from its steps and what their names stand for."""
    facts = {"f(z)": write(function), **facts, rf"\operatorname{{Res}}(f, {pole})": write(value)}
    words = {"function": write(function), "pole": str(pole)}
    return Solved(words, tuple(steps), write(value), facts={name: (each,) for name, each in facts.items()})


class ResidueSimple(Residue):
    """P/((z - a)(z - b)) at a. Parameters: a, b, coefficients of P."""

    name = "residue_simple"
    levels = (3, 4)

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Draw a number or a line on top at level 3, a square at level 4."""
        while True:
            a, b = draws.sample(range(-6, 7), 2)
            top = (
                draw_nonzero(draws, 9),
                *(draws.randint(-9, 9) for _ in range(draws.randint(0, 1) if level == 3 else 2)),
            )
            if value_at(top, a) and value_at(top, b):
                return a, b, *top

    def solve(self, parameters: Parameters) -> Solved:
        """See Template."""
        a, b, *top = parameters
        over = polynomial(tuple(top), "z")
        function = Quotient(over, multiply(line(a), line(b)))
        rest = Quotient(over, line(b))
        value = Number(Fraction(value_at(top, a), a - b))
        at = ({"z": Fraction(a)},)
        g = Named("g(z)", line(a) * function)
        steps = [
            f"Simple pole: {equal(g, Product((line(a), Named('f(z)', function))), rest, points=POINTS)}",
            equal(residue_of(function, a), Named(f"g({a})", rest), value, points=at),
        ]
        facts = {"g(z)": write(rest), f"g({a})": write(value)}
        return conclude(function, a, value, steps, facts)

    def find(self, function: Quotient, pole: int) -> Parameters | None:
        """See Residue."""
        roots, top = find_roots(function.bottom), find_integers(function.top, "z")
        if not roots or len(roots) != 2 or not top or len(top) > 3 or {order for _, order in roots} != {1}:
            return None
        zeros = [root for root, _ in roots]
        if pole not in zeros or zeros[0] == zeros[1] or not all(value_at(top, zero) for zero in zeros):
            return None
        return pole, zeros[1 - zeros.index(pole)], *top


class ResidueDouble(Residue):
    """P/((z - a)^2 (z - b)) at a. Parameters: a, b, coefficients of P."""

    name = "residue_double"
    levels = (5,)

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Draw a line on top."""
        while True:
            a, b = draws.sample(range(-6, 7), 2)
            top = (draw_nonzero(draws, 9), draws.randint(-9, 9))
            if value_at(top, a) and value_at(top, b):
                return a, b, *top

    def solve(self, parameters: Parameters) -> Solved:
        """See Template."""
        a, b, *top = parameters
        over = polynomial(tuple(top), "z")
        function = Quotient(over, multiply(line(a) ** 2, line(b)))
        rest = Quotient(over, line(b))
        above = top[0] * (-b) - top[1]
        slope = Quotient(Number(above), line(b) ** 2)
        value = Number(Fraction(above, (a - b) ** 2))
        g = Named("g(z)", line(a) ** 2 * function)
        steps = [
            f"Double pole: {equal(g, Product((line(a) ** 2, Named('f(z)', function))), rest, points=POINTS)}",
            equal(Named("g'(z)", Derivative(rest, "z")), slope, points=POINTS),
            equal(residue_of(function, a), Named(f"g'({a})", slope), value, points=({"z": Fraction(a)},)),
        ]
        facts = {"g(z)": write(rest), "g'(z)": write(slope), f"g'({a})": write(value)}
        return conclude(function, a, value, steps, facts)

    def find(self, function: Quotient, pole: int) -> Parameters | None:
        """See Residue."""
        roots, top = find_roots(function.bottom), find_integers(function.top, "z")
        if not roots or sorted(order for _, order in roots) != [1, 2] or not top or len(top) != 2:
            return None
        (a, _), (b, _) = sorted(roots, key=lambda root: -root[1])
        return (a, b, *top) if pole == a and a != b and value_at(top, a) and value_at(top, b) else None


class ResidueExponential(Residue):
    """e^(kz)/(z - a)^n at a. Parameters: k, a, n."""

    name = "residue_exponential"
    levels = (4, 5)

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Draw orders 1 and 2 at level 4, 3 and 4 at level 5."""
        return draw_nonzero(draws, 9), draws.randint(-5, 5), draws.randint(*((1, 2) if level == 4 else (3, 4)))

    def solve(self, parameters: Parameters) -> Solved:
        """See Template."""
        k, a, n = parameters
        top = exp(k * Z)
        function = Quotient(top, line(a) ** n)
        derived = k ** (n - 1) * top
        check = top
        for _ in range(n - 1):
            check = derive(check, "z")
        mark = ("", "'", "''", "'''")[n - 1]
        name_at = f"g{mark}({a})"
        factor = Fraction(1, math.factorial(n - 1))
        value = factor * k ** (n - 1) * exp(Number(k * a))
        points = ({"z": 0.37 + 0.21j}, {"z": -0.58 + 0.66j})
        at = ({"z": complex(a)},)
        by = Named(name_at, derived)
        steps = [f"Pole of order ${n}$: {equal(Named('g(z)', line(a) ** n * function), top, points=points)}"]
        if n > 1:
            steps.append(equal(Named(f"g{mark}(z)", check), derived, points=points))
        last = Quotient(by, Number(math.factorial(n - 1))) if n > 2 else by
        steps.append(equal(residue_of(function, a), last, value, points=at))
        facts = {"g(z)": write(top), f"g{mark}(z)": write(derived)}
        facts[name_at] = write(k ** (n - 1) * exp(Number(k * a)))
        return conclude(function, a, value, steps, facts)

    def find(self, function: Quotient, pole: int) -> Parameters | None:
        """See Residue."""
        roots = find_roots(function.bottom)
        if not roots or len(roots) != 1 or roots[0][0] != pole or not 1 <= roots[0][1] <= 4:
            return None
        match function.top:
            case Function("exp", argument):
                found = find_integers(argument, "z")
                return (found[0], *roots[0]) if found and len(found) == 2 and found[1] == 0 else None
        return None


class ContourIntegral(Template):
    """P/((z - a)(z - b)) around |z| = R. Parameters: R, a, b, coefficients of P."""

    name = "contour_integral"
    domain = "complex_analysis"
    levels = (4, 5)
    wordings = (
        r"Evaluate $\oint_{|z| = <<radius>>} <<function>> \, dz$.",
        r"Compute the contour integral $\oint_{|z| = <<radius>>} <<function>> \, dz$.",
        r"Use residues to evaluate $\oint_{|z| = <<radius>>} <<function>> \, dz$.",
    )

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Draw one pole inside at level 4, one or two at level 5."""
        while True:
            radius = draws.randint(2, 5)
            a, b = one_order(draws.sample(range(-7, 8), 2))
            top = (draw_nonzero(draws, 9), *(draws.randint(-9, 9) for _ in range(level - 4)))
            inside = sum(abs(each) < radius for each in (a, b))
            on = radius in (abs(a), abs(b)) or not value_at(top, a) or not value_at(top, b)
            if not on and (inside == 1 or (inside == 2 and level == 5)):
                return radius, a, b, *top

    def solve(self, parameters: Parameters) -> Solved:
        """See Template."""
        radius, *poles = parameters[:3]
        top = parameters[3:]
        function = Quotient(polynomial(top, "z"), multiply(*(line(each) for each in poles)))
        name = rf"\oint_{{|z| = {radius}}} f(z) \, dz"
        steps, values, facts = [], [], {"f(z)": (write(function),)}
        for pole, other in zip(poles, reversed(poles), strict=True):
            size = rf"|{pole}|"
            if abs(pole) > radius:
                steps.append(f"Outside, without effect: ${size} > {radius}$")
                continue
            value = Number(Fraction(value_at(top, pole), pole - other))
            residue = residue_of(function, pole)
            steps.append(f"Inside: ${size} < {radius}$ and {equal(residue, value)}")
            facts[residue.name] = (write(value),)
            values.append((residue, value))
        total = Fraction(sum(value.number for _, value in values))
        doubled = 2 * total
        answer = doubled.numerator * PI * I
        answer = answer if doubled.denominator == 1 else Quotient(answer, Number(doubled.denominator))
        circle = Named(name, CircleIntegral(function, Fraction(0), Fraction(radius)))
        summed = add(*(residue for residue, _ in values))
        steps.append(equal(circle, Product((Number(2), PI, I, summed)), answer))
        facts[name] = (write(answer),)
        whole = rf"\oint_{{|z| = {radius}}} {write(function)} \, dz"
        facts[whole] = (write(answer),)
        words = {"radius": str(radius), "function": write(function)}
        return Solved(words, tuple(steps), write(answer), facts=facts)

    def read(self, text: str) -> Parameters | None:
        """See Template."""
        statement = read_statement(text)
        if not statement.fits(f"{WORDS} residues") or not statement.formulas:
            return None
        found = re.fullmatch(r"\\o?int_\s*\{?\s*\|z\|\s*=\s*(\d+)\s*\}?(.*?)d\s*z\s*", statement.formulas[0])
        function = find_formula(found[2]) if found and len(statement.formulas) == 1 else None
        if not isinstance(function, Quotient):
            return None
        roots, top, radius = find_roots(function.bottom), find_integers(function.top, "z"), int(found[1])
        if not roots or len(roots) != 2 or not top or len(top) > 3 or {order for _, order in roots} != {1}:
            return None
        zeros = [root for root, _ in roots]
        usable = zeros[0] != zeros[1] and radius not in map(abs, zeros) and all(value_at(top, zero) for zero in zeros)
        return (radius, *zeros, *top) if usable and any(abs(zero) < radius for zero in zeros) else None
