"""Integrals, limits and series against sympy and against mpmath's numbers."""

import random

import mpmath
import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from kdkit.maths.formulas.reading import read_formula
from kdkit.maths.notation import normalise
from kdkit.maths.problems.calculus import definite, integrals, limits, series, substitution
from kdkit.maths.problems.calculus.definite import DefiniteFunction, DefinitePolynomial
from kdkit.maths.problems.calculus.integrals import IntegralFunctions, IntegralParts, IntegralPolynomial
from kdkit.maths.problems.calculus.limits import LimitFactor, LimitHopital, LimitInfinity, LimitSubstitution
from kdkit.maths.problems.calculus.series import TaylorPolynomial
from kdkit.maths.problems.calculus.substitution import IntegralSubstitution
from kdkit.maths.problems.template import UnprovenStepError

INDEFINITE = [IntegralPolynomial(), IntegralFunctions(), IntegralParts(), IntegralSubstitution()]
X = sympy.Symbol("x")


def value(latex, **at):
    """Evaluate written LaTeX; `ln|x|` is a real logarithm."""
    return complex(read_formula(latex).value(at)).real


def level_of(template, level):
    return min(template.levels, key=lambda each: abs(each - level))


@settings(max_examples=120, deadline=None)
@given(st.sampled_from(INDEFINITE), st.integers(1, 5), st.integers(0, 10**6))
def test_antiderivatives_have_the_integrand_as_slope(template, level, seed):
    solved = template.solve(template.draw(random.Random(seed), level_of(template, level)))
    assert solved.answer.endswith(" + C")
    for place in (0.31, 0.9):
        slope = mpmath.diff(lambda x: value(solved.answer, x=float(x), C=0.0), place, h=1e-5)
        expected = value(solved.check_against, x=place)
        assert abs(float(slope) - expected) <= 1e-4 * (1 + abs(expected))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([DefinitePolynomial(), DefiniteFunction()]), st.integers(1, 5), st.integers(0, 10**6))
def test_definite_integrals_agree_with_quadrature(template, level, seed):
    problem = template.build(template.draw(random.Random(seed), level_of(template, level)), level)
    text = problem.problem
    integrand = problem.facts["f(x)"][0]
    start = text.index("{") + 1
    low = text[start : text.index("}^{", start)]
    high = text[text.index("}^{") + 3 : text.index("} ", text.index("}^{") + 3)]
    ends = [value(each) for each in (low, high)]
    found = mpmath.quad(lambda x: value(integrand, x=float(x)), ends)
    assert abs(float(found) - value(problem.answer)) <= 1e-7 * (1 + abs(float(found)))


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([LimitFactor(), LimitInfinity(), LimitHopital(), LimitSubstitution()]), st.integers(0, 10**6))
def test_limits_agree_with_sympy(template, seed):
    problem = template.build(template.draw(random.Random(seed), max(template.levels)), 3)
    inside = problem.problem.split("} ", 1)[1].removesuffix("$.")
    target = problem.problem.split(r"\to ")[1].split("}")[0]
    place = sympy.oo if target == r"\infty" else sympy.Integer(target)
    assert sympy.limit(to_sympy(read_formula(inside)), X, place) == sympy.nsimplify(
        value(problem.answer), rational=True
    )


def to_sympy(formula):
    """Rebuild a formula of ours for sympy."""
    kind, parts = type(formula).__name__, {name: getattr(formula, name) for name in formula.__slots__}
    if kind == "Number":
        return sympy.Rational(parts["number"])
    if kind == "Name":
        return sympy.Symbol(parts["name"])
    if kind in ("Sum", "Product"):
        together = sympy.Add if kind == "Sum" else sympy.Mul
        return together(*map(to_sympy, parts["terms" if kind == "Sum" else "factors"]))
    if kind == "Quotient":
        return to_sympy(parts["top"]) / to_sympy(parts["bottom"])
    if kind == "Power":
        return to_sympy(parts["base"]) ** to_sympy(parts["exponent"])
    function = {"exp": sympy.exp, "sin": sympy.sin, "cos": sympy.cos, "ln": sympy.log}[parts["name"]]
    return function(to_sympy(parts["argument"]))


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 5), st.integers(0, 10**6))
def test_taylor_polynomials_agree_with_sympy(level, seed):
    degree, factor, kind, k = TaylorPolynomial().draw(random.Random(seed), level)
    function = {
        "exp": sympy.exp(k * X),
        "sin": sympy.sin(k * X),
        "cos": sympy.cos(k * X),
        "ln": sympy.log(1 + k * X),
        "reciprocal": 1 / (1 - k * X),
    }[kind]
    expected = factor * sympy.series(function, X, 0, degree + 1).removeO()
    found = to_sympy(read_formula(TaylorPolynomial().solve((degree, factor, kind, k)).answer))
    assert sympy.expand(found - expected) == 0


@pytest.mark.parametrize(
    ("template", "parameters", "answer"),
    [
        (IntegralPolynomial, (3, -4, 1), "x^{3} - 2x^{2} + x + C"),
        (IntegralFunctions, (2, "reciprocal", 1, 1, "sin", 1), r"2\ln|x| - \cos(x) + C"),
        (IntegralParts, ("exp", 1, 1, 0), "xe^{x} - e^{x} + C"),
        (IntegralParts, ("cos", 1, 1, 0), r"x\sin(x) + \cos(x) + C"),
        (IntegralSubstitution, ("exp", 1, 1, 0, 0), "e^{x^{2}} + C"),
        (IntegralSubstitution, ("reciprocal", 1, 1, 0, 1), r"\ln|x^{2} + 1| + C"),
        (DefinitePolynomial, (0, 2, 3, 0, 0), "8"),
        (DefiniteFunction, (1, "sin", 1, 0, 2), "2"),
        (DefiniteFunction, (1, "reciprocal", 1, 1, 2), r"\ln(2)"),
        (LimitSubstitution, (2, 3, -1), "5"),
        (LimitFactor, (2, "1 2", "1"), "4"),
        (LimitInfinity, ("3 0 1", "2 5 0"), r"\frac{3}{2}"),
        (LimitHopital, ("sin", 3, 2), r"\frac{3}{2}"),
        (LimitHopital, ("cos", 1, 1), r"\frac{1}{2}"),
        (TaylorPolynomial, (3, 1, "sin", 1), r"x - \frac{1}{6}x^{3}"),
        (TaylorPolynomial, (2, 1, "ln", 1), r"x - \frac{1}{2}x^{2}"),
    ],
)
def test_answers_of_textbooks(template, parameters, answer):
    assert template().solve(parameters).answer == answer


@pytest.mark.parametrize(
    ("template", "statement", "parameters"),
    [
        (IntegralPolynomial, "Integrate 3x^2 - 4x + 1", (3, -4, 1)),
        (IntegralPolynomial, "∫ (3x² - 4x + 1) dx", (3, -4, 1)),
        (IntegralPolynomial, "What is the indefinite integral of 3x^2 - 4x + 1?", (3, -4, 1)),
        (IntegralParts, "Find the antiderivative of x e^x", ("exp", 1, 1, 0)),
        (IntegralSubstitution, r"Evaluate $\int 2x e^{x^2} dx$", ("exp", 1, 1, 0, 0)),
        (DefinitePolynomial, r"Compute $\int_0^2 3x^2 dx$.", (0, 2, 3, 0, 0)),
        (DefinitePolynomial, "Integrate 3x^2 from 0 to 2.", (0, 2, 3, 0, 0)),
        (DefiniteFunction, r"$\int_0^\pi \sin x \, dx$", (1, "sin", 1, 0, 2)),
        (LimitFactor, "Find the limit of (x^2 - 4)/(x - 2) as x approaches 2", (2, "1 2", "1")),
        (LimitFactor, r"$\lim_{x\to 2}\frac{x^2-4}{x-2}$", (2, "1 2", "1")),
        (LimitInfinity, "Find the limit of (3x^2 + 1)/(2x^2 + 5x) as x goes to infinity.", ("3 0 1", "2 5 0")),
        (LimitHopital, r"Compute $\lim_{x \to 0} \frac{\sin 3x}{2x}$", ("sin", 3, 2)),
        (TaylorPolynomial, "Find the third-degree Taylor polynomial of $\\sin(x)$ at $x = 0$.", (3, 1, "sin", 1)),
    ],
)
def test_other_phrasings_are_read(template, statement, parameters):
    assert template().read(normalise(statement)) == parameters


@pytest.mark.parametrize(
    ("module", "name", "wrong", "template", "parameters"),
    [
        (integrals, "integrate_power", lambda a, n: a * integrals.X ** (n + 1), IntegralPolynomial, (3, 0, 0)),
        (integrals, "_integrate_again", lambda a, kind, k: integrals.X, IntegralParts, ("exp", 1, 1, 0)),
        (substitution, "integrate_outer", lambda outer, u: u, IntegralSubstitution, ("exp", 1, 1, 0, 0)),
        (definite, "integrate_power", lambda a, n: a * integrals.X ** (n + 1), DefinitePolynomial, (0, 2, 3, 0, 0)),
        (limits, "value_at", lambda coefficients, x: 7, LimitFactor, (2, "1 2", "1")),
        (series, "polynomial_up", lambda values: series.X, TaylorPolynomial, (3, 1, "exp", 1)),
    ],
)
def test_a_wrong_rule_is_caught(monkeypatch, module, name, wrong, template, parameters):
    template().solve(parameters)
    monkeypatch.setattr(module, name, wrong)
    with pytest.raises(UnprovenStepError):
        template().solve(parameters)
