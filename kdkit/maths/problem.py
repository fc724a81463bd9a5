"""A problem with its solution, step by step, and how its answer is to be compared."""

from dataclasses import dataclass, field
from typing import Literal

Domain = Literal["algebra", "calculus", "linear_algebra", "complex_analysis", "differential_equations", "optimisation"]
DOMAINS: tuple[Domain, ...] = (
    "algebra",
    "calculus",
    "linear_algebra",
    "complex_analysis",
    "differential_equations",
    "optimisation",
)

AnswerKind = Literal[
    "expression",  # a number or a formula
    "values",  # one or several solutions, in any order
    "set",  # a set or an interval, a union of them, the solution of an inequality
    "tuple",  # in order: a point, the solution of a system
    "matrix",
    "equation",  # equal up to a factor
    "antiderivative",  # right where its derivative is the integrand; `Problem.check_against` holds the integrand
    "ode",  # right where it solves the equation, with as many free constants; `check_against` holds the equation
    "statement",  # words: yes or no, true or false
]

BOX = r"\boxed"


@dataclass(frozen=True)
class Problem:
    r"""A problem, its solution in steps, and its final answer.

    Text is plain words with formulas between dollar signs: `The derivative is $f'(x) = 3x^{2} - 4x + 4$.`
    """

    id: str
    """Unique in a set: template, level and parameters, or the number of a file's line."""
    problem: str
    answer: str
    """LaTeX without dollar signs and without a box."""
    steps: tuple[str, ...] = ()
    """One line each, without the final answer's."""
    domain: str | None = None
    """One of `DOMAINS`, or what a file calls it."""
    template: str | None = None
    """Name of what made it."""
    level: int | None = None
    """1, the easiest, to 5."""
    answer_kind: AnswerKind = "expression"
    check_against: str = ""
    """LaTeX of the integrand, or of the differential equation, where `answer_kind` needs one; of an expression that is
    to be expanded or factored what was given, which is no answer."""
    facts: dict[str, tuple[str, ...]] = field(default_factory=dict)
    r"""What names in the steps stand for, LaTeX to LaTeX: `{"x": ("2", "3")}` are the solutions of an equation,
    `{"f'(x)": ("3x^{2}",)}` is a derivative, `{"A": (r"\begin{pmatrix}...",)}` a matrix. A step is right where it is
    true with one of these values at least, and each value that solves the problem is among them."""

    @property
    def final(self) -> str:
        r"""The last line of a solution: the answer in a box."""
        return f"${BOX}{{{self.answer}}}$"

    @property
    def solution(self) -> str:
        """The steps and the boxed answer, a line each."""
        return "\n".join([*self.steps, self.final])
