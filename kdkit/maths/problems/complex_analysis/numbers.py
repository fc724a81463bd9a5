"""Products, quotients and moduli of complex numbers with rational parts."""

import random
import re
from fractions import Fraction

from kdkit.maths.formulas.reading import find_coefficients, find_formula
from kdkit.maths.formulas.tree import Formula, Function, Name, Named, Number, Product, Quotient, Sum, add, sqrt
from kdkit.maths.formulas.writing import write
from kdkit.maths.latex import powered
from kdkit.maths.problems.calculus.elementary import draw_nonzero, one_order
from kdkit.maths.problems.relations import equal
from kdkit.maths.problems.template import Parameters, Solved, Template
from kdkit.maths.reading import read_statement

I = Name("i")  # noqa: E741 - the imaginary unit
WORDS = "complex number form simplify multiply divide product quotient standard z real imaginary part result bi"


def complex_number(real: int | Fraction, imaginary: int | Fraction) -> Formula:
    """Return a + b i."""
    return add(Number(real), Number(imaginary) * I)


def multiply_gaussian(
    left: tuple[int | Fraction, int | Fraction], right: tuple[int | Fraction, int | Fraction]
) -> tuple[int | Fraction, int | Fraction]:
    """Multiply two numbers, real and imaginary part each."""
    return left[0] * right[0] - left[1] * right[1], left[0] * right[1] + left[1] * right[0]


def find_gaussian(formula: Formula | None) -> tuple[int, int] | None:
    """Return real and imaginary part of a number written a + b i with whole a and b."""
    found = None if formula is None else find_coefficients(formula, "i")
    if not found or len(found) > 2 or not all(isinstance(each, int) for each in found):
        return None
    return (found[0], 0) if len(found) == 1 else (found[1], found[0])


def draw_gaussian(draws: random.Random, size: int) -> tuple[int, int]:
    """Draw a number with both parts."""
    return draw_nonzero(draws, size), draw_nonzero(draws, size)


def find_single(text: str, words: str, needs: str = "") -> Formula | None:
    """Return the one formula of a statement, or the right side of its `z = ...`."""
    statement = read_statement(text)
    formulas = [each for each in statement.formulas if not re.fullmatch(r"z|\|z\||[a-z] ?\+ ?[a-z]?i[a-z]?|\+", each)]
    if not statement.fits(words, needs) or len(formulas) != 1:
        return None
    return find_formula(re.sub(r"^\s*z\s*=|=\s*$", "", formulas[0]))


class ComplexProduct(Template):
    """(a + bi)(c + di). Parameters: a, b, c, d."""

    name = "complex_product"
    domain = "complex_analysis"
    levels = (1, 2, 3)
    wordings = (
        "Compute $<<product>>$.",
        "Multiply $<<product>>$ and write the result in the form $a + bi$.",
        "Simplify $<<product>>$.",
    )

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Draw larger parts at higher levels."""
        size = (5, 9, 20)[level - 1]
        first, second = one_order(draw_gaussian(draws, size) for _ in range(2))
        return (*first, *second)

    def solve(self, parameters: Parameters) -> Solved:
        """See Template."""
        a, b, c, d = parameters
        product = Product((complex_number(a, b), complex_number(c, d)))
        terms = [Number(a * c), a * d * I, b * c * I]
        value = complex_number(*multiply_gaussian((a, b), (c, d)))
        steps = [
            equal(product, Sum((*terms, b * d * I**2))),
            f"With {equal(I**2, -1)}: {equal(Sum((*terms, Number(-b * d))), value)}",
        ]
        return Solved({"product": write(product)}, tuple(steps), write(value))

    def read(self, text: str) -> Parameters | None:
        """See Template."""
        formula = find_single(text, WORDS)
        if not isinstance(formula, Product) or len(formula.factors) != 2:
            return None
        parts = [find_gaussian(factor) for factor in formula.factors]
        return None if None in parts or not all(each[1] for each in parts) else (*parts[0], *parts[1])


class ComplexQuotient(Template):
    """(a + bi)/(c + di). Parameters: a, b, c, d."""

    name = "complex_quotient"
    domain = "complex_analysis"
    levels = (1, 2, 3, 4)
    wordings = (
        "Compute $<<quotient>>$.",
        "Write $<<quotient>>$ in the form $a + bi$.",
        "Simplify $<<quotient>>$.",
    )

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Draw quotients that come out even up to level 2."""
        size = (4, 9, 6, 12)[level - 1]
        bottom = draw_gaussian(draws, min(size, 6))
        top = draw_gaussian(draws, size)
        return (*(multiply_gaussian(top, bottom) if level <= 2 else top), *bottom)

    def solve(self, parameters: Parameters) -> Solved:
        """See Template."""
        a, b, c, d = parameters
        top, bottom, conjugate = complex_number(a, b), complex_number(c, d), complex_number(c, -d)
        over = multiply_gaussian((a, b), (c, -d))
        under = c * c + d * d
        value = complex_number(Fraction(over[0], under), Fraction(over[1], under))
        steps = [
            equal(Product((bottom, conjugate)), Sum((Number(c * c), Number(d * d))), under),
            equal(Product((top, conjugate)), complex_number(*over)),
            equal(Quotient(top, bottom), Quotient(complex_number(*over), Number(under)), value),
        ]
        return Solved({"quotient": write(Quotient(top, bottom))}, tuple(steps), write(value))

    def read(self, text: str) -> Parameters | None:
        """See Template."""
        formula = find_single(text, WORDS)
        if not isinstance(formula, Quotient):
            return None
        parts = [find_gaussian(each) for each in (formula.top, formula.bottom)]
        return None if None in parts or not parts[1][1] else (*parts[0], *parts[1])


class ComplexModulus(Template):
    """|a + bi|. Parameters: a, b."""

    name = "complex_modulus"
    domain = "complex_analysis"
    levels = (1, 2, 3)
    wordings = (
        "Compute $|<<number>>|$.",
        "Find the modulus of $z = <<number>>$.",
        "Find the absolute value of the complex number $<<number>>$.",
    )

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Draw numbers whose modulus is whole at level 1, else any."""
        if level == 1:
            triple = draws.choice(((3, 4), (5, 12), (8, 15), (7, 24), (20, 21)))
            factor = draws.randint(1, 8)
            a, b = draws.sample([factor * each for each in triple], 2)
            return a * draws.choice((-1, 1)), b * draws.choice((-1, 1))
        return draw_gaussian(draws, (0, 9, 25)[level - 1])

    def solve(self, parameters: Parameters) -> Solved:
        """See Template."""
        a, b = parameters
        number = complex_number(a, b)
        squares = Sum((Named(powered(a, 2), Number(a * a)), Named(powered(b, 2), Number(b * b))))
        norm, value = Number(a * a + b * b), sqrt(a * a + b * b)
        step = equal(Function("abs", number), Function("sqrt", squares), Function("sqrt", norm), value)
        return Solved({"number": write(number)}, (step,), write(value))

    def read(self, text: str) -> Parameters | None:
        """See Template."""
        statement = read_statement(text)
        named = {"modulus", "absolute", "magnitude"} & statement.words
        formula = find_single(text, f"{WORDS} modulus absolute value magnitude")
        if isinstance(formula, Function) and formula.name == "abs":
            formula = formula.argument
        elif not named and not any("|z|" in each for each in statement.formulas):
            return None
        found = find_gaussian(formula)
        return found if found and found[1] else None
