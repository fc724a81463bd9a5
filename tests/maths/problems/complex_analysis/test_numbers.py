"""Complex numbers and their roots, by Python's own complex numbers."""

import cmath
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdkit.maths.formulas.reading import read_formula
from kdkit.maths.notation import normalise
from kdkit.maths.problems.complex_analysis import numbers, polar, roots
from kdkit.maths.problems.complex_analysis.numbers import ComplexModulus, ComplexProduct, ComplexQuotient
from kdkit.maths.problems.complex_analysis.polar import ComplexArgument, ComplexPolar, ComplexPower
from kdkit.maths.problems.complex_analysis.roots import ComplexQuadratic, ComplexRoots, ComplexSquareRoots
from kdkit.maths.problems.template import UnprovenStepError


def value(latex):
    return complex(read_formula(latex).value({}))


def solve(template, level, seed):
    """Return parameters and solution of one draw."""
    parameters = template.draw(random.Random(seed), min(template.levels, key=lambda each: abs(each - level)))
    return parameters, template.solve(parameters)


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 4), st.integers(0, 10**6))
def test_products_quotients_and_moduli_are_pythons(level, seed):
    (a, b, c, d), solved = solve(ComplexProduct(), level, seed)
    assert value(solved.answer) == complex(a, b) * complex(c, d)
    (a, b, c, d), solved = solve(ComplexQuotient(), level, seed)
    assert cmath.isclose(value(solved.answer), complex(a, b) / complex(c, d))
    (a, b), solved = solve(ComplexModulus(), level, seed)
    assert cmath.isclose(value(solved.answer), abs(complex(a, b)))


@settings(max_examples=150, deadline=None)
@given(st.integers(2, 4), st.integers(0, 10**6))
def test_arguments_polar_forms_and_powers_are_pythons(level, seed):
    _, solved = solve(ComplexArgument(), level, seed)
    assert cmath.isclose(value(solved.answer), cmath.phase(value(solved.words["number"])), abs_tol=1e-12)
    _, solved = solve(ComplexPolar(), level, seed)
    assert cmath.isclose(value(solved.answer), value(solved.words["number"]))
    (_, _, exponent), solved = solve(ComplexPower(), level, seed)
    expected = value(solved.words["number"]) ** exponent
    assert abs(value(solved.answer) - expected) <= 1e-9 * abs(expected)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([ComplexRoots(), ComplexSquareRoots(), ComplexQuadratic()]),
    st.integers(2, 5),
    st.integers(0, 10**6),
)
def test_roots_solve_their_equation_and_are_all_there(template, level, seed):
    parameters, solved = solve(template, level, seed)
    found = [value(each) for each in solved.answer.split(", ")]
    if template.name == "complex_roots":
        exponent, radius, quarters, shift = parameters
        wrong = [abs((z - shift) ** exponent - radius**exponent * 1j**quarters) / radius**exponent for z in found]
    elif template.name == "complex_square_roots":
        exponent, number = 2, value(solved.words["number"])
        wrong = [abs(z * z - number) for z in found]
    else:
        exponent, (a, b, c) = 2, parameters
        wrong = [abs(a * z * z + b * z + c) for z in found]
    assert max(wrong) < 1e-9
    assert len({(round(z.real, 6), round(z.imag, 6)) for z in found}) == exponent


@pytest.mark.parametrize(
    ("template", "parameters", "answer"),
    [
        (ComplexProduct, (2, 3, 4, -5), "23 + 2i"),
        (ComplexQuotient, (3, 2, 1, -1), r"\frac{1}{2} + \frac{5}{2}i"),
        (ComplexModulus, (3, -4), "5"),
        (ComplexArgument, (1, 3), r"\frac{\pi}{4}"),
        (ComplexArgument, (1, 16), r"-\frac{2\pi}{3}"),
        (ComplexPolar, (1, 4), r"2e^{\frac{\pi i}{3}}"),
        (ComplexPower, (1, 3, 8), "16"),
        (ComplexSquareRoots, (2, 1), "2 + i, -2 - i"),
        (ComplexRoots, (3, 2, 0, 0), r"2, -1 + \sqrt{3}i, -1 - \sqrt{3}i"),
        (ComplexRoots, (4, 1, 0, 0), "1, i, -1, -i"),
        (ComplexQuadratic, (1, 2, 5), "-1 + 2i, -1 - 2i"),
    ],
)
def test_answers_of_textbooks(template, parameters, answer):
    assert template().solve(parameters).answer == answer


@pytest.mark.parametrize(
    ("template", "statement", "parameters"),
    [
        (ComplexProduct, "Compute (2 + 3i)(4 - 5i)", (2, 3, 4, -5)),
        (ComplexQuotient, r"Simplify $\frac{3+2i}{1-i}$.", (3, 2, 1, -1)),
        (ComplexQuotient, "Write (3 + 2i)/(1 - i) in the form a + bi.", (3, 2, 1, -1)),
        (ComplexModulus, "What is the modulus of 3 - 4i?", (3, -4)),
        (ComplexModulus, "Let $z = 3 - 4i$. Find $|z|$.", (3, -4)),
        (ComplexArgument, "Find the argument of 1 + i.", (1, 3)),
        (ComplexPolar, "Write 1 + √3 i in polar form.", (1, 4)),
        (ComplexPower, "Compute (1+i)^8.", (1, 3, 8)),
        (ComplexSquareRoots, "Find the square roots of 3 + 4i.", (2, 1)),
        (ComplexRoots, "Solve z³ = 8 over the complex numbers.", (3, 2, 0, 0)),
        (ComplexQuadratic, "Find all complex solutions of z^2 + 2z + 5 = 0", (1, 2, 5)),
    ],
)
def test_other_phrasings_are_read(template, statement, parameters):
    assert template().read(normalise(statement)) == parameters


@pytest.mark.parametrize(
    ("module", "name", "wrong", "template", "parameters"),
    [
        (numbers, "multiply_gaussian", lambda left, right: (left[0] * right[0], 1), ComplexProduct, (2, 3, 4, -5)),
        (numbers, "multiply_gaussian", lambda left, right: (left[0] * right[0], 1), ComplexQuotient, (3, 2, 1, -1)),
        (numbers, "sqrt", lambda number: numbers.Number(number), ComplexModulus, (3, -4)),
        (polar, "sine", lambda twelfths: -polar.cosine(twelfths - 6), ComplexArgument, (1, 4)),
        (polar, "sine", lambda twelfths: -polar.cosine(twelfths - 6), ComplexPower, (1, 4, 4)),
        (roots, "cartesian", lambda radius, twelfths: radius, ComplexRoots, (3, 2, 0, 0)),
        (roots, "sqrt", lambda number: numbers.Number(number), ComplexQuadratic, (1, 2, 5)),
    ],
)
def test_a_wrong_rule_is_caught(monkeypatch, module, name, wrong, template, parameters):
    template().solve(parameters)
    monkeypatch.setattr(module, name, wrong)
    with pytest.raises(UnprovenStepError):
        template().solve(parameters)
