r"""Formulas as LaTeX: `-\frac{1}{2}x^{2}e^{3x}`."""

import re
from fractions import Fraction

from kdkit.maths.formulas.measured import Derivative, Integral, Limit
from kdkit.maths.formulas.tree import Formula, Function, Name, Named, Number, Power, Product, Quotient, Sum

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
            return _write_quotient(top, write(bottom))
        case Power(base, exponent):
            return _write_power(base, write(exponent))
        case Function(name, argument):
            return _write_function(name, write(argument))
        case Integral(inner, low, high, name):
            return rf"\int_{{{write(low)}}}^{{{write(high)}}} {write_integrand(inner)} \, d{name}"
        case Limit(inner, target, name):
            to = r"\infty" if target is None else write_number(target)
            return rf"\lim_{{{name} \to {to}}} {write_integrand(inner)}"
        case Derivative(inner, name):
            return rf"\frac{{d}}{{d{name}}}({write(inner)})"
    raise TypeError(f"no way to write a {type(formula).__name__}")


def write_integrand(formula: Formula) -> str:
    """Write a formula, a sum in brackets."""
    return f"({write(formula)})" if isinstance(formula, Sum) else write(formula)


def _write_quotient(top: Formula, bottom: str) -> str:
    """Write a fraction, a minus before all of its top before the fraction."""
    text = write(top)
    if text.startswith("-") and not isinstance(top, Sum):
        return rf"-\frac{{{text[1:]}}}{{{bottom}}}"
    return rf"\frac{{{text}}}{{{bottom}}}"


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
    if (
        isinstance(first, Number)
        and first.number.denominator > 1
        and isinstance(rest[0], Function)
        and rest[0].name == "sqrt"
    ):
        over = Quotient(Product((Number(first.number.numerator), rest[0])), Number(first.number.denominator))
        return write(Product((over, *rest[1:])) if rest[1:] else over)
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
    if name == "abs":
        return f"|{argument}|"
    return rf"\ln|{argument}|" if name == "ln_abs" else rf"\{name}({argument})"
