"""One of several solutions: by the number that agree, by their steps, or by a verifier's scores.

Nothing here knows the true answer: steps are checked under the assumption that the solution's own answer is right, and
so is the problem's statement, into which that answer is put.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from kdkit.evaluate.maths.solutions import FORMAT_ERRORS, Solution, check_lines, step_lines
from kdkit.maths.checking.answers import Verdict
from kdkit.maths.checking.pool import CheckerPool, Job
from kdkit.maths.checking.steps import StepVerdict
from kdkit.maths.problem import AnswerKind, Problem

Groups = list[int | None]
"""For every solution the number of the first one with the same answer; None: it has no answer that can be read."""

_OPEN, _CLOSED = "([{", ")]}"
_NAME = re.compile(r"^[A-Za-z][\w{}']*(\([a-z]\))?=")
"""A name before an answer: `x=`, `f'(x)=`."""


def group_answers(
    problems: Sequence[Problem], solutions: Sequence[Sequence[Solution]], pool: CheckerPool
) -> list[Groups]:
    """Find which solutions of each problem have the same answer, as the checker sees it.

    An answer is compared with the first one of every group, until one is the same.
    """
    groups: list[Groups] = [[None] * len(row) for row in solutions]
    waiting = [
        [place for place, solution in enumerate(row) if solution.verdict not in FORMAT_ERRORS] for row in solutions
    ]
    while any(waiting):
        jobs, asked = [], []
        for number, places in enumerate(waiting):
            if not places:
                continue
            first, rest = places[0], places[1:]
            groups[number][first] = first
            waiting[number] = []
            for place in rest:
                one, other = (_answer_of(solutions[number][each]) for each in (first, place))
                if one == other:
                    groups[number][place] = first
                else:
                    asked.append((number, first, place))
                    jobs.append(Job(one, other, _plain_kind(problems[number])))
        for (number, first, place), verdict in zip(asked, pool.check(jobs), strict=True):
            if verdict is Verdict.RIGHT:
                groups[number][place] = first
            else:
                waiting[number].append(place)
    return groups


class Contradictions(NamedTuple):
    """What a solution's own answer makes false."""

    statement: int
    """Of the problem's statement, into which the answer is put, and of what the answer says of a name: `f'(x) = 2x` is
    false where the statement gives another f."""
    steps: int
    """Of the solution's steps."""


def count_contradictions(
    problems: Sequence[Problem], solutions: Sequence[Sequence[Solution]], pool: CheckerPool
) -> list[list[Contradictions]]:
    """Count the lines that each solution's own answer makes false."""
    flat = [(problem, each) for problem, row in zip(problems, solutions, strict=True) for each in row]
    claimed, written = [], []
    for problem, solution in flat:
        facts = own_facts(problem, solution.answer or "")
        unknown = [name for name in problem.facts if name not in facts]
        claims = [f"${name} = {values[0]}$" for name, values in facts.items() if len(values) == 1]
        # without facts the statement is the same for all
        claims += [" ".join(problem.problem.split())] if facts else []
        for lines, kept in ((claims, claimed), (step_lines(solution.text), written)):
            kept.append(([line for line in lines if not any(_mentions(line, name) for name in unknown)], facts))
    wrong = [
        [sum(mark is StepVerdict.WRONG for mark in marks) for marks in check_lines(lines, pool)]
        for lines in (claimed, written)
    ]
    counts = iter(map(Contradictions, *wrong))
    return [[next(counts) for _ in row] for row in solutions]


def own_facts(problem: Problem, answer: str) -> dict[str, tuple[str, ...]]:
    """Say what the names of a problem stand for if an answer to it is right.

    Of the true values only those are used that the statement gives (`A = ...`); of the others only which of them is the
    answer, or a part of it. What is neither is left out.
    """
    statement, true, own = _without_spaces(problem.problem), split_answer(problem.answer), split_answer(answer)
    facts = {}
    for name, values in problem.facts.items():
        plain = [_without_spaces(value) for value in values]
        if all(re.search(re.escape(f"{_without_spaces(name)}={value}") + r"(?![\w.^])", statement) for value in plain):
            facts[name] = values
        elif sorted(plain) == sorted(true) and own:
            facts[name] = tuple(own)
        elif len(plain) == 1 and plain[0] in true and len(own) == len(true):
            facts[name] = (own[true.index(plain[0])],)
    return facts


def split_answer(answer: str) -> list[str]:
    r"""Return the parts of an answer, `(2, 3)`, `\{2, 3\}`, `x = 2, 3`, without spaces and without brackets around."""
    text = re.sub(r"\\(left|right)(?![a-z])|[\s$]", "", answer).replace(r"\{", "{").replace(r"\}", "}")
    text = _NAME.sub("", text)
    if text[:1] and text[0] in _OPEN and _closes_at(text) == len(text) - 1:
        text = text[1:-1]
    parts, depth = [""], 0
    for sign in text:
        depth += (sign in _OPEN) - (sign in _CLOSED)
        if sign == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += sign
    return [_NAME.sub("", part) for part in parts if part]


def majority(groups: Groups) -> int:
    """Return the first solution of the largest group; of equal ones the first. 0 where no answer can be read."""
    return weighted_vote(groups, [1.0] * len(groups))


def vote_by_steps(groups: Groups, wrong_steps: Sequence[int]) -> int:
    """Return a solution of the group with most votes, where a solution with a wrong step has none.

    Where all have one, or as many do not, all votes decide. Of the group the one with fewest wrong steps is returned.
    """
    clean = [float(count == 0) + 1e-6 for count in wrong_steps]
    chosen = groups[weighted_vote(groups, clean)]
    members = [place for place, group in enumerate(groups) if group == chosen]
    return min(members, key=lambda place: (wrong_steps[place], place))


def verified_vote(groups: Groups, contradictions: Sequence[Contradictions]) -> int:
    """Vote by steps among the solutions whose answer contradicts the statement least."""
    readable = [each.statement for each, group in zip(contradictions, groups, strict=True) if group is not None]
    fewest = min(readable, default=0)
    voting = [group if each.statement == fewest else None for each, group in zip(contradictions, groups, strict=True)]
    return vote_by_steps(voting, [each.steps for each in contradictions])


def weighted_vote(groups: Groups, weights: Sequence[float]) -> int:
    """Return the first solution of the group with the largest sum of weights; 0 where no answer can be read.

    Source: Li et al. 2022, Making Large Language Models Better Reasoners with Step-Aware Verifier, arXiv:2206.02336.
    """
    totals: dict[int, float] = {}
    for group, weight in zip(groups, weights, strict=True):
        if group is not None:
            totals[group] = totals.get(group, 0.0) + weight
    return max(totals, key=lambda group: (totals[group], -group), default=0)


def _answer_of(solution: Solution) -> str:
    assert solution.answer is not None  # else its verdict is a format error
    return solution.answer


def _plain_kind(problem: Problem) -> AnswerKind:
    """Return how two answers are compared with each other: as formulas where the problem has another test of them."""
    return "expression" if problem.check_against else problem.answer_kind


def _mentions(line: str, name: str) -> bool:
    """Return whether a name stands in a formula of a line."""
    letter = re.compile(rf"(?<![A-Za-z\\\\]){re.escape(name)}(?![A-Za-z])")
    return any(letter.search(formula) for formula in re.findall(r"\$([^$]*)\$", line))


def _without_spaces(text: str) -> str:
    return re.sub(r"\s", "", text)


def _closes_at(text: str) -> int:
    """Return where the bracket that a text begins with is closed; -1: nowhere."""
    depth = 0
    for place, sign in enumerate(text):
        depth += (sign in _OPEN) - (sign in _CLOSED)
        if depth == 0:
            return place
    return -1
