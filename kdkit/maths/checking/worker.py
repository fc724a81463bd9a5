"""The inside of a checker's process: it loads sympy, and then checks an answer or a line for every job."""

import sys
from typing import Any

from kdkit.config.maths.settings import CheckerConfig, PolicyConfig
from kdkit.maths.checking.answers import check_answer
from kdkit.maths.checking.serving import serve
from kdkit.maths.checking.steps import check_line

EXAMPLES = (
    ("2i", "(1+i)^{2}", None, ""),
    (r"\frac{x^{2}}{2}+C", r"\frac{1}{2}x^2+K", "antiderivative", "x"),
    (r"C_1e^{x}", "Ae^{x}", "ode", "y'=y"),
    ("[1,2)", r"1\le x<2", "set", ""),
    (r"\begin{pmatrix}1&\sqrt{2}\end{pmatrix}", r"(1,\sin x)", None, ""),
)
"""Checked at the start: sympy loads much when it is first used."""


def main() -> None:
    """Check answers and steps until the input ends."""
    settings = CheckerConfig.model_validate_json(sys.stdin.readline())
    policies = settings.policies
    for gold, answer, kind, against in EXAMPLES:
        check_answer(gold, answer, policies, kind, against)  # type: ignore[arg-type]
    serve(settings, lambda job: check_job(job, policies))


def check_job(job: dict[str, Any], policies: PolicyConfig) -> str:
    """Check an answer, or one line of a solution."""
    if "lines" in job:
        facts = {name: tuple(values) for name, values in job["facts"].items()}
        return check_line(job["lines"], len(job["lines"]) - 1, facts, policies)
    return check_answer(job["gold"], job["answer"], policies, job["kind"], job["against"])
