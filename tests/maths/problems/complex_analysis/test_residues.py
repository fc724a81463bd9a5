"""Residues and harmonic functions against sympy."""

import random

import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from kdkit.maths.formulas.reading import read_formula
from kdkit.maths.notation import normalise
from kdkit.maths.problems.complex_analysis import harmonic, residues
from kdkit.maths.problems.complex_analysis.harmonic import POWERS, CauchyRiemann, HarmonicConjugate
from kdkit.maths.problems.complex_analysis.residues import (
    ContourIntegral,
    ResidueDouble,
    ResidueExponential,
    ResidueSimple,
)
from kdkit.maths.problems.template import UnprovenStepError

X, Y = sympy.symbols("x y", real=True)
Z = sympy.Symbol("z")


def value(latex):
    return complex(read_formula(latex).value({}))


def function_of(template, parameters):
    """Return f and its poles, for sympy."""
    if template.name == "residue_exponential":
        k, a, n = parameters
        return sympy.exp(k * Z) / (Z - a) ** n, (a,)
    a, b, *top = parameters[1:] if template.name == "contour_integral" else parameters
    order = 2 if template.name == "residue_double" else 1
    return sympy.Poly(top, Z).as_expr() / ((Z - a) ** order * (Z - b)), (a, b)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([ResidueSimple(), ResidueDouble(), ResidueExponential(), ContourIntegral()]), st.integers(0, 10**6)
)
def test_residues_agree_with_sympy(template, seed):
    draws = random.Random(seed)
    parameters = template.draw(draws, draws.choice(template.levels))
    function, poles = function_of(template, parameters)
    if template.name == "contour_integral":
        inside = [pole for pole in poles if abs(pole) < parameters[0]]
        expected = complex(2 * sympy.pi * sympy.I * sum(sympy.residue(function, Z, pole) for pole in inside))
    else:
        expected = complex(sympy.residue(function, Z, parameters[1 if template.name == "residue_exponential" else 0]))
    assert abs(value(template.solve(parameters).answer) - expected) <= 1e-9 * (1 + abs(expected))


def polynomial_of(parameters):
    return sum(factor * X**m * Y**n for factor, (m, n) in zip(parameters, POWERS, strict=True))


@settings(max_examples=60, deadline=None)
@given(st.integers(3, 4), st.integers(0, 10**6))
def test_analytic_functions_are_told_from_others(level, seed):
    parameters = CauchyRiemann().draw(random.Random(seed), level)
    u, v = polynomial_of(parameters[:9]), polynomial_of(parameters[9:])
    holds = sympy.expand(u.diff(X) - v.diff(Y)) == 0 and sympy.expand(u.diff(Y) + v.diff(X)) == 0
    assert CauchyRiemann().solve(parameters).answer == (r"\text{yes}" if holds else r"\text{no}")


def test_both_answers_are_common():
    draws = random.Random(0)
    answers = [CauchyRiemann().solve(CauchyRiemann().draw(draws, 3)).answer for _ in range(60)]
    assert 15 <= answers.count(r"\text{yes}") <= 45


@settings(max_examples=60, deadline=None)
@given(st.integers(3, 5), st.integers(0, 10**6))
def test_conjugates_are_conjugate(level, seed):
    parameters = HarmonicConjugate().draw(random.Random(seed), level)
    u, answer = polynomial_of(parameters), read_formula(HarmonicConjugate().solve(parameters).answer)
    v = polynomial_of([harmonic.find_terms(answer).get(powers, 0) for powers in POWERS])
    assert sympy.expand(u.diff(X) - v.diff(Y)) == 0
    assert sympy.expand(u.diff(Y) + v.diff(X)) == 0
    assert v.subs({X: 0, Y: 0}) == 0


@pytest.mark.parametrize(
    ("template", "parameters", "answer"),
    [
        (ResidueSimple, (1, -1, 1), r"\frac{1}{2}"),
        (ResidueSimple, (2, -1, 3, 1), r"\frac{7}{3}"),
        (ResidueDouble, (1, 0, 1, 1), "-1"),
        (ResidueExponential, (1, 0, 1), "1"),
        (ResidueExponential, (2, 0, 3), "2"),
        (ContourIntegral, (2, 1, 3, 1), r"-\pi i"),
        (ContourIntegral, (3, 1, -1, 1, 0), r"2\pi i"),
        (HarmonicConjugate, (0, 0, 1, 0, -1, 0, 0, 0, 0), "2xy"),
        (HarmonicConjugate, (0, 0, 0, 0, 0, 1, 0, -3, 0), "3x^{2}y - y^{3}"),
        (CauchyRiemann, (0, 0, 1, 0, -1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0), r"\text{yes}"),
        (CauchyRiemann, (1, 0, 0, 0, 0, 0, 0, 0, 0, 0, -1, 0, 0, 0, 0, 0, 0, 0), r"\text{no}"),
    ],
)
def test_answers_of_textbooks(template, parameters, answer):
    assert template().solve(parameters).answer == answer


@pytest.mark.parametrize(
    ("template", "statement", "parameters"),
    [
        (ResidueSimple, "Find the residue of 1/((z-1)(z+1)) at z = 1.", (1, -1, 1)),
        (ResidueDouble, r"Compute the residue of $f(z) = \frac{z+1}{(z-1)^2 z}$ at $z=1$.", (1, 0, 1, 1)),
        (ResidueExponential, "Find the residue of f(z) = e^(2z)/z^3 at z = 0", (2, 0, 3)),
        (ContourIntegral, r"Evaluate $\oint_{|z|=2} \frac{1}{(z-1)(z-3)} dz$", (2, 1, 3, 1)),
        (HarmonicConjugate, "Find the harmonic conjugate of u = x² - y².", (0, 0, 1, 0, -1, 0, 0, 0, 0)),
        (
            CauchyRiemann,
            "Is f = u + iv with u = x and v = -y holomorphic?",
            (1, 0, 0, 0, 0, 0, 0, 0, 0, 0, -1, 0, 0, 0, 0, 0, 0, 0),
        ),
    ],
)
def test_other_phrasings_are_read(template, statement, parameters):
    assert template().read(normalise(statement)) == parameters


@pytest.mark.parametrize(
    ("module", "name", "wrong", "template", "parameters"),
    [
        (residues, "value_at", lambda coefficients, z: 5, ResidueSimple, (2, -1, 3, 1)),
        (residues, "value_at", lambda coefficients, z: 7, ContourIntegral, (2, 1, 3, 1)),
        (residues, "derive", lambda formula, name: residues.Z, ResidueExponential, (2, 0, 3)),
        (harmonic, "partial", lambda terms, axis: {(0, 0): 1}, CauchyRiemann, (0, 0, 1, 0, -1, *[0] * 7, 2, *[0] * 5)),
        (harmonic, "integrate", lambda terms, axis: {(2, 0): 1}, HarmonicConjugate, (0, 0, 1, 0, -1, 0, 0, 0, 0)),
    ],
)
def test_a_wrong_rule_is_caught(monkeypatch, module, name, wrong, template, parameters):
    template().solve(parameters)
    monkeypatch.setattr(module, name, wrong)
    with pytest.raises(UnprovenStepError):
        template().solve(parameters)
