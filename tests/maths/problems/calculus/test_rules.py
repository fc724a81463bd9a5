"""Derivatives by rule against sympy's, built from the parameters."""

import random

import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from kdkit.maths.formulas import rules as formula_rules
from kdkit.maths.formulas.reading import read_formula
from kdkit.maths.notation import normalise
from kdkit.maths.problems.calculus import rules
from kdkit.maths.problems.calculus.derivatives import DerivativeFunctions
from kdkit.maths.problems.calculus.rules import DerivativeChain, DerivativeProduct, DerivativeQuotient
from kdkit.maths.problems.template import UnprovenStepError

X = sympy.Symbol("x")
PLACES = (0.37, 1.21, 2.6)


def sympy_function(word, inner=X):
    """Build what a word stands for."""
    kind, *numbers = str(word).split()
    numbers = [int(each) for each in numbers]
    if kind == "polynomial":
        return sympy.Poly(numbers, X).as_expr()
    if kind == "power":
        return inner ** numbers[0]
    function = {"exp": sympy.exp, "sin": sympy.sin, "cos": sympy.cos, "ln": sympy.log, "sqrt": sympy.sqrt}[kind]
    return function((numbers[0] if numbers else 1) * inner)


def same_values(answer, expected):
    """Compare written LaTeX with a sympy expression where both are real."""
    formula, num_compared = read_formula(answer), 0
    for place in PLACES:
        value = complex(expected.subs(X, place).evalf())
        if abs(value.imag) > 1e-12:
            continue
        num_compared += 1
        assert abs(complex(formula.value({"x": place})) - value) <= 1e-8 * (1 + abs(value))
    return num_compared


def of_sympy(template, parameters):
    """The function of a problem, for sympy."""
    if template.name == "derivative_product":
        return sympy_function(parameters[0]) * sympy_function(parameters[1])
    if template.name == "derivative_quotient":
        return sympy_function(parameters[0]) / sympy_function(parameters[1])
    if template.name == "derivative_chain":
        return sympy_function(parameters[0], sympy.Poly(parameters[1:], X).as_expr())
    groups = zip(parameters[::3], parameters[1::3], parameters[2::3], strict=True)
    return sum(factor * sympy_function(kind, k * X) for factor, kind, k in groups)


@settings(max_examples=120, deadline=None)
@given(
    st.sampled_from([DerivativeProduct(), DerivativeQuotient(), DerivativeChain(), DerivativeFunctions()]),
    st.integers(2, 5),
    st.integers(0, 10**6),
)
def test_rules_agree_with_sympy(template, level, seed):
    parameters = template.draw(random.Random(seed), level)
    assert same_values(template.solve(parameters).answer, sympy.diff(of_sympy(template, parameters), X))


GOLDEN = [
    (DerivativeProduct, ("polynomial 1 0 0", "sin 1"), r"2x\sin(x) + x^{2}\cos(x)"),
    (DerivativeProduct, ("polynomial 1 0", "exp 2"), "e^{2x} + 2xe^{2x}"),
    (DerivativeProduct, ("polynomial 1 0 0", "ln"), r"2x\ln(x) + x"),
    (DerivativeQuotient, ("polynomial 1 1", "polynomial 1 -1"), r"-\frac{2}{(x - 1)^{2}}"),
    (DerivativeQuotient, ("polynomial 1 0", "polynomial 1 0 1"), r"\frac{-x^{2} + 1}{(x^{2} + 1)^{2}}"),
    (DerivativeChain, ("power 5", 3, 2), "15(3x + 2)^{4}"),
    (DerivativeChain, ("sqrt", 1, 0, 1), r"\frac{x}{\sqrt{x^{2} + 1}}"),
    (DerivativeChain, ("ln", 1, 0, 1), r"\frac{2x}{x^{2} + 1}"),
    (DerivativeFunctions, (3, "exp", 2, -1, "cos", 4), r"6e^{2x} + 4\sin(4x)"),
    (DerivativeFunctions, (5, "ln", 1), r"\frac{5}{x}"),
]


@pytest.mark.parametrize(("template", "parameters", "answer"), GOLDEN)
def test_answers_of_textbooks(template, parameters, answer):
    assert template().solve(parameters).answer == answer


@pytest.mark.parametrize(
    ("template", "statement", "parameters"),
    [
        (DerivativeProduct, "Differentiate x^2 sin(x).", ("polynomial 1 0 0", "sin 1")),
        (DerivativeProduct, "find the derivative of f(x) = x*e^(2x)", ("polynomial 1 0", "exp 2")),
        (DerivativeProduct, "Let y = x² ln x. Find dy/dx.", ("polynomial 1 0 0", "ln")),
        (DerivativeQuotient, "Find the derivative of (x+1)/(x-1)", ("polynomial 1 1", "polynomial 1 -1")),
        (DerivativeQuotient, r"$\frac{d}{dx} \frac{x}{x^2+1}$", ("polynomial 1 0", "polynomial 1 0 1")),
        (DerivativeChain, "What is the derivative of (3x + 2)^5?", ("power 5", 3, 2)),
        (DerivativeChain, r"Differentiate $\sqrt{x^2 + 1}$ using the chain rule.", ("sqrt", 1, 0, 1)),
        (DerivativeChain, "Find f'(x) for f(x) = sin(x² - 3).", ("sin", 1, 0, -3)),
        (DerivativeFunctions, "Differentiate 3e^{2x} - cos(4x)", (3, "exp", 2, -1, "cos", 4)),
        (DerivativeFunctions, "d/dx 5 ln(x)", (5, "ln", 1)),
    ],
)
def test_other_phrasings_are_read(template, statement, parameters):
    assert template().read(normalise(statement)) == parameters


def test_a_wrong_sign_in_a_rule_is_caught(monkeypatch):
    right = formula_rules.derive_function
    monkeypatch.setattr(formula_rules, "derive_function", lambda name, u: right(name, u) * (-1 if name == "cos" else 1))
    with pytest.raises(UnprovenStepError):
        DerivativeProduct().solve(("polynomial 1 0 0", "cos 1"))


def test_a_forgotten_inner_derivative_is_caught(monkeypatch):
    monkeypatch.setattr(rules, "_outside", lambda kind, slope, u: formula_rules.derive_function(kind, u))
    with pytest.raises(UnprovenStepError):
        DerivativeChain().solve(("sin", 3, 2))
