"""Formulas: written, read back, evaluated, measured."""

from fractions import Fraction

import mpmath
import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from kdkit.maths.formulas.measured import Derivative, Integral, Limit
from kdkit.maths.formulas.reading import find_coefficients, find_formula, read_formula
from kdkit.maths.formulas.rules import derive
from kdkit.maths.formulas.tree import (
    Function,
    Name,
    Number,
    OutsideDomainError,
    Power,
    Product,
    Quotient,
    cos,
    exp,
    ln,
    pi_times,
    polynomial,
    sin,
    sqrt,
)
from kdkit.maths.formulas.writing import write
from kdkit.maths.problems.relations import equal
from kdkit.maths.problems.template import UnprovenStepError

X = Name("x")
AT = {"x": Fraction(1733, 1009)}
NAMES = {"x": 1.7175421209117938}


@pytest.mark.parametrize(
    ("formula", "latex"),
    [
        (X**3 - 2 * X**2 + 4 * X - 1, "x^{3} - 2x^{2} + 4x - 1"),
        (-X, "-x"),
        (Fraction(-1, 2) * X, r"-\frac{1}{2}x"),
        (Product((Number(-2), Number(-3))), r"-2 \cdot (-3)"),
        (Product((Number(2), 3 * X)), r"2 \cdot 3x"),
        ((X + 1) * (X - 2), "(x + 1)(x - 2)"),
        ((X + 1) ** 2 * exp(3 * X), "(x + 1)^{2}e^{3x}"),
        (-(X + 1), "-x - 1"),
        (2 * X * sin(3 * X), r"2x\sin(3x)"),
        (sin(X) ** 2, r"\sin^{2}(x)"),
        (-Quotient(X, X + 1), r"-\frac{x}{x + 1}"),
        (Quotient(-X + 1, X), r"\frac{-x + 1}{x}"),
        (pi_times(Fraction(2, 3)), r"\frac{2\pi}{3}"),
        (2 * Name(r"\pi") * Name("i"), r"2\pi i"),
        (Fraction(3, 2) * sqrt(5), r"\frac{3\sqrt{5}}{2}"),
        (sqrt(12), r"2\sqrt{3}"),
        (Function("ln_abs", X), r"\ln|x|"),
        (exp(Number(0)), "1"),
        (0 * X, "0"),
        (Derivative(X**2, "x"), r"\frac{d}{dx}(x^{2})"),
        (Integral(X + 1, Number(0), Number(2)), r"\int_{0}^{2} (x + 1) \, dx"),
        (Limit(X, None), r"\lim_{x \to \infty} x"),
    ],
)
def test_formulas_are_written_as_people_write_them(formula, latex):
    assert write(formula) == latex


leaves = st.one_of(st.integers(-9, 9).map(Number), st.just(X), st.fractions(-5, 5, max_denominator=7).map(Number))
formulas = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda pair: pair[0] + pair[1]),
        st.tuples(inner, inner).map(lambda pair: pair[0] * pair[1]),
        st.tuples(inner, st.integers(2, 3)).map(lambda pair: pair[0] ** pair[1]),
        inner.map(lambda part: sin(part)),
        inner.map(lambda part: Quotient(part, X + 11)),
        inner.map(lambda part: exp(sin(part))),
    ),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(formulas)
def test_what_is_written_is_read_back_with_the_same_value(formula):
    again = read_formula(write(formula)).value(NAMES)
    assert complex(again) == pytest.approx(complex(formula.value(NAMES)), rel=1e-9, abs=1e-9)


@settings(max_examples=200, deadline=None)
@given(formulas)
def test_the_rules_of_differentiation_agree_with_the_measured_slope(formula):
    assert complex(derive(formula).value(AT)) == pytest.approx(
        complex(Derivative(formula, "x").value(AT)), rel=1e-8, abs=1e-8
    )


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("x^3 - 2*x^2 + 4x - 1", "x^{3} - 2x^{2} + 4x - 1"),
        ("(x^2-1)/(x-1)", r"\frac{x^{2} - 1}{x - 1}"),
        (r"\frac12 x", r"\frac{1}{2}x"),
        ("2/3x", r"\frac{2}{3}x"),
        (r"\sin 3x + 1", r"\sin(3x) + 1"),
        (r"\sin^2 x", r"\sin^{2}(x)"),
        (r"x e^{-x}", "xe^{-x}"),
        ("e^-x", "e^{-x}"),
        ("exp(2x)", "e^{2x}"),
        (r"\left( x + 1 \right)^2", "(x + 1)^{2}"),
        ("--x", "x"),
        ("0.5x", r"\frac{1}{2}x"),
        (r"\ln|x|", r"\ln|x|"),
        ("C_1e^{2x}", "C_{1}e^{2x}"),
        ("3 - 2i", "3 - 2i"),
    ],
)
def test_other_spellings_are_read(text, latex):
    assert write(read_formula(text)) == latex


@pytest.mark.parametrize("text", ["", "x +", "(x", "x)", r"\foo{x}", "x ^", "1/0", "=", "(" * 3000, r"\frac{1}", "|x"])
def test_what_is_no_formula_is_none(text):
    assert find_formula(text) is None


def test_coefficients_of_products_and_powers_are_found():
    assert find_coefficients(read_formula("(x - 1)^2 (x + 2)")) == (1, 0, -3, 2)
    assert find_coefficients(read_formula("x^2/2")) == (Fraction(1, 2), 0, 0)
    assert find_coefficients(read_formula(r"\sin(x)")) is None


def test_polynomials_are_exact_and_slopes_nearly():
    cubic = polynomial((3, 0, -1, 7))
    assert cubic.value({"x": Fraction(1, 3)}) == Fraction(3, 27) - Fraction(1, 3) + 7
    assert abs(Derivative(cubic, "x").value(AT) - (9 * AT["x"] ** 2 - 1)) < Fraction(1, 10**80)


def test_integrals_and_limits_are_measured():
    assert Integral(sin(X), Number(0), Name(r"\pi")).value({}) == pytest.approx(2)
    assert complex(Limit(Quotient(1 - cos(X), X**2), 0).value({})) == pytest.approx(0.5)
    assert abs(Limit(Quotient(3 * X**2 + 1, 2 * X**2), None).value({}) - Fraction(3, 2)) < Fraction(1, 10**80)
    assert float(ln(X).value({"x": mpmath.mpf(2)})) == pytest.approx(float(sympy.log(2)))


def test_real_functions_have_no_value_outside_their_domain():
    with pytest.raises(OutsideDomainError):
        ln(X).value({"x": -1.0})
    with pytest.raises(OutsideDomainError):
        Function("sqrt", X).value({"x": -1.0})


def test_only_what_is_true_is_written():
    assert equal((X + 1) ** 2, X**2 + 2 * X + 1) == "$(x + 1)^{2} = x^{2} + 2x + 1$"
    with pytest.raises(UnprovenStepError, match="is not true"):
        equal((X + 1) ** 2, X**2 + 1)
    with pytest.raises(UnprovenStepError, match="no value"):
        equal(ln(-(X**2) - 1), Number(0))
    with pytest.raises(UnprovenStepError):
        equal(Power(X, Number(9)), X**9 + Fraction(1, 10**6))


def test_what_would_take_minutes_is_no_formula():
    assert find_formula("9^{99999999}") is None
    assert find_formula("2^{2^{99}}") is None
    nested = find_formula("((((x + 1)^{20})^{20})^{20})^{20}")
    assert nested is None or find_coefficients(nested) is None
    assert find_formula("6^{-2}") == Number(Fraction(1, 36))
