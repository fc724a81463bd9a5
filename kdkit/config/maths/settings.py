"""Settings of maths: which problems are made, and how answers are compared. Used by notebook 09 and `kdkit solve`."""

from typing import Annotated, Literal

from pydantic import Field

from kdkit.config.types import Count, NotNegative, Positive, Section

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
    """When two answers count as the same."""

    tolerance: NotNegative = 1e-6
    """Relative, between an exact number and a decimal one."""


class CheckerConfig(Section):
    """The processes that check answers."""

    policies: PolicyConfig = PolicyConfig()
    num_workers: Count = 2
    """Processes at once."""
    seconds: Positive = 5.0
    """For one answer; beyond it counts as unanswered."""
    memory_mb: Count = 1024
    """For one process, beside what it has at its start."""


class MathsConfig(Section):
    """Problems and checker."""

    problems: ProblemsConfig = ProblemsConfig()
    checker: CheckerConfig = CheckerConfig()
