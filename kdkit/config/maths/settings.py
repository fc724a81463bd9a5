"""Settings of maths: which problems are made, and how answers are compared. Used by notebook 09 and `kdkit solve`."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from kdkit.config.maths.judging import JudgingConfig
from kdkit.config.types import Count, NotNegative, Positive, Section
from kdkit.errors import UserError

DomainName = Literal[
    "algebra", "calculus", "linear_algebra", "complex_analysis", "differential_equations", "optimisation"
]
MADE = "kdkit-maths"
"""Value of `data.path`: problems that are made here."""
Level = Annotated[int, Field(ge=1, le=5)]


class ProblemsConfig(Section):
    """The problems of `data.path: kdkit-maths`."""

    domains: list[DomainName] = Field(default_factory=lambda: ["algebra", "calculus"])
    """Fields that the problems come from."""
    templates: list[str] | None = None
    """Kinds of problems by name (`python -m kdkit problems`); null: all of the domains."""
    held_out_templates: list[str] | None = None
    """Kinds that are only judged on, never trained on; null: one of each domain that has several."""
    levels: list[Level] = Field(default_factory=lambda: [1, 2, 3])
    """Of difficulty, 1 is the easiest."""
    num_problems: Count = 4000
    """To train on, at most: small templates run out of numbers."""
    num_held_out: Count = 200
    """To judge on: other numbers, the same kinds."""
    num_held_out_templates: Count = 100
    """To judge on: other kinds."""


class PolicyConfig(Section):
    """When two answers count as the same; the defaults are a careful marker's. Examples: docs/maths_checker.md."""

    tolerance: NotNegative = 1e-6
    """Relative, where one of two numbers is a decimal and neither is whole: 1/3 and 0.333333."""
    rounding: Literal["none", "gold"] = "none"
    """`gold`: a number that rounds to the digits of a decimal gold answer is right, 20.394 for 20.39."""
    percent: Literal["number", "either"] = "number"
    """`number`: 50 % is 0.5 and nothing else; `either`: it is right for 0.5 and for 50."""
    units: Literal["optional", "required", "ignored"] = "optional"
    """`optional`: converted where both have one, and may be left out; `required`: a missing one is wrong; `ignored`:
    10 m is 10 cm. Degrees are a unit; percent is not."""
    names: Literal["dropped", "required"] = "dropped"
    """`dropped`: `x = 5` is right for 5, `y = 5` is not right for `x = 5`."""
    brackets: Literal["meaning", "any"] = "meaning"
    """`meaning`: [1,2] is not (1,2), unless the answer is known to be a point or vector; `any`: they do not matter."""
    tuple_order: Literal["kept", "any"] = "kept"
    """Whether (1,2) differs from (2,1)."""
    inequalities: Literal["sets", "written"] = "sets"
    """`sets`: 1 < x < 2 is the interval (1,2); `written`: only another inequality is right for it."""
    constant: Literal["gold", "required", "optional"] = "gold"
    """`+ C` of an antiderivative: wanted where the `gold` answer has it, always, or never."""
    decimal_comma: bool = False
    """Read 0,5 as 0.5 and 1.000 as 1000; otherwise 0,5 is a list, and 1,000 is 1000."""
    several_boxes: Literal["last", "first", "agree", "refuse"] = "last"
    """Which of several boxed answers counts; `agree`: the last, if all are the same text; `refuse`: none does."""
    log_base: Literal["e", "10", "2"] = "e"
    r"""Of `\log` without a base; `\ln` and `\lg` keep theirs."""
    imaginary_unit: Literal["i", "j", "none"] = "i"
    """Letter that is the root of -1."""
    letters: Literal["real", "positive", "complex"] = "real"
    """What letters stand for: formulas are compared where both are real, so ln(x^2) is 2 ln x, and sqrt(x^2) is not x;
    `positive`: it is. In formulas with the imaginary unit, or with bars over letters, z and w are complex numbers."""
    unevaluated: Literal["refused", "accepted"] = "refused"
    """Whether an integral, derivative, limit, sum or determinant that is left standing may be an answer."""


class CheckerConfig(Section):
    """The processes that check answers."""

    policies: PolicyConfig = PolicyConfig()
    num_workers: Count = 2
    """Processes at once."""
    seconds: Positive = 5.0
    """For one answer; beyond it counts as unanswered."""
    memory_mb: Count = 1024
    """For one process, beside what it has at its start."""


def check_made(data: Mapping[str, Any]) -> None:
    """Refuse settings of `data` that problems which are made here have no use for.

    Raises:
        UserError: naming the first.
    """
    wanted = {"evaluation_path": "maths.problems.num_held_out", "subset_size": "maths.problems.num_problems"}
    for name in ("evaluation_path", "subset_size", "answer_column", "skip_rows_where"):
        if data[name] is not None:
            instead = f", and set {wanted[name]}" if name in wanted else ""
            raise UserError(
                f"data.{name}: expected null with data.path={MADE}, whose problems and split maths.problems decides, "
                f"got {data[name]!r}; leave it out{instead}"
            )
    if data["format"] not in ("auto", "problems"):
        raise UserError(f"data.format: expected auto or problems with data.path={MADE}, got {data['format']!r}")
    if data["sources"]:
        raise UserError(f"data.sources: expected none beside data.path={MADE}, got {', '.join(data['sources'])}")


class MathsConfig(Section):
    """Problems, checker and judging."""

    problems: ProblemsConfig = ProblemsConfig()
    checker: CheckerConfig = CheckerConfig()
    judging: JudgingConfig = JudgingConfig()
