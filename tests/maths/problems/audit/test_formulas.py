"""The audit's reader agrees with another reader of LaTeX, and refuses what it does not know."""

from fractions import Fraction

import numpy as np
import pytest
import sympy
from hypothesis import given
from hypothesis import strategies as st
from latex2sympy2_extended import latex2sympy
from mpmath import mp

from kdkit.maths.problems.audit.formulas import UnreadableError, are_close, evaluate, holds, split_list, split_relation

FORMULAS = [
    r"3x^{2} - \frac{1}{2}x + 4",
    r"-x^{2} \cdot (-2)^{3}",
    r"\frac{-5 - \sqrt{33}}{4}",
    r"2(x + 1)(2x - 3)",
    r"\left(-\frac{9}{28}\right)^{2}x",
    r"|2x - 13|",
    r"5\sin(2x) - e^{-x}",
    r"\frac{4}{x} + \ln(3x)",
    r"2^{x + 1} - 3 \cdot 2^{x}",
]


@pytest.mark.parametrize("formula", FORMULAS)
def test_two_readers_have_one_value(formula):
    theirs = latex2sympy(formula).subs("x", sympy.Rational(7, 3)).doit().evalf(20)
    assert are_close(evaluate(formula, {"x": Fraction(7, 3)}), mp.mpmathify(theirs))


@given(st.integers(-99, 99), st.integers(1, 99), st.integers(-5, 5))
def test_rational_numbers_stay_exact(over, under, x):
    value = evaluate(rf"\frac{{{over}}}{{{under}}}x^{{3}} - (x - 1)/7", {"x": Fraction(x)})
    assert value == Fraction(over, under) * x**3 - Fraction(x - 1, 7)
    assert isinstance(value, Fraction)


def test_matrices_are_multiplied_and_inverted():
    names = {"A": evaluate(r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}")}
    assert are_close(evaluate(r"A A^{-1}", names), np.array([[Fraction(1), Fraction(0)], [Fraction(0), Fraction(1)]]))
    assert not are_close(evaluate("2A", names), names["A"])
    assert not are_close(names["A"], evaluate(r"\begin{pmatrix} 1 & 2 \end{pmatrix}"))


@pytest.mark.parametrize(
    ("relation", "is_true"),
    [
        (r"4 \cdot 6 - 3 \cdot 6 = 24 - 18 = 6", True),
        ("2 + 2 = 4 = 5", False),
        (r"-3 < x \leq 5", True),
        ("-3 < x < 5", False),
        (r"\sqrt{2}^{2} = 2", True),
        (r"\sqrt{2} = 1.41421356237", False),
        (r"x \geq 6", False),
    ],
)
def test_chains_are_true_where_each_relation_is(relation, is_true):
    assert holds(relation, {"x": Fraction(5)}) is is_true


def test_commas_and_relations_in_brackets_do_not_part():
    assert split_list(r"(1, 2), \frac{1}{2}") == ["(1, 2)", r"\frac{1}{2}"]
    assert split_relation("f(x) = 2x") == (["f(x)", "2x"], ["="])


@pytest.mark.parametrize("formula", ["", "x +", "(x", r"\foo", r"\frac{1}{0}", "y", "2)", r"\begin{pmatrix} 1"])
def test_what_cannot_be_read_is_said(formula):
    with pytest.raises(UnreadableError):
        evaluate(formula, {"x": Fraction(1)})
