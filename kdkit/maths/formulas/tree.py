r"""Formulas as trees: what a solution writes and what is checked of it are one object.

Operators fold numbers and drop zeros and ones; the classes themselves do not, so that $2 \cdot 3$ can be shown.
"""

import cmath
import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import mpmath
import numpy

from kdkit.maths.latex import split_square

Point = dict[str, Any]
"""What each name stands for: a Fraction, a complex number, one of mpmath's, or an array of numbers."""


class Formula:
    """A formula; see the subclasses."""

    __slots__ = ()

    def __add__(self, other: "Formula | int | Fraction") -> "Formula":
        return add(self, wrap(other))

    def __radd__(self, other: int | Fraction) -> "Formula":
        return add(wrap(other), self)

    def __sub__(self, other: "Formula | int | Fraction") -> "Formula":
        return add(self, multiply(Number(-1), wrap(other)))

    def __rsub__(self, other: int | Fraction) -> "Formula":
        return add(wrap(other), multiply(Number(-1), self))

    def __mul__(self, other: "Formula | int | Fraction") -> "Formula":
        return multiply(self, wrap(other))

    def __rmul__(self, other: int | Fraction) -> "Formula":
        return multiply(wrap(other), self)

    def __truediv__(self, other: "Formula | int | Fraction") -> "Formula":
        other = wrap(other)
        if isinstance(other, Number):
            return multiply(Number(Fraction(1) / other.number), self)
        return Number(0) if self == Number(0) else Quotient(self, other)

    def __rtruediv__(self, other: int | Fraction) -> "Formula":
        return wrap(other) / self

    def __pow__(self, exponent: "Formula | int | Fraction") -> "Formula":
        exponent = wrap(exponent)
        if exponent == Number(0):
            return Number(1)
        if isinstance(self, Number) and isinstance(exponent, Number) and exponent.number.denominator == 1:
            return multiply(Number(Fraction(self.number) ** int(exponent.number)))
        return self if exponent == Number(1) else Power(self, exponent)

    def __neg__(self) -> "Formula":
        return multiply(Number(-1), self)

    def value(self, at: Point) -> Any:
        """Evaluate it: exactly, if all of the point is Fractions and it holds no functions."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Number(Formula):
    """A rational number."""

    number: int | Fraction

    def value(self, at: Point) -> Any:
        """See Formula."""
        return Fraction(self.number)


@dataclass(frozen=True, slots=True)
class Name(Formula):
    r"""A variable, or a constant without a value of its own: `x`, `C_{1}`; `i`, `\pi` and `e` have theirs."""

    name: str

    def value(self, at: Point) -> Any:
        """See Formula."""
        return CONSTANTS[self.name] if self.name in CONSTANTS else at[self.name]


@dataclass(frozen=True, slots=True)
class Sum(Formula):
    """Terms."""

    terms: tuple[Formula, ...]

    def value(self, at: Point) -> Any:
        """See Formula."""
        total = self.terms[0].value(at)
        for term in self.terms[1:]:
            total = _meet(total, term.value(at), "+")
        return total


@dataclass(frozen=True, slots=True)
class Product(Formula):
    """Factors; a number among them stands first where it is a coefficient."""

    factors: tuple[Formula, ...]

    def value(self, at: Point) -> Any:
        """See Formula."""
        total = self.factors[0].value(at)
        for factor in self.factors[1:]:
            total = _meet(total, factor.value(at), "*")
        return total


@dataclass(frozen=True, slots=True)
class Quotient(Formula):
    """A fraction."""

    top: Formula
    bottom: Formula

    def value(self, at: Point) -> Any:
        """See Formula."""
        return _meet(self.top.value(at), self.bottom.value(at), "/")


@dataclass(frozen=True, slots=True)
class Power(Formula):
    """A base with an exponent."""

    base: Formula
    exponent: Formula

    def value(self, at: Point) -> Any:
        """See Formula."""
        exponent = self.exponent.value(at)
        if isinstance(exponent, Fraction) and exponent.denominator == 1:
            return self.base.value(at) ** int(exponent)
        return _inexact(self.base.value(at)) ** _inexact(exponent)


@dataclass(frozen=True, slots=True)
class Function(Formula):
    """One of `FUNCTIONS` of an argument."""

    name: str
    argument: Formula

    def value(self, at: Point) -> Any:
        """See Formula."""
        argument = self.argument.value(at)
        if isinstance(argument, numpy.ndarray):
            return getattr(numpy, self.name)(argument)
        if isinstance(argument, mpmath.mpf | mpmath.mpc):
            return getattr(mpmath, self.name)(argument)
        return FUNCTIONS[self.name](_inexact(argument))


@dataclass(frozen=True, slots=True)
class Named(Formula):
    """A name for a formula, `f(x)` for a polynomial: written as the one, worth the other."""

    name: str
    formula: Formula

    def value(self, at: Point) -> Any:
        """See Formula."""
        return self.formula.value(at)


class OutsideDomainError(ArithmeticError):
    """A real function has no real value here."""


def real_log(argument: complex | float) -> complex:
    """Return ln u where u is positive; a tiny imaginary part, a complex step's, is no hindrance.

    Raises:
        OutsideDomainError: it is negative.
    """
    if argument.real <= 0:
        raise OutsideDomainError("the logarithm of a negative number")
    return cmath.log(argument)


def real_root(argument: complex | float) -> complex:
    """Return the square root of a positive number.

    Raises:
        OutsideDomainError: it is negative.
    """
    if argument.real < 0:
        raise OutsideDomainError("the root of a negative number")
    return cmath.sqrt(argument)


def log_of_absolute(argument: complex | float) -> complex:
    """Return ln|u|; off the real axis its analytic continuation, so that the complex step sees its slope."""
    return cmath.log(-argument if argument.real < 0 else argument)


FUNCTIONS = {
    "exp": cmath.exp,
    "sin": cmath.sin,
    "cos": cmath.cos,
    "tan": cmath.tan,
    "ln": real_log,
    "ln_abs": log_of_absolute,
    "sqrt": real_root,
    "abs": abs,
}
CONSTANTS = {"i": 1j, r"\pi": math.pi, "e": math.e}


def _inexact(number: Any) -> Any:
    return float(number) if isinstance(number, Fraction) else number


def _meet(left: Any, right: Any, operator: str) -> Any:
    """Combine two values: Fractions stay exact among themselves, and give way to any other number."""
    if isinstance(left, Fraction) != isinstance(right, Fraction):
        if isinstance(left, mpmath.mpf | mpmath.mpc):
            right = mpmath.mpf(right.numerator) / right.denominator
        elif isinstance(right, mpmath.mpf | mpmath.mpc):
            left = mpmath.mpf(left.numerator) / left.denominator
        else:
            left, right = _inexact(left), _inexact(right)
    if operator == "+":
        return left + right
    return left * right if operator == "*" else left / right


def wrap(number: Formula | int | Fraction) -> Formula:
    """Return a formula for a number."""
    return number if isinstance(number, Formula) else Number(number)


def add(*terms: Formula) -> Formula:
    """Return the sum, without zeros, flat; bare numbers are added up only where all are."""
    flat = [each for term in terms for each in (term.terms if isinstance(term, Sum) else (term,))]
    flat = [term for term in flat if term != Number(0)]
    if all(isinstance(term, Number) for term in flat):
        return Number(sum(term.number for term in flat))
    return flat[0] if len(flat) == 1 else Sum(tuple(flat))


def multiply(*factors: Formula) -> Formula:
    """Return the product, its numbers multiplied and in front."""
    flat = [each for factor in factors for each in (factor.factors if isinstance(factor, Product) else (factor,))]
    number = math.prod(factor.number for factor in flat if isinstance(factor, Number))
    number = number.numerator if number.denominator == 1 else number
    rest = tuple(factor for factor in flat if not isinstance(factor, Number))
    if not rest or number == 0:
        return Number(number)
    if number == 1:
        return rest[0] if len(rest) == 1 else Product(rest)
    if len(rest) == 1 and isinstance(rest[0], Quotient) and number.denominator == 1:
        return Quotient(multiply(Number(number), rest[0].top), rest[0].bottom)
    if number == -1 and len(rest) == 1 and isinstance(rest[0], Sum):
        return Sum(tuple(multiply(Number(-1), term) for term in rest[0].terms))
    return Product((Number(number), *rest))


def polynomial(coefficients: tuple[int | Fraction, ...], name: str = "x") -> Formula:
    """Return the polynomial of these coefficients, the highest power's first."""
    variable, degree = Name(name), len(coefficients) - 1
    return add(*(Number(each) * variable ** (degree - k) for k, each in enumerate(coefficients)))


def sqrt(number: int) -> Formula:
    """Return the root of a positive whole number in lowest terms."""
    outside, inside = split_square(number)
    return Number(outside) if inside == 1 else multiply(Number(outside), Function("sqrt", Number(inside)))


def sin(argument: Formula) -> Formula:
    """Return the sine."""
    return Function("sin", argument)


def pi_times(number: Fraction | int) -> Formula:
    r"""Return a multiple of pi, written $\frac{3\pi}{2}$."""
    top = Fraction(number).numerator * Name(r"\pi")
    return (
        top if Fraction(number).denominator == 1 or not number else Quotient(top, Number(Fraction(number).denominator))
    )


def cos(argument: Formula) -> Formula:
    """Return the cosine."""
    return Function("cos", argument)


def exp(argument: Formula) -> Formula:
    """Return the exponential; of zero it is 1."""
    return Number(1) if argument == Number(0) else Function("exp", argument)


def ln(argument: Formula) -> Formula:
    """Return the natural logarithm."""
    return Function("ln", argument)
