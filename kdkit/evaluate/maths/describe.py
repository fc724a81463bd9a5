"""Figures of what one model wrote about the problems of a set."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from kdkit.evaluate.maths.estimates import by_group, difference, mean, pass_at, powers_up_to, share
from kdkit.evaluate.maths.solutions import FORMAT_ERRORS, Solution
from kdkit.evaluate.maths.solving import Solved
from kdkit.evaluate.maths.voting import majority
from kdkit.maths.checking.steps import StepVerdict
from kdkit.maths.checking.verdicts import Verdict
from kdkit.maths.problem import Problem

GROUPS = ("domain", "level", "template")
"""Fields of a problem by which accuracy is also given."""


def describe_model(problems: Sequence[Problem], solved: Solved) -> dict[str, Any]:
    """Add up the verdicts on one model's solutions.

    Returns:
        `accuracy` of greedy answers with its interval, `by_domain`, `by_level` and `by_template`; `verdicts`: how many
        of each; `format_errors`: share of the answers that cannot be compared; `too_long`; `unfinished`: share that ran
        out of room; `steps`: see `_describe_steps`; and of samples `samples` (how many), `pass_at` (mean over problems,
        see `pass_at`) and `majority` (accuracy of the vote).
    """
    hits = [solution.is_right for solution in solved.greedy]
    counts = Counter(solution.verdict for solution in solved.greedy)
    return {
        **share(hits),
        **{
            f"by_{field}": {
                name: share([hits[place] for place in places])
                for name, places in by_group(problems, lambda problem, field=field: getattr(problem, field)).items()
            }
            for field in GROUPS
        },
        "verdicts": {str(verdict): counts[verdict] for verdict in Verdict},
        "format_errors": sum(counts[verdict] for verdict in FORMAT_ERRORS) / len(hits),
        "too_long": solved.too_long,
        "unfinished": sum(not solution.stopped for solution in solved.greedy) / len(hits),
        "steps": _describe_steps(solved.greedy),
        **_describe_samples(solved),
    }


def differences_to(name: str, solved: Mapping[str, Solved]) -> dict[str, Any]:
    """Compare a model with all others: its accuracy less theirs, in pairs of one problem."""
    own = [solution.is_right for solution in solved[name].greedy]
    return {
        other: difference(own, [solution.is_right for solution in each.greedy])
        for other, each in solved.items()
        if other != name
    }


def _describe_steps(solutions: Sequence[Solution]) -> dict[str, Any]:
    """Count right and wrong steps.

    Returns:
        `right_share` of the `checked` steps (an interval over problems: see `mean`) and `unchecked`; `flawless`: share
        of the solutions with a checked step that have no wrong one; `right_answer_wrong_step`: share of right answers
        with a wrong step before them; `first_wrong`: how many solutions go wrong first at step 1, 2, ....
    """
    marks = [mark for solution in solutions for mark in solution.steps]
    right, wrong = (sum(mark is kind for mark in marks) for kind in (StepVerdict.RIGHT, StepVerdict.WRONG))
    checked = [each for each in solutions if any(mark is not StepVerdict.UNCHECKED for mark in each.steps)]
    firsts = Counter(each.first_wrong_step for each in solutions if each.first_wrong_step is not None)
    return {
        "checked": right + wrong,
        "unchecked": len(marks) - right - wrong,
        "right_share": right / (right + wrong) if right + wrong else None,
        "flawless": share([each.first_wrong_step is None for each in checked]),
        "right_answer_wrong_step": share([each.first_wrong_step is not None for each in solutions if each.is_right]),
        "first_wrong": [firsts[number] for number in range(1, max(firsts, default=0) + 1)],
    }


def _describe_samples(solved: Solved) -> dict[str, Any]:
    """Say what the samples are worth; nothing where there are none."""
    count = min(map(len, solved.samples), default=0)
    if not count:
        return {}
    right = [[each.is_right for each in row] for row in solved.samples]
    return {
        "samples": count,
        "pass_at": {str(k): mean([pass_at(count, sum(row), k) for row in right]) for k in powers_up_to(count)},
        "majority": share([row[majority(groups)] for row, groups in zip(right, solved.groups, strict=True)]),
    }
