"""Solved problems as they are read: LaTeX in a terminal, in a notebook and in a page, safe whatever a model wrote."""

import pytest

from kdkit.maths.checking.steps import StepVerdict
from kdkit.maths.checking.verdicts import Verdict
from kdkit.report.maths.plain import plain_latex
from kdkit.report.maths.solution import SolvedProblem, to_mathml, to_page

SOLVED = SolvedProblem(
    "Find the derivative of $f(x) = x^{3}$.",
    [
        ("$f'(x) = 3x^{2}$", StepVerdict.RIGHT),
        ("so $1 = 2$", StepVerdict.WRONG),
        ("<b>done</b>", StepVerdict.UNCHECKED),
    ],
    r"\frac{1}{2}",
    Verdict.WRONG,
    "3x^{2}",
    "student",
    ["a note"],
)


@pytest.mark.parametrize(
    ("latex", "plain"),
    [
        (r"$f'(x) = 3x^{2} - \frac{1}{2}x$", "f'(x) = 3x\u00b2 - 1/2 x"),
        (r"$\boxed{\frac{x^{2}+1}{2}}$", "(x\u00b2+1)/2"),
        (r"$\left(-\infty, 2\right] \cup \{3\}$", "(-\u221e, 2] \u222a {3}"),
        (r"$\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}$", "[1 2 ; 3 4]"),
        (r"$x = \pm\sqrt{\frac{3}{2}}$", "x = \u00b1\u221a(3/2)"),
        (r"$\frac{d}{dx}(x^{10})$", "d/dx(x\u00b9\u2070)"),
        (r"\frac{1", "frac{1"),
        (r"$\text{yes}$", "yes"),
    ],
)
def test_latex_is_readable_in_a_terminal(latex, plain):
    assert plain_latex(latex) == plain


def test_the_terminal_shows_every_step_with_its_mark():
    lines = SOLVED.to_text().splitlines()
    assert [line[2] for line in lines[1:4]] == ["\N{CHECK MARK}", "\N{BALLOT X}", "\N{MIDDLE DOT}"]
    assert lines[4] == "answer   1/2   (wrong, it is 3x\u00b2)" and lines[5] == "note     a note"


def test_a_notebook_gets_latex_and_no_html_of_the_models():
    shown = SOLVED._repr_markdown_()
    assert "$f'(x) = 3x^{2}$" in shown and "&lt;b&gt;done&lt;/b&gt;" in shown
    assert shown.count("\n- <span") == 3


def test_a_page_needs_no_other_file_and_holds_mathml():
    page = to_page([SOLVED], "student of <run>")
    assert page.count("<math") >= 5 and "<mfrac>" in page and "&lt;run&gt;" in page
    assert "&lt;b&gt;done" in page and "<b>done" not in page
    assert "src=" not in page and "href=" not in page


@pytest.mark.parametrize("latex", [r"\frac{1}{", "^", r"\boxed{", r"\begin{pmatrix} 1", "x" * 5000, "\\"])
def test_what_is_no_formula_stays_as_it_was_written(latex):
    found = to_mathml(f"so ${latex}$")
    assert found.startswith("so <")


@pytest.mark.parametrize("verdict", [*Verdict, None])
def test_every_verdict_has_words(verdict):
    solved = SolvedProblem("p", [], None if verdict is None else "1", verdict, "2", "teacher")
    assert solved.judgement in solved.to_text().replace("it is 2", "it is $2$")
