"""How a generator proves its steps: exact claims, made of the numbers that the step shows."""

from collections.abc import Sequence
from fractions import Fraction

from kdkit.maths.latex import Exact
from kdkit.maths.problems.template import UnprovenStepError


def proven(step: str, *claims: bool) -> str:
    """Return a step whose claims are all true.

    Raises:
        UnprovenStepError: one is false.
    """
    if not all(claims):
        raise UnprovenStepError(f"not true: {step}")
    return step


def value_at(coefficients: Sequence[Exact], x: Exact) -> Exact:
    """Return a polynomial's value, highest degree first."""
    value: Exact = 0
    for coefficient in coefficients:
        value = value * x + coefficient
    return value


def times(first: Sequence[Exact], second: Sequence[Exact]) -> list[Exact]:
    """Multiply two polynomials, highest degree first."""
    result: list[Exact] = [0] * (len(first) + len(second) - 1)
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            result[i + j] += a * b
    return result


def derivative(coefficients: Sequence[Exact]) -> list[Exact]:
    """Differentiate a polynomial, highest degree first."""
    degree = len(coefficients) - 1
    return [value * (degree - i) for i, value in enumerate(coefficients[:-1])] or [0]


def quotient(over: Exact, under: Exact) -> Exact:
    """Divide exactly: whole numbers where it comes out even."""
    result = Fraction(over) / under
    return int(result) if result.denominator == 1 else result


def exact(parameter: int | str) -> Exact:
    """Read a parameter of a template: a whole number, or text such as `1/2`."""
    return quotient(Fraction(parameter), 1)
