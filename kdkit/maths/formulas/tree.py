r"""Formulas as trees: what a solution writes and what is checked of it are one object.

Operators fold numbers and drop zeros and ones; the classes themselves do not, so that $2 \cdot 3$ can be shown.
"""

import cmath
import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import mpmath

Point = dict[str, Any]
"""What each name stands for: a Fraction, a complex number, or one of mpmath's."""
STEP = Fraction(1, 10**60)
COMPLEX_STEP = 1e-30


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
            return multiply(Number(1 / other.number), self)
        return Number(0) if self == Number(0) else Quotient(self, other)

    def __rtruediv__(self, other: int | Fraction) -> "Formula":
        return wrap(other) / self

    def __pow__(self, exponent: "Formula | int | Fraction") -> "Formula":
        exponent = wrap(exponent)
        if exponent == Number(0):
            return Number(1)
        if isinstance(self, Number) and isinstance(exponent, Number) and exponent.number.denominator == 1:
            return Number(self.number**exponent.number)
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
        if isinstance(argument, mpmath.mpf | mpmath.mpc):
            return getattr(mpmath, MPMATH.get(self.name, self.name))(argument)
        return FUNCTIONS[self.name](_inexact(argument))


@dataclass(frozen=True, slots=True)
class Named(Formula):
    """A name for a formula, `f(x)` for a polynomial: written as the one, worth the other."""

    name: str
    formula: Formula

    def value(self, at: Point) -> Any:
        """See Formula."""
        return self.formula.value(at)


@dataclass(frozen=True, slots=True)
class Derivative(Formula):
    r"""$\frac{d}{dx}(u)$: its value comes from a difference, by no rule of differentiation."""

    formula: Formula
    name: str

    def value(self, at: Point) -> Any:
        """Exact to 40 digits at Fractions where the formula has no functions, to about 14 elsewhere."""
        return slope(self.formula, self.name, at)


def slope(formula: Formula, name: str, at: Point) -> Any:
    """Measure the slope at a point: a difference over 10^-60 in exact numbers, or else the complex step.

    Source: Squire and Trapp 1998, Using complex variables to estimate derivatives of real functions.
    """
    here = at[name]
    if isinstance(here, Fraction):
        before = formula.value(at)
        if isinstance(before, Fraction):
            return (formula.value({**at, name: here + STEP}) - before) / STEP
    real = {key: float(each) for key, each in at.items()}
    return formula.value({**real, name: complex(real[name], COMPLEX_STEP)}).imag / COMPLEX_STEP


def log_of_absolute(argument: complex | float) -> complex:
    """Return ln|u|; off the real axis its analytic continuation, so that the complex step sees its slope."""
    return cmath.log(-argument if argument.real < 0 else argument)


FUNCTIONS = {
    "exp": cmath.exp,
    "sin": cmath.sin,
    "cos": cmath.cos,
    "tan": cmath.tan,
    "ln": cmath.log,
    "ln_abs": log_of_absolute,
    "sqrt": cmath.sqrt,
    "arctan": cmath.atan,
}
MPMATH = {"arctan": "atan"}
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
    rest = tuple(factor for factor in flat if not isinstance(factor, Number))
    if not rest or number == 0:
        return Number(number)
    if number == 1:
        return rest[0] if len(rest) == 1 else Product(rest)
    if number == -1 and len(rest) == 1 and isinstance(rest[0], Sum):
        return Sum(tuple(multiply(Number(-1), term) for term in rest[0].terms))
    return Product((Number(number), *rest))


def polynomial(coefficients: tuple[int | Fraction, ...], name: str = "x") -> Formula:
    """Return the polynomial of these coefficients, the highest power's first."""
    variable, degree = Name(name), len(coefficients) - 1
    return add(*(Number(each) * variable ** (degree - k) for k, each in enumerate(coefficients)))


def sin(argument: Formula) -> Formula:
    """Return the sine."""
    return Function("sin", argument)


def cos(argument: Formula) -> Formula:
    """Return the cosine."""
    return Function("cos", argument)


def exp(argument: Formula) -> Formula:
    """Return the exponential; of zero it is 1."""
    return Number(1) if argument == Number(0) else Function("exp", argument)


def ln(argument: Formula) -> Formula:
    """Return the natural logarithm."""
    return Function("ln", argument)
