"""What people type becomes one spelling of LaTeX."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdkit.maths.notation import RAISED_FROM, RAISED_TO, normalise


@pytest.mark.parametrize(
    ("typed", "latex"),
    [
        ("x³ \u2212 2x² + 4x \u2212 1", "x^{3} - 2x^{2} + 4x - 1"),
        ("x^10 + x**2 + x^-1", "x^{10} + x^{2} + x^{-1}"),
        ("x⁻¹² + a₁₂", "x^{-12} + a_{12}"),
        ("√2 + √(x+1) + sqrt(3)", r"\sqrt{2} + \sqrt{x+1} + \sqrt{3}"),
        ("√(2(x+1)) + 1", r"\sqrt{2(x+1)} + 1"),
        ("2\u00b73 \u00d7 4", r"2 \cdot 3 \times 4"),
        ("1/2 x", "1/2 x"),
        ("½x ≤ 3", r"\frac{1}{2}x \leq 3"),
        ("x >= 2 and x != 3", r"x \geq 2 and x \neq 3"),
        (r"\dfrac12 + \tfrac{3}{4}", r"\frac{1}{2} + \frac{3}{4}"),
        (r"\left( x \right)^2", "( x )^{2}"),
        (r"\(x\le 2\)", r"$x\leq 2$"),
        (r"\begin{bmatrix} 1 & 2 \\ 3 & 4 \end{bmatrix}", r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}"),
        (r"\begin{vmatrix} 1 & 2 \\ 3 & 4 \end{vmatrix}", r"\det \begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}"),
        ("sin(x) cos x e^(2x)", r"\sin(x) \cos x e^{2x}"),
        ("y\u2033 + 3y\u2032 = 0", "y'' + 3y' = 0"),
        ("λ = π", r"\lambda = \pi"),
        ("Find the root of x", "Find the root of x"),
    ],
)
def test_it_is_written_in_latex(typed, latex):
    assert normalise(typed).replace("  ", " ") == latex


@given(st.text(alphabet="x23+-*/^()[]{}= \\√²½≤·,.abfrcqtlin$", max_size=40))
def test_what_is_written_stays_as_it_is(text):
    once = normalise(text)
    assert normalise(normalise(once)) == normalise(once)


@given(st.integers(-999, 999))
def test_unicode_exponents_are_read(exponent):
    raised = str(exponent).translate(str.maketrans(RAISED_TO, RAISED_FROM))
    assert normalise(f"x{raised}") == f"x^{{{exponent}}}"
