"""Statements are parted into words and formulas; polynomials and matrices are read, and nothing else."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdkit.maths.latex import number, polynomial
from kdkit.maths.notation import normalise
from kdkit.maths.reading import read_coefficients, read_matrix, read_polynomial, read_statement

FRACTIONS = st.fractions(min_value=-99, max_value=99, max_denominator=20)


@given(st.lists(FRACTIONS, min_size=1, max_size=6))
def test_a_polynomial_is_read_as_it_was_written(coefficients):
    stripped = coefficients[next((i for i, value in enumerate(coefficients) if value), -1) :]
    assert read_coefficients(polynomial(coefficients), "x") == stripped


@pytest.mark.parametrize(
    ("formula", "coefficients"),
    [
        ("(x - 1)(x + 2)/3", [Fraction(1, 3), Fraction(1, 3), Fraction(-2, 3)]),
        ("0.5x", [Fraction(1, 2), 0]),
        ("2(x+1)^{2} * 3", [6, 12, 6]),
        ("-x^{2}", [-1, 0, 0]),
        (r"\frac{x}{2} + \frac{x}{3}", [Fraction(5, 6), 0]),
        ("0", [0]),
    ],
)
def test_usual_spellings_of_polynomials_are_read(formula, coefficients):
    assert read_coefficients(formula, "x") == coefficients


@pytest.mark.parametrize(
    "formula",
    [
        "",
        "x^{-1}",
        "1/x",
        "x +",
        "1/0",
        "(x",
        "y",
        r"\sin x",
        "x^{99}",
        "9" * 20,
        "((9^{20})^{20})^{20}",
        "(" * 900,
        "x^{x}",
    ],
)
def test_what_is_no_small_polynomial_is_refused(formula):
    assert read_coefficients(formula, "x") is None


@given(st.text(alphabet=r"x0123+-*/^(){}\frac.", max_size=30))
def test_any_text_is_read_or_refused(text):
    read_coefficients(text, "x")
    read_polynomial(text, "xy")


@pytest.mark.parametrize(
    ("text", "formulas"),
    [
        ("Solve $3x + 5 = 11$ for $x$.", ("3x + 5 = 11", "x")),
        ("Solve for x: 3x+5=11", ("x", "3x+5=11")),
        ("x + y = 3 and 2x - y = 1, please", ("x + y = 3", "2x - y = 1")),
        ("Solve the system x+y=3, x-y=1.", ("x+y=3", "x-y=1")),
        (r"$\begin{cases} x + y = 3 \\ x - y = 1 \end{cases}$", ("x + y = 3", "x - y = 1")),
        ("the minimum of f(x, y) = x^2 + y^2?", ("f(x, y) = x^{2} + y^{2}",)),
        ("rank of [[1, 2], [3, 4]]", ("[[1, 2], [3, 4]]",)),
    ],
)
def test_formulas_are_found_with_and_without_dollar_signs(text, formulas):
    assert read_statement(normalise(text)).formulas == formulas


def test_a_statement_with_strange_words_does_not_fit():
    statement = read_statement("Jim has 3x + 5 = 11 apples")
    assert not statement.fits("equation")
    assert statement.fits("equation jim apples")


@given(st.lists(st.lists(FRACTIONS, min_size=2, max_size=2), min_size=1, max_size=3))
def test_both_spellings_of_a_matrix_are_read(rows):
    latex = r"\begin{pmatrix} " + r" \\ ".join(" & ".join(map(number, row)) for row in rows) + r" \end{pmatrix}"
    plain = "[" + ", ".join("[" + ", ".join(map(str, row)) + "]" for row in rows) + "]"
    assert read_matrix(latex) == read_matrix(plain) == rows


@pytest.mark.parametrize("formula", ["[[1, 2], [3]]", "[1, 2]", "[[x, 1], [1, 1]]", "5"])
def test_what_is_no_matrix_of_numbers_is_refused(formula):
    assert read_matrix(formula) is None
