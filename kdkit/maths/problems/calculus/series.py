"""Taylor polynomials at 0, from the derivatives there."""

import math
import random
import re
from fractions import Fraction

import mpmath

from kdkit.maths.formulas.measured import Derivative
from kdkit.maths.formulas.reading import find_integers
from kdkit.maths.formulas.tree import Formula, Function, Named, Number, Product, Quotient, Sum, cos, exp, ln, sin
from kdkit.maths.formulas.writing import write
from kdkit.maths.problems.calculus.derivatives import find_multiple
from kdkit.maths.problems.calculus.elementary import X, draw_nonzero
from kdkit.maths.problems.relations import equal
from kdkit.maths.problems.statements import find_right_side
from kdkit.maths.problems.template import Parameters, Solved, Template, UnprovenStepError
from kdkit.maths.reading import read_statement

MARKS = ("", "'", "''", "'''", "^{(4)}", "^{(5)}")
DEGREE = re.compile(r"(?:degree|order)\s*\$?\s*([1-5])\b|\b(second|third|fourth|fifth)[- ](?:degree|order)")
ORDINALS = {"second": 2, "third": 3, "fourth": 4, "fifth": 5}


def differentiate(kind: str, k: int, n: int) -> Formula:
    """Return the n-th derivative of e^(kx), sin(kx), cos(kx), ln(1 + kx) or 1/(1 - kx)."""
    match kind:
        case "exp":
            return k**n * exp(k * X)
        case "sin" | "cos":
            turn = (n + (kind == "cos")) % 4
            return k**n * (sin(k * X), cos(k * X), -sin(k * X), -cos(k * X))[turn]
        case "ln":
            if n == 0:
                return ln(1 + k * X)
            return Quotient(Number((-1) ** (n - 1) * math.factorial(n - 1) * k**n), (1 + k * X) ** n)
    return Quotient(Number(math.factorial(n) * k**n), (1 - k * X) ** (n + 1))


class TaylorPolynomial(Template):
    """Of a f(kx) at 0. Parameters: the degree, a, f (`exp`, `sin`, `cos`, `ln`: 1 + kx, `reciprocal`: 1 - kx), k."""

    name = "taylor_polynomial"
    domain = "calculus"
    levels = (2, 3, 4, 5)
    wordings = (
        "Find the Taylor polynomial of degree <<degree>> of $f(x) = <<function>>$ at $x = 0$.",
        "Find the Maclaurin polynomial of degree <<degree>> of $f(x) = <<function>>$.",
        "Expand $f(x) = <<function>>$ in a Taylor series at $x = 0$ up to degree <<degree>>.",
    )

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Draw degree 2 at level 2, 3 at 3 and 4, 4 at 5; larger numbers from 4 on."""
        kind = draws.choice(("exp", "sin", "cos", "ln", "reciprocal"))
        inner = (12, 12, 5, 4)[level - 2]
        k = draws.randint(1, inner) if kind in ("sin", "cos") else draw_nonzero(draws, inner)
        return (2, 3, 3, 4)[level - 2], draw_nonzero(draws, (3, 3, 9, 9)[level - 2]), kind, k

    def solve(self, parameters: Parameters) -> Solved:
        """See Template."""
        degree, factor, kind, k = parameters
        steps, facts, terms, values = [], {}, [], []
        before = None
        for n in range(degree + 1):
            derived = factor * differentiate(kind, k, n)
            name, name_at = f"f{MARKS[n]}(x)", f"f{MARKS[n]}(0)"
            value = derived.value({"x": Fraction(0)})
            value = Fraction(round(complex(value).real))
            function = Named(name, derived if before is None else Derivative(before, "x"))
            at_zero = Named(name_at, derived)
            steps.append(
                f"{equal(function, derived)} and {equal(at_zero, Number(value), points=({'x': Fraction(0)},))}"
            )
            facts |= {name: (write(derived),), name_at: (write(Number(value)),)}
            by = Number(1) if n < 2 else Number(Fraction(1, math.factorial(n)))
            terms.append(_term(Named(name_at, Number(value)), n))
            values.append(value * by.number)
            before = derived
        answer = polynomial_up(values)
        prove_near(factor * differentiate(kind, k, 0), answer, degree)
        facts["T(x)"] = (write(answer),)
        steps.append(equal(Named("T(x)", answer), Sum(tuple(terms)), answer))
        words = {"degree": str(degree), "function": write(factor * differentiate(kind, k, 0))}
        return Solved(words, tuple(steps), write(answer), facts=facts)

    def read(self, text: str) -> Parameters | None:
        """See Template."""
        statement, degree = read_statement(text), DEGREE.search(text)
        allowed = "expand series polynomial function at about around point up degree order second third fourth fifth"
        if not degree or not statement.fits(f"{allowed} expansion centered third-degree", "taylor maclaurin"):
            return None
        place = re.compile(r"(?:[xa]\s*=\s*)?0|[1-5]|x")
        functions = [each for each in statement.formulas if not place.fullmatch(each)]
        found = find_kind(find_right_side(functions[0])) if len(functions) == 1 else None
        return (int(degree[1] or ORDINALS[degree[2]]), *found) if found else None


def _term(value: Formula, n: int) -> Formula:
    if n < 2:
        return Product((value, X)) if n else value
    return Product((Quotient(value, Number(math.factorial(n))), X**n))


def polynomial_up(values: list[Fraction]) -> Formula:
    """Return a polynomial, its lowest power first."""
    terms = [Number(value) * X**n for n, value in enumerate(values) if value]
    return Sum(tuple(terms)) if len(terms) > 1 else (terms or [Number(0)])[0]


def prove_near(function: Formula, approximation: Formula, degree: int) -> None:
    """Prove that two functions differ by less than x^degree near 0: by one small x, in 120 digits.

    Raises:
        UnprovenStepError: they do not.
    """
    with mpmath.workdps(120):
        x = mpmath.mpf(10) ** -20
        rest = abs(function.value({"x": x}) - approximation.value({"x": x})) / x**degree
    if rest > mpmath.mpf(10) ** -12:
        raise UnprovenStepError(f"{write(approximation)} is no Taylor polynomial of {write(function)}")


def find_kind(formula: Formula | None) -> tuple[int, str, int] | None:
    """Return (a, kind, k) of a function; None: it is none of these."""
    factor = 1
    if isinstance(formula, Quotient):
        top, bottom = find_integers(formula.top), find_integers(formula.bottom)
        if top and len(top) == 1 and bottom and len(bottom) == 2 and bottom[1] == 1:
            return top[0], "reciprocal", -bottom[0]
        return None
    if isinstance(formula, Product) and len(formula.factors) == 2 and isinstance(formula.factors[0], Number):
        factor, formula = formula.factors[0].number, formula.factors[1]
    if isinstance(formula, Function) and formula.name == "ln":
        line = find_integers(formula.argument)
        return (factor, "ln", line[0]) if line and len(line) == 2 and line[1] == 1 else None
    found = find_multiple(formula)
    return (factor * found[0], *found[1:]) if found else None
