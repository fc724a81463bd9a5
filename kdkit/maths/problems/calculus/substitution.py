"""Integrals by substitution: what stands beside g(u) is a multiple of u'."""

import random
from fractions import Fraction

from kdkit.maths.formulas.measured import Derivative
from kdkit.maths.formulas.reading import find_coefficients, find_integers
from kdkit.maths.formulas.rules import derive
from kdkit.maths.formulas.tree import (
    Formula,
    Function,
    Name,
    Named,
    Number,
    Power,
    Product,
    Quotient,
    multiply,
    polynomial,
)
from kdkit.maths.formulas.writing import write
from kdkit.maths.problems.calculus.elementary import X, draw_nonzero, draw_polynomial, read_word
from kdkit.maths.problems.calculus.integrals import WORDINGS, C, finish, integrated, write_integral
from kdkit.maths.problems.relations import equal, prove_equal
from kdkit.maths.problems.statements import find_integral
from kdkit.maths.problems.template import Parameters, Solved, Template


class IntegralSubstitution(Template):
    """m u' g(u), u a polynomial. Parameters: g (`power 3`, `exp`, `sin`, `cos`, `reciprocal`), m, coefficients of u."""

    name = "integral_substitution"
    domain = "calculus"
    wordings = WORDINGS
    levels = (2, 3, 4, 5)

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Draw a line in a power at level 2, a square at 3, any function at 4, two powers of x in u at 5."""
        size = (5, 6, 9, 9)[level - 2]
        outer = "power" if level == 2 else draws.choice(("power", "exp", "sin", "cos", "reciprocal"))
        if outer == "power":
            outer = f"power {draws.randint(2, 6)}"
        first = draws.randint(1, 5)
        inner = {
            2: (first, draw_nonzero(draws, size)),
            3: (first, 0, draw_nonzero(draws, size)),
            4: (first, *[0] * draws.randint(1, 2), draw_nonzero(draws, size)),
            5: (first, *draw_polynomial(draws, 1, size)),
        }[level]
        return outer, draw_nonzero(draws, (3, 3, 5, 7)[level - 2]), *inner

    def solve(self, parameters: Parameters) -> Solved:
        """See Template."""
        outer, m, *inner = parameters
        u = polynomial(tuple(inner))
        slope = derive(u)
        beside = polynomial(tuple(m * each for each in find_coefficients(slope)))
        inside = outer_function(outer, u)
        integrand = Quotient(beside, u) if outer == "reciprocal" else multiply(beside, inside)
        letter, by_u = Name("u"), m * outer_function(outer, Name("u"))
        found = m * integrate_outer(outer, letter)
        prove_equal(Derivative(found, "u"), by_u)
        answer = m * integrate_outer(outer, u)
        prove_equal(m * outer_function(outer, Named("u", u)) * Named("u'", Derivative(u, "x")), integrand)
        inner_text = write_integral(by_u, "u")
        steps = [
            f"Substitute {equal(Named('u', u), u)}",
            equal(Named("u'", Derivative(u, "x")), slope),
            f"${write_integral(integrand)} = {inner_text} = {write(found + C)}$",
            integrated(integrand, answer),
        ]
        facts = {"u": (write(u),), "u'": (write(slope),), inner_text: (write(answer + C),)}
        return finish(integrand, steps, answer, facts)

    def read(self, text: str) -> Parameters | None:
        """See Template."""
        found = find_integral(text)
        parts = part(found[0]) if found and found[1] is None else None
        if not parts:
            return None
        beside, outer, inner = find_coefficients(parts[0]), parts[1], find_integers(parts[2])
        if not beside or not inner or len(inner) < 2 or (len(inner) == 2 and not inner[1]):
            return None
        slope = find_coefficients(derive(polynomial(inner)))
        m = Fraction(beside[0]) / slope[0]
        if m.denominator != 1 or beside != tuple(int(m) * each for each in slope):
            return None
        return outer, int(m), *inner


def outer_function(outer: str, u: Formula) -> Formula:
    """Return g(u)."""
    kind, numbers = read_word(outer)
    if kind == "power":
        return u ** numbers[0]
    return 1 / u if kind == "reciprocal" else Function(kind, u)


def integrate_outer(outer: str, u: Formula) -> Formula:
    """Return the antiderivative of g, by u."""
    kind, numbers = read_word(outer)
    match kind:
        case "power":
            return Fraction(1, numbers[0] + 1) * u ** (numbers[0] + 1)
        case "exp":
            return Function("exp", u)
        case "sin":
            return -Function("cos", u)
        case "cos":
            return Function("sin", u)
    return Function("ln_abs", u)


def part(formula: Formula) -> tuple[Formula, str, Formula] | None:
    """Part an integrand into what stands beside, g and u; None: it has another shape."""
    if isinstance(formula, Quotient) and find_coefficients(formula.top):
        return formula.top, "reciprocal", formula.bottom
    factors = formula.factors if isinstance(formula, Product) else (Number(1), formula)
    outer = [each for each in factors if _is_outer(each)]
    if len(outer) != 1:
        return None
    beside = multiply(*(each for each in factors if each is not outer[0]), Number(1))
    match outer[0]:
        case Power(base, Number(exponent)):
            return beside, f"power {exponent}", base
        case Function("exp" | "sin" | "cos" as kind, argument):
            return beside, kind, argument
    return None


def _is_outer(factor: Formula) -> bool:
    if isinstance(factor, Power):
        return factor.base != X and isinstance(factor.exponent, Number) and isinstance(factor.exponent.number, int)
    return isinstance(factor, Function)
