r"""Exact numbers, sums, polynomials and matrices as LaTeX in one spelling: `3x^{2} - \frac{1}{2}x + 4`."""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from math import gcd, isqrt

Exact = int | Fraction
"""A rational number."""


def number(value: Exact) -> str:
    r"""Write a rational number: `3`, `-\frac{1}{2}`."""
    sign = "-" if value < 0 else ""
    over, under = abs(value.numerator), value.denominator
    return f"{sign}{over}" if under == 1 else rf"{sign}\frac{{{over}}}{{{under}}}"


def fraction(over: str, under: str) -> str:
    r"""Write one formula over another; over `1` it stays as it is, and a leading minus stands before the fraction."""
    if under == "1":
        return over
    if over.startswith("-") and not _is_sum(over):
        return rf"-\frac{{{over[1:]}}}{{{under}}}"
    return rf"\frac{{{over}}}{{{under}}}"


def power(base: str, exponent: int) -> str:
    """Write a power: `x^{3}`, `x`, and `1` for the exponent 0. Put what needs them in brackets before."""
    if exponent in (0, 1):
        return base if exponent else "1"
    return f"{base}^{{{exponent}}}"


def term(coefficient: Exact, symbol: str = "") -> str:
    r"""Write a number times a symbol: `3x`, `-x`, `\frac{1}{2}x`; without a symbol the number; `0` where it is 0."""
    if symbol in ("", "1") or coefficient == 0:
        return number(coefficient)
    if abs(coefficient) == 1:
        return symbol if coefficient > 0 else f"-{symbol}"
    return number(coefficient) + (r" \cdot " if symbol[0].isdigit() else "") + symbol


def join(terms: Iterable[str]) -> str:
    """Write a sum of formulas, each with its own leading minus or none; terms `0` are left out."""
    text = ""
    for each in terms:
        if each == "0":
            continue
        if not text:
            text = each
        else:
            text += f" - {each[1:]}" if each.startswith("-") else f" + {each}"
    return text or "0"


def total(terms: Iterable[tuple[Exact, str]]) -> str:
    """Write a sum of numbers times symbols: `[(2, "x"), (-1, "y"), (3, "")]` is `2x - y + 3`."""
    return join(term(coefficient, symbol) for coefficient, symbol in terms if coefficient)


def polynomial(coefficients: Sequence[Exact], variable: str = "x") -> str:
    """Write a polynomial, highest degree first: `[1, 0, -2]` is `x^{2} - 2`."""
    degree = len(coefficients) - 1
    return total((value, power(variable, degree - i)) for i, value in enumerate(coefficients))


def signed(value: Exact, symbol: str = "") -> str:
    """Write a term that follows another one: ` + 3x`, ` - x`; nothing where it is 0."""
    if value == 0:
        return ""
    return f" {'-' if value < 0 else '+'} {term(abs(value), symbol)}"


def bracketed(latex: str) -> str:
    """Put a sum, or what begins with a minus, in brackets: as a factor or the base of a power it needs them."""
    return rf"({latex})" if _is_sum(latex) or latex.startswith("-") else latex


def powered(value: Exact, exponent: int) -> str:
    r"""Write a number's power: `3^{2}`, `(-3)^{2}`, `\left(\frac{1}{2}\right)^{2}`."""
    text = number(value)
    if value.denominator != 1:
        text = rf"\left({text}\right)"
    return power(bracketed(text), exponent)


def factor(root: Exact, variable: str = "x") -> str:
    """Write the linear factor of a root: `(x - 3)`, `(x + 2)`, and `x` for the root 0."""
    return variable if root == 0 else f"({variable}{signed(-root)})"


def product(factors: Iterable[Exact]) -> str:
    r"""Write a product of numbers: `2 \cdot (-3)`; negative ones after the first stand in brackets."""
    texts = [number(each) for each in factors]
    return r" \cdot ".join([*texts[:1], *(bracketed(each) for each in texts[1:])])


def matrix(rows: Sequence[Sequence[Exact | str]]) -> str:
    r"""Write a matrix of numbers or formulas: `\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}`."""
    lines = [" & ".join(each if isinstance(each, str) else number(each) for each in row) for row in rows]
    return r"\begin{pmatrix} " + r" \\ ".join(lines) + r" \end{pmatrix}"


def vector(entries: Sequence[Exact | str]) -> str:
    """Write a column."""
    return matrix([[each] for each in entries])


def point(entries: Sequence[Exact | str]) -> str:
    r"""Write a tuple: `(1, -2)`."""
    return f"({', '.join(each if isinstance(each, str) else number(each) for each in entries)})"


def split_square(value: int) -> tuple[int, int]:
    r"""Return (k, m) with the square root of the value equal to k times that of m, m without square factors."""
    outside, inside, divisor = 1, value, 2
    while divisor * divisor <= inside:
        while inside % (divisor * divisor) == 0:
            inside //= divisor * divisor
            outside *= divisor
        divisor += 1
    return outside, inside


def is_square(value: int) -> bool:
    """Return whether a whole number is one's square."""
    return value >= 0 and isqrt(value) ** 2 == value


def root(value: int) -> str:
    r"""Write the square root of a positive whole number in lowest terms: `3`, `2\sqrt{3}`, `\sqrt{5}`."""
    outside, inside = split_square(value)
    return number(outside) if inside == 1 else term(outside, rf"\sqrt{{{inside}}}")


def surd(rational: int, factor_of_root: int, under_root: int, divisor: int) -> str:
    r"""Write (rational + factor * sqrt(under_root)) / divisor in lowest terms: `\frac{1 - \sqrt{5}}{2}`.

    `divisor` is positive; what stands under the root has no square factors and is not 1.
    """
    common = gcd(gcd(rational, factor_of_root), divisor)
    whole, factor_, under = rational // common, factor_of_root // common, divisor // common
    return fraction(total([(whole, ""), (factor_, rf"\sqrt{{{under_root}}}")]), str(under))


def _is_sum(latex: str) -> bool:
    """Return whether a formula has a plus or a minus outside brackets, beyond its first character."""
    depth = 0
    for i, character in enumerate(latex):
        depth += (character in "({[") - (character in ")}]")
        if i and depth == 0 and character in "+-":
            return True
    return False
