r"""Formulas as LaTeX: `-\frac{1}{2}x^{2}e^{3x}`."""

import re
from fractions import Fraction

from kdkit.maths.formulas.tree import (
    Derivative,
    Formula,
    Function,
    Name,
    Named,
    Number,
    Power,
    Product,
    Quotient,
    Sum,
)

WORD_AT_END = re.compile(r"\\[A-Za-z]+$")


def write(formula: Formula | int | Fraction) -> str:
    """Write it as LaTeX, without dollar signs."""
    match formula:
        case int() | Fraction():
            return write_number(formula)
        case Number(number):
            return write_number(number)
        case Name(name) | Named(name):
            return name
        case Sum(terms):
            return _write_sum(terms)
        case Product(factors):
            return _write_product(factors)
        case Quotient(top, bottom):
            return rf"\frac{{{write(top)}}}{{{write(bottom)}}}"
        case Power(base, exponent):
            return _write_power(base, write(exponent))
        case Function(name, argument):
            return _write_function(name, write(argument))
        case Derivative(inner, name):
            return rf"\frac{{d}}{{d{name}}}({write(inner)})"
    raise TypeError(f"no way to write a {type(formula).__name__}")


def write_number(number: int | Fraction) -> str:
    r"""Write `3`, `-\frac{1}{2}`."""
    if number.denominator == 1:
        return str(number.numerator)
    sign = "-" if number < 0 else ""
    return rf"{sign}\frac{{{abs(number.numerator)}}}{{{number.denominator}}}"


def _write_sum(terms: tuple[Formula, ...]) -> str:
    text = write(terms[0])
    for term in terms[1:]:
        piece = f"({write(term)})" if isinstance(term, Sum) else write(term)
        text += f" - {piece[1:]}" if piece.startswith("-") else f" + {piece}"
    return text


def _write_product(factors: tuple[Formula, ...]) -> str:
    first, *rest = factors
    if isinstance(first, Number) and rest and abs(first.number) == 1:
        text = "-" if first.number < 0 else ""
    else:
        text = f"({write(first)})" if isinstance(first, Sum) else write(first)
    for factor in rest:
        piece = write(factor)
        if isinstance(factor, Sum) or piece.startswith("-"):
            piece = f"({piece})"
        text += _between(text, piece, factor) + piece
    return text


def _between(before: str, piece: str, factor: Formula) -> str:
    """Return what joins two factors: nothing, a dot where digits would run together, or a space after a command."""
    if before in ("", "-"):
        return ""
    if piece[0].isdigit() or piece.startswith(r"\frac") or isinstance(factor, Number):
        return r" \cdot "
    return " " if WORD_AT_END.search(before) and piece[0].isalpha() else ""


def _write_power(base: Formula, exponent: str) -> str:
    text = write(base)
    if isinstance(base, Function) and base.name in ("sin", "cos", "tan", "ln"):
        return rf"\{base.name}^{{{exponent}}}({write(base.argument)})"
    simple = isinstance(base, Name | Named) or (isinstance(base, Number) and text.isdigit())
    return f"{text}^{{{exponent}}}" if simple else f"({text})^{{{exponent}}}"


def _write_function(name: str, argument: str) -> str:
    if name == "exp":
        return f"e^{{{argument}}}"
    if name == "sqrt":
        return rf"\sqrt{{{argument}}}"
    return rf"\ln|{argument}|" if name == "ln_abs" else rf"\{name}({argument})"
