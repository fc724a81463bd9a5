"""Formulas are written so that a computer algebra system reads back what was meant."""

from fractions import Fraction

import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st
from latex2sympy2_extended import latex2sympy

from kdkit.maths.latex import bracketed, factor, fraction, join, matrix, polynomial_at, powered, product, surd, total

WHOLE = st.integers(-30, 30)


def read(latex):
    return latex2sympy(latex).doit()


@settings(max_examples=25)
@given(WHOLE, WHOLE.filter(bool), st.sampled_from([2, 3, 5, 6, 7, 10]), st.integers(1, 12))
def test_a_surd_has_its_value(rational, over, inside, divisor):
    meant = (rational + over * sympy.sqrt(inside)) / divisor
    assert sympy.simplify(read(surd(rational, over, inside, divisor)) - meant) == 0


@settings(max_examples=25)
@given(st.lists(WHOLE, min_size=1, max_size=4), st.fractions(min_value=-5, max_value=5, max_denominator=4))
def test_a_polynomial_with_a_number_put_in_has_its_value(coefficients, x):
    value = sum(c * x ** (len(coefficients) - 1 - i) for i, c in enumerate(coefficients))
    meant = sympy.Rational(Fraction(value).numerator, Fraction(value).denominator)
    assert sympy.simplify(read(polynomial_at(coefficients, x)) - meant) == 0


@pytest.mark.parametrize(
    ("made", "written"),
    [
        (total([(2, "x"), (-1, "y"), (0, "z"), (3, "")]), "2x - y + 3"),
        (total([(2, "2^{n}")]), r"2 \cdot 2^{n}"),
        (join(["0", "-x", "-(y)"]), "-x - (y)"),
        (join([]), "0"),
        (fraction("-x", "2"), r"-\frac{x}{2}"),
        (fraction("-x + 1", "2"), r"\frac{-x + 1}{2}"),
        (factor(Fraction(-1, 2)), r"(x + \frac{1}{2})"),
        (product([-2, -3]), r"-2 \cdot (-3)"),
        (powered(Fraction(-1, 2), 2), r"\left(-\frac{1}{2}\right)^{2}"),
        (bracketed("x - 1"), "(x - 1)"),
        (matrix([[1, Fraction(1, 2)]]), r"\begin{pmatrix} 1 & \frac{1}{2} \end{pmatrix}"),
    ],
)
def test_signs_and_brackets_stand_where_they_belong(made, written):
    assert made == written
