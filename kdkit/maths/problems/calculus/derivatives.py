"""Derivatives of sums, term by term."""

import random

from kdkit.maths.formulas.measured import Derivative
from kdkit.maths.formulas.reading import find_integers
from kdkit.maths.formulas.rules import derive
from kdkit.maths.formulas.tree import Formula, Function, Named, Number, Product, Sum, add, polynomial
from kdkit.maths.formulas.writing import write
from kdkit.maths.problems.calculus.elementary import X, draw_nonzero, draw_polynomial, one_order
from kdkit.maths.problems.relations import equal
from kdkit.maths.problems.statements import find_derivative
from kdkit.maths.problems.template import Parameters, Solved, Template

WORDINGS = (
    "Find the derivative of $f(x) = <<function>>$.",
    "Differentiate $f(x) = <<function>>$.",
    "Let $f(x) = <<function>>$. Find $f'(x)$.",
    r"Compute $\frac{d}{dx}(<<function>>)$.",
)


def derive_power(coefficient: int, exponent: int) -> Formula:
    """Power rule: the derivative of a x^n is a n x^(n-1)."""
    return coefficient * exponent * X ** (exponent - 1) if exponent else Number(0)


def finish(function: Formula, steps: list[str], answer: Formula, facts: dict[str, tuple[str, ...]]) -> Solved:
    """Return the solution of a derivative whose steps are written."""
    named = {"f(x)": (write(function),), "f'(x)": (write(answer),)}
    return Solved({"function": write(function)}, tuple(steps), write(answer), facts={**named, **facts})


class DerivativePolynomial(Template):
    """Term by term with the power rule. Parameters: coefficients, the highest power's first."""

    name = "derivative_polynomial"
    domain = "calculus"
    wordings = WORDINGS

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Draw degrees 1 to 2 at level 1, up to 7 at level 5, and larger numbers."""
        degree = draws.randint(*((1, 2), (2, 3), (3, 4), (4, 5), (5, 7))[level - 1])
        return draw_polynomial(draws, degree, (5, 9, 9, 12, 20)[level - 1])

    def solve(self, parameters: Parameters) -> Solved:
        """See Template."""
        degree, derived, steps = len(parameters) - 1, [], []
        for k, coefficient in enumerate(parameters):
            if coefficient == 0:
                continue
            exponent = degree - k
            term, result = coefficient * X**exponent, derive_power(coefficient, exponent)
            between = []
            if abs(coefficient) > 1 and exponent > 1:
                between = [Product((Number(coefficient), exponent * X ** (exponent - 1)))]
            steps.append(equal(Derivative(term, "x"), *between, result))
            derived.append(result)
        function, answer = polynomial(parameters), add(*derived)
        steps.append("Together " + equal(Named("f'(x)", Derivative(function, "x")), answer))
        return finish(function, steps, answer, {})

    def read(self, text: str) -> Parameters | None:
        """See Template."""
        found = find_integers(find_derivative(text))
        return found if found is not None and 1 <= len(found) - 1 <= 12 else None


class DerivativeFunctions(Template):
    """A sum of a sin(kx), a cos(kx), a e^(kx), a ln(x). Parameters: for each term a, the function, k (for ln: 1)."""

    name = "derivative_functions"
    domain = "calculus"
    wordings = WORDINGS

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Draw one term at level 1, two at 2 and 3, three at 4 and 5; k is 1 at level 1."""
        kinds = draws.sample(("exp", "sin", "cos", "ln"), (1, 2, 2, 3, 3)[level - 1])
        size, inner = (15, 5, 9, 9, 15)[level - 1], (4, 3, 5, 5, 9)[level - 1]
        terms = [(draw_nonzero(draws, size), kind, 1 if kind == "ln" else draws.randint(1, inner)) for kind in kinds]
        return tuple(each for term in one_order(terms) for each in term)

    def solve(self, parameters: Parameters) -> Solved:
        """See Template."""
        groups = zip(parameters[::3], parameters[1::3], parameters[2::3], strict=True)
        terms = [factor * Function(kind, k * X) for factor, kind, k in groups]
        derived = [derive(term) for term in terms]
        steps = [equal(Derivative(term, "x"), result) for term, result in zip(terms, derived, strict=True)]
        function, answer = add(*terms), add(*derived)
        steps.append("Together " + equal(Named("f'(x)", Derivative(function, "x")), answer))
        return finish(function, steps, answer, {})

    def read(self, text: str) -> Parameters | None:
        """See Template."""
        function = find_derivative(text)
        terms = function.terms if isinstance(function, Sum) else (function,)
        found = [find_multiple(term) for term in terms]
        return tuple(each for term in found for each in term) if all(found) else None


def find_multiple(term: Formula | None) -> tuple[int, str, int] | None:
    """Return (a, function, k) of a term a f(kx); None: it is none."""
    factor = 1
    if isinstance(term, Product) and len(term.factors) == 2 and isinstance(term.factors[0], Number):
        factor, term = term.factors[0].number, term.factors[1]
    match term:
        case Function("exp" | "sin" | "cos" | "ln" as kind, argument) if isinstance(factor, int):
            inner = find_integers(argument)
            if inner and len(inner) == 2 and inner[1] == 0 and (kind != "ln" or inner[0] == 1):
                return factor, kind, inner[0]
    return None
