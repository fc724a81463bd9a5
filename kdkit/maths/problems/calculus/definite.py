"""Definite integrals by an antiderivative; each is proven by quadrature."""

import random
from fractions import Fraction

from kdkit.maths.formulas.measured import Derivative, Integral
from kdkit.maths.formulas.reading import find_coefficients, find_integers
from kdkit.maths.formulas.tree import (
    Formula,
    Function,
    Named,
    Number,
    Quotient,
    Sum,
    add,
    exp,
    ln,
    pi_times,
    polynomial,
)
from kdkit.maths.formulas.writing import write, write_integrand
from kdkit.maths.problems.calculus.elementary import X, draw_nonzero, draw_polynomial
from kdkit.maths.problems.calculus.integrals import find_term, integrate_function, integrate_power
from kdkit.maths.problems.relations import equal
from kdkit.maths.problems.statements import find_integral
from kdkit.maths.problems.template import Parameters, Solved, Template

WORDINGS = (
    r"Evaluate $\int_{<<low>>}^{<<high>>} <<integrand>> \, dx$.",
    r"Compute the definite integral $\int_{<<low>>}^{<<high>>} <<integrand>> \, dx$.",
    "Integrate $f(x) = <<function>>$ from $<<low>>$ to $<<high>>$.",
)


def finish(
    integrand: Formula, found: Formula, bounds: tuple[Formula, Formula], ends: tuple[list[Formula], list[Formula]]
) -> Solved:
    """Write the solution.

    Args:
        integrand: f.
        found: an antiderivative F.
        bounds: from and to.
        ends: F at both, as a chain of formulas that ends in the value.
    """
    low, high = bounds
    names = [f"F({write(bound)})" for bound in bounds]
    at_low, at_high = (Named(name, chain[-1]) for name, chain in zip(names, ends, strict=True))
    difference = ends[1][-1] - ends[0][-1]
    plain = [] if ends[0][-1] == Number(0) else [Sum((ends[1][-1], -ends[0][-1]))]
    points = [{"x": _number(bound)} for bound in bounds]
    steps = [
        "Antiderivative " + equal(Named("F(x)", found), found),
        equal(Named(names[1], found), *ends[1], points=(points[1],)),
        equal(Named(names[0], found), *ends[0], points=(points[0],)),
        equal(Integral(integrand, low, high), Sum((at_high, -at_low)), *plain, difference),
    ]
    equal(Derivative(found, "x"), integrand)
    facts = {"f(x)": (write(integrand),), "F(x)": (write(found),)}
    facts |= {name: (write(chain[-1]),) for name, chain in zip(names, ends, strict=True)}
    words = {"low": write(low), "high": write(high), "integrand": write_integrand(integrand)}
    return Solved({**words, "function": write(integrand)}, tuple(steps), write(difference), facts=facts)


def _number(bound: Formula) -> Fraction | float:
    value = bound.value({})
    return value if isinstance(value, Fraction) else complex(value).real


class DefinitePolynomial(Template):
    """Parameters: from, to, coefficients, the highest power's first."""

    name = "definite_polynomial"
    domain = "calculus"
    wordings = WORDINGS

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Draw lines from 0 at level 1, up to cubics with fractions at level 5."""
        degree = (1, 2, 2, 3, 3)[level - 1]
        low = 0 if level <= 2 else draws.randint(-2, 1)
        high = low + draws.randint(1, (4, 3, 3, 3, 4)[level - 1])
        coefficients = draw_polynomial(draws, degree, (5, 4, 4, 4, 9)[level - 1])
        if level < 5:
            coefficients = tuple(each * (degree + 1 - k) for k, each in enumerate(coefficients))
        return low, high, *coefficients

    def solve(self, parameters: Parameters) -> Solved:
        """See Template."""
        low, high, *coefficients = parameters
        degree = len(coefficients) - 1
        powers = [(each, degree - k) for k, each in enumerate(coefficients) if each]
        found = add(*(integrate_power(each, exponent) for each, exponent in powers))
        ends = []
        for bound in (low, high):
            values = [Fraction(each, n + 1) * Fraction(bound) ** (n + 1) for each, n in powers]
            terms = [Number(value) for value in values if value]
            ends.append([*([Sum(tuple(terms))] if len(terms) > 1 else []), Number(sum(values))])
        bounds = Number(low), Number(high)
        return finish(polynomial(tuple(coefficients)), found, bounds, (ends[0], ends[1]))

    def read(self, text: str) -> Parameters | None:
        """See Template."""
        found = find_integral(text)
        if not found or not isinstance(found[1], Number) or not isinstance(found[2], Number):
            return None
        bounds, coefficients = [found[1].number, found[2].number], find_integers(found[0])
        whole = all(isinstance(each, int) and abs(each) < 100 for each in bounds)
        return (*bounds, *coefficients) if whole and coefficients and any(coefficients) else None


class DefiniteFunction(Template):
    """a e^(kx), a sin(kx), a cos(kx), a/x. Parameters: a, the function, k, from, to (of sin and cos: in pi/(2k))."""

    name = "definite_function"
    domain = "calculus"
    wordings = WORDINGS
    levels = (2, 3, 4, 5)

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Draw k = 1 at level 2, k divides a at level 3; from 0 (of a/x: 1) up to level 3."""
        kind = draws.choice(("exp", "sin", "cos", "reciprocal"))
        size, inner = (9, 5, 9, 9)[level - 2], (1, 3, 4, 6)[level - 2]
        k = 1 if kind == "reciprocal" else draws.randint(1, inner)
        start = 1 if kind == "reciprocal" else 0
        low = start if level <= 3 else start + draws.randint(0, 2)
        return draw_nonzero(draws, size) * (k if level == 3 else 1), kind, k, low, low + draws.randint(1, 4)

    def solve(self, parameters: Parameters) -> Solved:
        """See Template."""
        factor, kind, k, low, high = parameters
        integrand = Quotient(Number(factor), X) if kind == "reciprocal" else factor * Function(kind, k * X)
        found = integrate_function(factor, kind, k)
        if kind == "reciprocal":
            found = factor * ln(X)
        ends = tuple([_end(factor, kind, k, bound)] for bound in (low, high))
        bounds = [
            Number(bound) if kind in ("exp", "reciprocal") else pi_times(Fraction(bound, 2 * k))
            for bound in (low, high)
        ]
        return finish(integrand, found, (bounds[0], bounds[1]), (ends[0], ends[1]))

    def read(self, text: str) -> Parameters | None:
        """See Template."""
        found = find_integral(text)
        term = find_term(found[0]) if found and found[1] is not None else None
        if not term:
            return None
        turns = term[1] in ("sin", "cos")
        ends = [_read_bound(bound, 2 * term[2] if turns else 0) for bound in found[1:]]
        wrong = any(each is None or each < (term[1] == "reciprocal") for each in ends)
        return None if wrong else (*term, *ends)


def _end(factor: int, kind: str, k: int, bound: int) -> Formula:
    """Return the antiderivative at a bound."""
    match kind:
        case "exp":
            return Fraction(factor, k) * exp(Number(k * bound))
        case "reciprocal":
            return Number(0) if bound == 1 else factor * ln(Number(bound))
        case "sin":
            return Number(Fraction(-factor, k) * (1, 0, -1, 0)[bound % 4])
    return Number(Fraction(factor, k) * (0, 1, 0, -1)[bound % 4])


def _read_bound(bound: Formula, per_pi: int) -> int | None:
    """Return a bound as a whole number, or as a whole number of pi/`per_pi`."""
    found = find_coefficients(bound, r"\pi")
    if not found or len(found) > 1 + bool(per_pi) or (len(found) == 2 and found[1]):
        return None
    if per_pi and len(found) == 1:
        return 0 if found[0] == 0 else None
    number = Fraction(found[0]) * (per_pi or 1)
    return int(number) if number.denominator == 1 and abs(number) < 100 else None
