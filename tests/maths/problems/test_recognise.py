"""What people type is found among the kinds of problems, or not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdkit.config.maths.settings import PolicyConfig
from kdkit.maths.checking.answers import Verdict, check_answer
from kdkit.maths.problems.algebra.polynomials import ExpandPower
from kdkit.maths.problems.make import recognise
from kdkit.maths.problems.template import UnprovenStepError


@pytest.mark.parametrize(
    ("text", "template", "answer"),
    [
        ("Solve 3x + 5 = 11 for x", "linear_equation", "2"),
        ("What is t if 2t \u2212 7 = 3?", "linear_equation", "5"),
        ("0.5x = 3", "linear_equation", "6"),
        ("$2(x-3)+1 = 4x$", "linear_equation_with_brackets", r"-\frac{5}{2}"),
        ("x/2 + x/3 = 5", "linear_equation_with_fractions", "6"),
        ("x² \u2212 5x + 6 = 0", "quadratic_with_rational_roots", "2, 3"),
        ("x(x - 3) = 0", "quadratic_with_rational_roots", "0, 3"),
        ("Solve x^2 = 2", "quadratic_by_formula", r"-\sqrt{2}, \sqrt{2}"),
        ("Solve x^2 + 6x + 5 = 0 by completing the square", "quadratic_by_completing_the_square", "-5, -1"),
        ("y = 2x + 1 and x + y = 4", "linear_system_2", "(1, 3)"),
        ("x+y+z=6, x-y=-1, 2z - x = 5", "linear_system_3", "(1, 2, 3)"),
        ("Solve the inequality -3x >= 6 for x", "linear_inequality", r"(-\infty, -2]"),
        ("x^2 > 4", "quadratic_inequality", r"(-\infty, -2) \cup (2, \infty)"),
        ("|2x - 3| < 5", "absolute_value_inequality", "(-1, 4)"),
        ("Expand (x+2)(x-3)", "expand_product", "x^{2} - x - 6"),
        ("expand (2x - 3)³", "expand_power", "8x^{3} - 36x^{2} + 54x - 27"),
        ("Factorise 6x² + x \u2212 2", "factor_quadratic", "(3x + 2)(2x - 1)"),
        ("What is the remainder when x^3 - 2x + 1 is divided by x - 2?", "polynomial_remainder", "5"),
        ("Find A and B such that 5x - 1 = A(x-2) + B(x+1)", "compare_coefficients", "(2, 3)"),
        ("Prove by induction that 7^n - 1 is divisible by 6", "induction_divisibility", r"\text{yes}"),
        ("Is n^3 - n divisible by 4 for all n?", "induction_polynomial_divisibility", r"\text{no}"),
        (r"Find a formula for the sum \sum_{k=1}^{n} k^2", "induction_sum", r"\frac{n(n + 1)(2n + 1)}{6}"),
        ("Find the determinant of [[1,2],[3,4]]", "determinant_2", "-2"),
        (r"\begin{vmatrix} 1 & 2 \\ 3 & 4 \end{vmatrix}", "determinant_2", "-2"),
        ("Inverse of [[1, 1], [1, 2]]", "inverse_2", r"\begin{pmatrix} 2 & -1 \\ -1 & 1 \end{pmatrix}"),
        (r"Find the eigenvalues of $A=\begin{bmatrix}2&1\\1&2\end{bmatrix}$.", "eigenvalues_2", "1, 3"),
        ("rank of [[1,2,3],[4,5,6],[7,8,9]]", "matrix_rank", "2"),
        (
            "Let A = [[1,2],[3,4]] and B = [[1],[1]]. Compute AB.",
            "matrix_product",
            r"\begin{pmatrix} 3 \\ 7 \end{pmatrix}",
        ),
        ("Minimise f(x) = 2x² \u2212 8x + 3", "quadratic_extremum", "-5"),
        ("local maximum of x^3 - 3x", "cubic_extremum", "2"),
        ("What is the smallest value of x^2-2x for 0 <= x <= 5?", "extremum_on_interval", "-1"),
        ("Find the minimum of f(x,y) = x^2 + xy + y^2 - 3x", "quadratic_extremum_2", "-3"),
        ("Classify the critical point of f(x, y) = x^2 - y^2", "classify_critical_point", r"\text{saddle point}"),
        ("Minimize x^2 + y^2 subject to x + 2y = 5", "lagrange_line", "5"),
        ("maximise xy subject to x + y = 10", "lagrange_product", "25"),
        ("Find the maximum of 3x + 4y subject to x^2 + y^2 = 25", "lagrange_circle", "25"),
    ],
)
def test_usual_statements_are_found(text, template, answer):
    found = recognise(text)
    assert found is not None
    assert (found.template, found.answer) == (template, answer)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "Who wrote Hamlet?",
        "Jim has 3x + 5 = 11 apples",
        "x = x",
        "0x = 5",
        "x^5 - x = 1",
        "factor x^2 + 1",
        "x + y = 3 and 2x + 2y = 6",
        "inverse of [[1,2],[2,4]]",
        "determinant of [[1,2],[3]]",
        "Find the minimum of f(x) = -x^2",
        "Solve x^2 = 123456789012345678901234567890",
        "maximise x^2 + y^2 subject to x + y = 2",
        "Solve x = 1 = 2",
        "$",
        "$$$",
        r"\begin{pmatrix}",
        "((((((((((",
    ],
)
def test_what_is_of_no_kind_is_none(text):
    assert recognise(text) is None


@given(st.text(alphabet="x2y+-*/^=<>()[]{}., \\$findsolvemtrxa√²≤|", max_size=50))
def test_any_text_is_a_problem_or_none(text):
    recognise(text)


@pytest.mark.parametrize("text", ["Expand (x+1)(x-2)", "Factor x^2-5x+6", "Expand (2x+3)^2"])
def test_what_was_given_is_no_answer(text):
    problem = recognise(text)
    answers = (problem.answer, problem.check_against)
    verdicts = [
        check_answer(problem.answer, each, PolicyConfig(), problem.answer_kind, problem.check_against)
        for each in answers
    ]
    assert verdicts == [Verdict.RIGHT, Verdict.WRONG]


def test_numbers_too_large_to_prove_anything_with_are_no_problem(monkeypatch):
    def solve(self, parameters):
        raise UnprovenStepError("too large")

    monkeypatch.setattr(ExpandPower, "solve", solve)
    assert recognise("Expand (2x+3)^2") is None
