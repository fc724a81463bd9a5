"""Sums, products, powers and functions of sympy objects, refused where they would grow beyond any use."""

import sympy
from sympy import Basic, Expr, Integer, MatrixBase, Rational

from kdkit.maths.checking.latex.tokens import UnreadableError

MOST_DIGITS = 2000
"""Of a number that is computed exactly."""
MOST_FACTORIAL = 1000
LARGEST_MATRIX = 12
"""Rows or columns."""


def unit(name: str) -> sympy.Symbol:
    """Make the symbol of a unit: a positive number that is not known."""
    return sympy.Symbol(f'"{name}', positive=True)


def number(text: str) -> Rational:
    """Read a decimal number exactly, `1.5e-3` as well."""
    digits, _, exponent = text.lower().partition("e")
    power = int(exponent or 0)
    if len(digits) + abs(power) > MOST_DIGITS:
        raise UnreadableError("a number of too many digits")
    whole, _, part = digits.partition(".")
    value = Integer(int((whole + part) or "0"))
    shift = power - len(part)
    return value * Integer(10) ** shift if shift >= 0 else Rational(value, Integer(10) ** -shift)


def add(left: Basic, right: Basic) -> Basic:
    """Return the sum."""
    if isinstance(left, MatrixBase) != isinstance(right, MatrixBase):
        raise UnreadableError("a matrix and a number are added")
    return _sized(left + right)


def multiply(left: Basic, right: Basic) -> Basic:
    """Return the product."""
    return _sized(left * right)


def divide(left: Basic, right: Basic) -> Basic:
    """Return the quotient."""
    if isinstance(right, MatrixBase):
        raise UnreadableError("division by a matrix")
    if right == 0:
        raise UnreadableError("division by zero")
    return _sized(left / right)


def power(base: Basic, exponent: Basic) -> Basic:
    """Return the power; of a matrix: with a whole exponent, its inverse, or its transpose."""
    if isinstance(base, MatrixBase):
        if isinstance(exponent, sympy.Symbol) and exponent.name in ("T", "\\top", "t"):
            return base.T
        if not isinstance(exponent, Integer) or abs(int(exponent)) > 20 or base.rows != base.cols:
            raise UnreadableError("this power of a matrix")
        return base ** int(exponent)
    if isinstance(exponent, MatrixBase):
        raise UnreadableError("a matrix as exponent")
    if base.is_number and exponent.is_number:
        if base == 0 and exponent.is_Rational and exponent < 0:
            raise UnreadableError("division by zero")
        _check_size(base, exponent)
    return base**exponent


def _check_size(base: Expr, exponent: Expr) -> None:
    """Refuse exact powers of too many digits; what is not rational stays as it is, and only its parts count."""
    height = _height(exponent)
    if height > MOST_DIGITS:
        raise UnreadableError("an exponent too large")
    if not exponent.is_Rational:
        if exponent.has(sympy.Pow, sympy.factorial) and height > 300:
            raise UnreadableError("an exponent too large")
        return
    size = abs(float(exponent)) if height < 300 else float("inf")
    if size > 1 and size * max(_height(base), 0.31) > MOST_DIGITS:
        raise UnreadableError("a power of too many digits")


def _height(value: Expr) -> float:
    """Return about how many decimal digits the largest number within has."""
    numbers = [max(abs(part.p), part.q) for part in value.atoms(Rational)]
    return max((each.bit_length() * 0.302 for each in numbers), default=0.0)


def _sized(value: Basic) -> Basic:
    """Refuse what is undefined or has too many digits."""
    if isinstance(value, Rational) and max(abs(value.p), value.q).bit_length() > 4 * MOST_DIGITS:
        raise UnreadableError("a number of too many digits")
    if value is sympy.nan or value is sympy.zoo:
        raise UnreadableError("undefined")
    return value


def factorial(value: Basic) -> Basic:
    """Return the factorial."""
    if isinstance(value, Rational) and (value > MOST_FACTORIAL or not value.is_Integer):
        raise UnreadableError("a factorial too large")
    return sympy.factorial(value)


def binomial(above: Basic, below: Basic) -> Basic:
    """Return the binomial coefficient."""
    if any(isinstance(each, Rational) and abs(each) > MOST_FACTORIAL for each in (above, below)):
        raise UnreadableError("a binomial coefficient too large")
    return sympy.binomial(above, below)


def root(radicand: Basic, index: Basic) -> Basic:
    """Return a root; the real one of a negative number where its index is odd."""
    if isinstance(radicand, MatrixBase) or index == 0:
        raise UnreadableError("a root of this")
    coefficient = radicand.as_coeff_Mul()[0]
    if radicand.is_number and isinstance(index, Integer) and index % 2 == 1 and coefficient < 0:
        return -root(-radicand, index)
    return power(radicand, 1 / index)


def matrix(rows: list[list[Basic]]) -> MatrixBase:
    """Make a matrix."""
    widths = {len(row) for row in rows}
    if len(widths) != 1 or max(len(rows), *widths) > LARGEST_MATRIX:
        raise UnreadableError("rows of different lengths, or too many")
    if any(isinstance(each, MatrixBase) for row in rows for each in row):
        raise UnreadableError("a matrix of matrices")
    return sympy.ImmutableMatrix(rows)


def call(name: str, argument: Basic, log_base: str) -> Basic:
    """Apply a function by its LaTeX name, without the backslash."""
    if isinstance(argument, MatrixBase):
        return _call_of_matrix(name, argument)
    if name == "log" and log_base != "e":
        return _sized(sympy.log(argument, Integer(int(log_base))))
    if name == "lg":
        return _sized(sympy.log(argument, 10))
    if name not in CALLS:
        raise UnreadableError(name)
    return _sized(CALLS[name](argument))


def _call_of_matrix(name: str, argument: MatrixBase) -> Basic:
    """Apply a function of matrices."""
    if name in ("det", "rank", "tr", "trace") and (name == "rank" or argument.rows == argument.cols):
        if name == "rank":
            return Integer(argument.rank())
        return argument.det() if name == "det" else argument.trace()
    if name == "adj" and argument.rows == argument.cols:
        return argument.adjugate()
    raise UnreadableError(f"{name} of a matrix")


def cis(angle: Expr) -> Expr:
    """Return the number of size 1 at an angle."""
    return sympy.exp(sympy.I * angle)


CALLS = {
    "log": sympy.log, "ln": sympy.log, "exp": sympy.exp, "sqrt": sympy.sqrt, "erf": sympy.erf, "erfc": sympy.erfc,
    "sin": sympy.sin, "cos": sympy.cos, "tan": sympy.tan, "cot": sympy.cot, "sec": sympy.sec, "csc": sympy.csc,
    "sinh": sympy.sinh, "cosh": sympy.cosh, "tanh": sympy.tanh, "coth": sympy.coth, "sech": sympy.sech,
    "csch": sympy.csch, "arcsin": sympy.asin, "arccos": sympy.acos, "arctan": sympy.atan, "arccot": sympy.acot,
    "arcsec": sympy.asec, "arccsc": sympy.acsc, "asin": sympy.asin, "acos": sympy.acos, "atan": sympy.atan,
    "arcsinh": sympy.asinh, "arccosh": sympy.acosh, "arctanh": sympy.atanh, "arsinh": sympy.asinh,
    "arcosh": sympy.acosh, "artanh": sympy.atanh, "sgn": sympy.sign, "sign": sympy.sign, "Re": sympy.re,
    "Im": sympy.im, "arg": sympy.arg, "floor": sympy.floor, "ceil": sympy.ceiling,
    "cis": cis,
}  # fmt: skip
"""Functions of one argument by their LaTeX names."""
