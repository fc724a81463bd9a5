"""The audit of a problem: its answer by another way, its steps read anew."""

from dataclasses import dataclass

from kdkit.maths.problem import Problem
from kdkit.maths.problems.audit import (
    algebra,
    calculus,
    complex_analysis,
    differential_equations,
    linear_algebra,
    optimisation,
)
from kdkit.maths.problems.audit.formulas import UnreadableError
from kdkit.maths.problems.audit.steps import find_wrong_steps

CHECKS = {
    **algebra.CHECKS,
    **calculus.CHECKS,
    **complex_analysis.CHECKS,
    **differential_equations.CHECKS,
    **linear_algebra.CHECKS,
    **optimisation.CHECKS,
}
"""For each template, what its answer has to pass."""


@dataclass(frozen=True)
class Finding:
    """What the audit of a problem found."""

    faults: tuple[str, ...]
    """A sentence each; none: the problem is right."""
    num_steps_read: int
    """Steps whose relations were checked too."""


def audit(problem: Problem) -> Finding:
    """Check a problem by the text of its statement, answer and steps alone.

    Raises:
        KeyError: its template has no check.
    """
    faults = []
    try:
        if not CHECKS[problem.template](problem):
            faults.append(f"{problem.id}: {problem.answer} does not answer: {problem.problem}")
    except (UnreadableError, ValueError, TypeError, IndexError, AttributeError, StopIteration) as error:
        faults.append(f"{problem.id}: cannot be audited: {type(error).__name__}: {error}")
    wrong, num_read = find_wrong_steps(problem)
    faults += [f"{problem.id}: a step is not true: {step}" for step in wrong]
    return Finding(tuple(faults), num_read)
