import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from kdkit.maths.problems.calculus import derivatives
from kdkit.maths.problems.calculus.derivatives import DerivativePolynomial
from kdkit.maths.problems.template import UnprovenStepError

X = sympy.Symbol("x")
SEED = (1, -2, 4, -1)
STATEMENTS = (
    "Find the derivative of f(x) = x^3 - 2x^2 + 4x - 1",
    "Find the derivative of $f(x) = x^{3} - 2x^{2} + 4x - 1$.",
    "Differentiate x^3 - 2*x^2 + 4*x - 1 with respect to x.",
    "d/dx (x^3-2x^2+4x-1)",
    r"What is $\frac{d}{dx}\left(x^{3} - 2x^{2} + 4x - 1\right)$?",
    "Let y = x^3 - 2x^2 + 4x - 1. Find dy/dx.",
    "If $g(x)=x^3-2x^2+4x-1$, what is $g'(x)$?",
)


def test_the_seeds_example_has_its_steps():
    problem = DerivativePolynomial().build(SEED, 2)
    assert problem.problem == "Find the derivative of $f(x) = x^{3} - 2x^{2} + 4x - 1$."
    assert problem.solution.splitlines() == [
        r"$\frac{d}{dx}(x^{3}) = 3x^{2}$",
        r"$\frac{d}{dx}(-2x^{2}) = -2 \cdot 2x = -4x$",
        r"$\frac{d}{dx}(4x) = 4$",
        r"$\frac{d}{dx}(-1) = 0$",
        r"Together $f'(x) = 3x^{2} - 4x + 4$",
        r"$\boxed{3x^{2} - 4x + 4}$",
    ]
    assert problem.facts == {"f(x)": ("x^{3} - 2x^{2} + 4x - 1",), "f'(x)": ("3x^{2} - 4x + 4",)}


@pytest.mark.parametrize("statement", STATEMENTS)
def test_the_seeds_example_is_recognised(statement):
    assert DerivativePolynomial().read(statement) == SEED


@pytest.mark.parametrize(
    "statement",
    [
        "Find the antiderivative of 3x^2.",
        "Solve the differential equation y' = x.",
        "Find the second derivative of x^3.",
        "Find the derivative of x^3 at x = 2.",
        "Find the derivative of sin(x).",
        "Integrate x^2.",
        "Find the roots of x^2 - 1 = 0.",
    ],
)
def test_other_problems_are_not_recognised(statement):
    assert DerivativePolynomial().read(statement) is None


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(-30, 30), min_size=1, max_size=7), st.integers(1, 30))
def test_polynomials_are_differentiated_as_sympy_does(rest, first):
    problem = DerivativePolynomial().build((first, *rest), 3)
    expected = sympy.Poly([first, *rest], X).diff(X).as_expr()
    written = problem.answer.replace("{", "(").replace("}", ")").replace("^", "**")
    assert sympy.expand(sympy.parse_expr(written, transformations="all") - expected) == 0


def test_a_wrong_rule_is_caught(monkeypatch):
    monkeypatch.setattr(derivatives, "derive_power", lambda a, n: -a * n * derivatives.X ** (n - 1) if n else a)
    with pytest.raises(UnprovenStepError):
        DerivativePolynomial().solve(SEED)
