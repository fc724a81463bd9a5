"""Analytic functions by the Cauchy-Riemann equations, with polynomials in x and y."""

import random
import re
from fractions import Fraction

from kdkit.maths.formulas.measured import Derivative
from kdkit.maths.formulas.reading import find_formula
from kdkit.maths.formulas.tree import Formula, Name, Named, Number, Power, Product, Sum, add, multiply
from kdkit.maths.formulas.writing import write
from kdkit.maths.problems.calculus.elementary import draw_nonzero
from kdkit.maths.problems.relations import equal
from kdkit.maths.problems.template import Parameters, Solved, Template
from kdkit.maths.reading import read_statement

POWERS = ((1, 0), (0, 1), (2, 0), (1, 1), (0, 2), (3, 0), (2, 1), (1, 2), (0, 3))
"""Of x and y: the terms of u and v, in the order of their parameters."""
X, Y = Name("x"), Name("y")
Terms = dict[tuple[int, int], int | Fraction]


def make(terms: Terms) -> Formula:
    """Return the formula of a polynomial in x and y, the highest powers of x first in each degree."""
    order = sorted(terms, key=lambda powers: (-sum(powers), -powers[0]))
    return add(*(multiply(Number(terms[powers]), X ** powers[0], Y ** powers[1]) for powers in order), Number(0))


def partial(terms: Terms, axis: int) -> Terms:
    """Differentiate by x (axis 0) or y (1)."""
    result: Terms = {}
    for powers, factor in terms.items():
        if powers[axis] and factor:
            lower = (powers[0] - 1, powers[1]) if axis == 0 else (powers[0], powers[1] - 1)
            result[lower] = factor * powers[axis]
    return result


def integrate(terms: Terms, axis: int) -> Terms:
    """Integrate by x (axis 0) or y (1), without a constant."""
    result: Terms = {}
    for powers, factor in terms.items():
        higher = (powers[0] + 1, powers[1]) if axis == 0 else (powers[0], powers[1] + 1)
        result[higher] = Fraction(factor) / higher[axis]
    return result


def combine(left: Terms, right: Terms, sign: int) -> Terms:
    """Return left + sign * right, without zeros."""
    total = {powers: left.get(powers, 0) + sign * right.get(powers, 0) for powers in {**left, **right}}
    return {powers: factor for powers, factor in total.items() if factor}


def real_and_imaginary(coefficients: list[tuple[int, int]]) -> tuple[Terms, Terms]:
    """Return u and v of c_1 z + c_2 z^2 + c_3 z^3 with complex coefficients, by the binomials of (x + iy)^n."""
    powers = {
        1: ({(1, 0): 1}, {(0, 1): 1}),
        2: ({(2, 0): 1, (0, 2): -1}, {(1, 1): 2}),
        3: ({(3, 0): 1, (1, 2): -3}, {(2, 1): 3, (0, 3): -1}),
    }
    u: Terms = {}
    v: Terms = {}
    for n, (a, b) in enumerate(coefficients, 1):
        real, imaginary = powers[n]
        u = combine(combine(u, real, a), imaginary, -b)
        v = combine(combine(v, imaginary, a), real, b)
    return u, v


def as_parameters(terms: Terms) -> tuple[int, ...]:
    """Return the coefficients in the order of `POWERS`."""
    return tuple(int(terms.get(powers, 0)) for powers in POWERS)


def as_terms(parameters: Parameters) -> Terms:
    """Return a polynomial of its parameters."""
    return {powers: factor for powers, factor in zip(POWERS, parameters, strict=True) if factor}


def find_terms(formula: Formula | None) -> Terms | None:
    """Return the terms of a written polynomial in x and y without a constant; None: it is none."""
    if formula is None:
        return None
    total: Terms = {}
    for term in formula.terms if isinstance(formula, Sum) else (formula,):
        factor, powers = 1, [0, 0]
        for part in term.factors if isinstance(term, Product) else (term,):
            base, exponent = (part.base, part.exponent) if isinstance(part, Power) else (part, Number(1))
            if isinstance(part, Number) and isinstance(part.number, int):
                factor *= part.number
            elif base in (X, Y) and isinstance(exponent, Number):
                powers[base == Y] += exponent.number
            else:
                return None
        total = combine(total, {(powers[0], powers[1]): factor}, 1)
    return total if set(total) <= set(POWERS) else None


def draw_analytic(draws: random.Random, level: int) -> tuple[Terms, Terms]:
    """Draw u and v of a polynomial in z of degree 2 at level 3, 3 at levels 4 and 5."""
    size = (5, 4, 9)[level - 3]
    degree = 2 if level == 3 else 3
    coefficients = [(draws.randint(-size, size), draws.randint(-size, size)) for _ in range(degree - 1)]
    last = (draw_nonzero(draws, size), draws.randint(-size, size) if level == 5 else 0)
    return real_and_imaginary([*coefficients, last])


def write_partials(u: Terms, v: Terms) -> tuple[list[str], dict[str, Named], dict[str, tuple[str, ...]]]:
    """Write the four partial derivatives; return the lines, the names and their facts."""
    names, facts = {}, {}
    for letter, terms in (("u", u), ("v", v)):
        for axis, variable in enumerate("xy"):
            key = f"{letter}_{{{variable}}}"
            names[key] = Named(key, Derivative(make(terms), variable))
            facts[key] = (write(make(partial(terms, axis))),)
    lines = [
        f"{equal(names['u_{x}'], make(partial(u, 0)))} and {equal(names['v_{y}'], make(partial(v, 1)))}",
        f"{equal(names['u_{y}'], make(partial(u, 1)))} and {equal(names['v_{x}'], make(partial(v, 0)))}",
    ]
    return lines, names, facts


class CauchyRiemann(Template):
    """Whether u + iv is analytic. Parameters: the coefficients of u, then of v, in the order of `POWERS`."""

    name = "cauchy_riemann"
    domain = "complex_analysis"
    levels = (3, 4)
    wordings = (
        "Is $f(x + iy) = u + iv$ with $u = <<u>>$ and $v = <<v>>$ analytic?",
        "Let $u = <<u>>$ and $v = <<v>>$. Is $f = u + iv$ analytic? Answer yes or no.",
        "Decide with the Cauchy-Riemann equations whether $f = u + iv$ is analytic, where $u = <<u>>$ and $v = <<v>>$.",
    )

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Draw an analytic function half of the time, and change one term of v in the other half."""
        while True:
            u, v = draw_analytic(draws, level)
            if draws.random() < 0.5 and v:
                powers = draws.choice(sorted(v))
                v = combine(v, {powers: draw_nonzero(draws, 3)}, 1)
            if u and v:
                return as_parameters(u) + as_parameters(v)

    def solve(self, parameters: Parameters) -> Solved:
        """See Template."""
        u, v = as_terms(parameters[:9]), as_terms(parameters[9:])
        steps, names, facts = write_partials(u, v)
        first = combine(partial(u, 0), partial(v, 1), -1)
        second = combine(partial(u, 1), partial(v, 0), 1)
        steps.append(
            f"{equal(Sum((names['u_{x}'], -names['v_{y}'])), make(first))} and"
            f" {equal(Sum((names['u_{y}'], names['v_{x}'])), make(second))}"
        )
        is_analytic = not first and not second
        steps.append("Both are zero: analytic" if is_analytic else "Not both are zero: not analytic")
        facts |= {"u": (write(make(u)),), "v": (write(make(v)),)}
        answer = r"\text{yes}" if is_analytic else r"\text{no}"
        words = {"u": write(make(u)), "v": write(make(v))}
        return Solved(words, tuple(steps), answer, "statement", facts=facts)

    def read(self, text: str) -> Parameters | None:
        """See Template."""
        statement = read_statement(text)
        allowed = "function analytic holomorphic whether decide check no yes cauchy-riemann equations satisfies iv"
        parts = [_find_part(statement.formulas, letter) for letter in "uv"]
        if not statement.fits(allowed, "analytic holomorphic cauchy-riemann") or not all(parts):
            return None
        return as_parameters(parts[0]) + as_parameters(parts[1])


def _find_part(formulas: tuple[str, ...], letter: str) -> Terms | None:
    """Return the polynomial of `u = ...` or `u(x, y) = ...`."""
    sides = [re.fullmatch(rf"\s*{letter}\s*(?:\(\s*x\s*,\s*y\s*\))?\s*=(.+)", each) for each in formulas]
    found = [find_terms(find_formula(each[1])) for each in sides if each]
    return found[0] if len(found) == 1 else None


class HarmonicConjugate(Template):
    """v with u + iv analytic and v(0, 0) = 0. Parameters: the coefficients of u in the order of `POWERS`."""

    name = "harmonic_conjugate"
    domain = "complex_analysis"
    levels = (3, 4, 5)
    wordings = (
        "Find the harmonic conjugate $v$ of $u = <<u>>$ with $v(0, 0) = 0$.",
        "Let $u = <<u>>$. Find $v$ with $v(0, 0) = 0$ such that $f = u + iv$ is analytic.",
        "Determine the harmonic conjugate of $u(x, y) = <<u>>$ that is zero at the origin.",
    )

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Draw degree 2 at level 3, 3 from level 4 on."""
        return as_parameters(draw_analytic(draws, level)[0])

    def solve(self, parameters: Parameters) -> Solved:
        """See Template."""
        u = as_terms(parameters)
        u_x, u_y = partial(u, 0), partial(u, 1)
        known = integrate(u_x, 1)
        rest = combine(combine({}, u_y, -1), partial(known, 0), -1)
        g = integrate(rest, 0)
        v = combine(known, g, 1)
        keys = (("u_{x}", u), ("u_{y}", u), ("v_{x}", v), ("v_{y}", v))
        names = {key: Named(key, Derivative(make(terms), key[3])) for key, terms in keys}
        v_x, minus_u_y = names["v_{x}"], combine({}, u_y, -1)
        slope, g_name = Named("g'(x)", make(rest)), Named("g(x)", make(g))
        equal(Derivative(make(g), "x"), make(rest))
        steps = [
            equal(names["v_{y}"], names["u_{x}"], make(u_x)),
            f"Integrate by $y$: {equal(Named('v', make(v)), add(make(known), g_name))}",
            f"{equal(v_x, add(make(partial(known, 0)), slope))} and {equal(v_x, -names['u_{y}'], make(minus_u_y))}",
            f"So {equal(slope, make(rest))} and {equal(g_name, make(g))}",
            equal(Named("v", make(v)), make(v)),
        ]
        facts = {"u": u, "u_{x}": u_x, "u_{y}": u_y, "v": v, "v_{x}": partial(v, 0), "v_{y}": partial(v, 1)}
        facts |= {"g(x)": g, "g'(x)": rest}
        texts = {name: (write(make(terms)),) for name, terms in facts.items()}
        return Solved({"u": write(make(u))}, tuple(steps), write(make(v)), facts=texts)

    def read(self, text: str) -> Parameters | None:
        """See Template."""
        statement = read_statement(text)
        allowed = "function harmonic conjugate analytic holomorphic zero at origin"
        u = _find_part(statement.formulas, "u") if statement.fits(allowed, "conjugate analytic holomorphic") else None
        is_harmonic = u and not combine(partial(partial(u, 0), 0), partial(partial(u, 1), 1), 1)
        has_v = any(re.match(r"\s*v\s*=", each) for each in statement.formulas)
        return as_parameters(u) if is_harmonic and not has_v else None
