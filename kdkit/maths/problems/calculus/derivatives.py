"""Derivatives by rule: powers, products, quotients, chains."""

import random

from kdkit.maths.formulas.reading import find_integers
from kdkit.maths.formulas.tree import Derivative, Formula, Name, Named, Number, Product, add, polynomial
from kdkit.maths.formulas.writing import write
from kdkit.maths.problems.proofs import equal
from kdkit.maths.problems.statements import asks_derivative, find_function
from kdkit.maths.problems.template import Parameters, Solved, Template

X = Name("x")


def derive_power(coefficient: int, exponent: int) -> Formula:
    """Power rule: the derivative of a x^n is a n x^(n-1)."""
    return coefficient * exponent * X ** (exponent - 1) if exponent else Number(0)


def draw_nonzero(draws: random.Random, size: int) -> int:
    """Draw a whole number from -size to size that is not zero."""
    return draws.choice((-1, 1)) * draws.randint(1, size)


class DerivativePolynomial(Template):
    """Term by term with the power rule. Parameters: coefficients, the highest power's first."""

    name = "derivative_polynomial"
    domain = "calculus"
    wordings = (
        "Find the derivative of $f(x) = <<function>>$.",
        "Differentiate $f(x) = <<function>>$.",
        "Let $f(x) = <<function>>$. Find $f'(x)$.",
        r"Compute $\frac{d}{dx}(<<function>>)$.",
    )

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Draw degrees 1 to 2 at level 1, up to 7 at level 5, and larger numbers."""
        degree = draws.randint(*((1, 2), (2, 3), (3, 4), (4, 5), (5, 7))[level - 1])
        size = (5, 9, 9, 12, 20)[level - 1]
        others = [draws.randint(-size, size) for _ in range(degree)]
        return (draw_nonzero(draws, size), *others)

    def solve(self, parameters: Parameters) -> Solved:
        """See Template."""
        degree = len(parameters) - 1
        function = polynomial(parameters)
        terms, derived, steps = [], [], []
        for k, coefficient in enumerate(parameters):
            if coefficient == 0:
                continue
            exponent = degree - k
            term, result = coefficient * X**exponent, derive_power(coefficient, exponent)
            between = []
            if abs(coefficient) > 1 and exponent > 1:
                between = [Product((Number(coefficient), exponent * X ** (exponent - 1)))]
            steps.append(equal(Derivative(term, "x"), *between, result))
            terms.append(term)
            derived.append(result)
        answer = add(*derived)
        steps.append("Together " + equal(Named("f'(x)", Derivative(function, "x")), answer))
        facts = {"f(x)": (write(function),), "f'(x)": (write(answer),)}
        return Solved({"function": write(function)}, tuple(steps), write(answer), facts=facts)

    def read(self, text: str) -> Parameters | None:
        """See Template."""
        found = find_integers(find_function(text)) if asks_derivative(text) else None
        return found if found is not None and 1 <= len(found) - 1 <= 12 else None
