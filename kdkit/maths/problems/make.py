"""Sets of problems to train and to judge on, and problems that somebody typed."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from kdkit.config.maths.settings import ProblemsConfig
from kdkit.maths.notation import normalise
from kdkit.maths.problem import Problem
from kdkit.maths.problems.all import TEMPLATES, find_templates
from kdkit.maths.problems.template import Parameters, Template, UnprovenStepError

Belongs = Callable[[Template, Parameters], bool]
MAX_MISSES = 200
"""Draws in a row that bring nothing new: then a template has no more numbers of a level."""


@dataclass(frozen=True)
class ProblemSets:
    """Problems that share neither statements nor numbers between the sets, nor kinds with the last one."""

    train: list[Problem]
    held_out: list[Problem]
    """The kinds trained on, other numbers."""
    held_out_templates: list[Problem]
    """Other kinds."""
    notes: list[str] = field(default_factory=list)
    """Where a set is smaller than asked, a sentence each."""


def make_problems(settings: ProblemsConfig, seed: int) -> ProblemSets:
    """Make the problems of a run: the same for the same settings and seed.

    Each set takes its kinds and levels in turn. One that has no more numbers is left out from there on.

    Raises:
        UserError: a name is unknown, or nothing is left to train on.
    """
    trained, judged = find_templates(settings)
    seen: set[str] = set()
    sets = {
        "held_out": (trained, settings.num_held_out, _holds_out),
        "held_out_templates": (judged, settings.num_held_out_templates, _is_new),
        "train": (trained, settings.num_problems, lambda template, parameters: not _holds_out(template, parameters)),
    }
    problems = {
        name: _draw(random.Random(f"{seed}/{name}"), templates, settings.levels, count, belongs, seen)
        for name, (templates, count, belongs) in sets.items()
    }
    notes = [
        f"{name}: {len(problems[name])} problems of {count} that were asked for: these kinds have no more numbers"
        for name, (templates, count, _) in sets.items()
        if templates and len(problems[name]) < count
    ]
    return ProblemSets(**problems, notes=notes)


def _holds_out(template: Template, parameters: Parameters) -> bool:
    return template.holds_out(parameters)


def _is_new(template: Template, parameters: Parameters) -> bool:
    """Return whether numbers of a kind that is held out are nowhere trained on: another kind may ask the same."""
    return not template.family or template.holds_out(parameters)


def _draw(
    draws: random.Random,
    templates: Sequence[Template],
    levels: Sequence[int],
    count: int,
    belongs: Belongs,
    seen: set[str],
) -> list[Problem]:
    """Draw problems that are not yet seen, a kind and a level at a time; `seen` grows by ids and statements."""
    turns = [(template, level) for template in templates for level in sorted(set(levels)) if level in template.levels]
    problems: list[Problem] = []
    while turns and len(problems) < count:
        exhausted = []
        for turn in turns[: count - len(problems)]:
            problem = _draw_one(draws, *turn, belongs, seen)
            if problem is None:
                exhausted.append(turn)
            else:
                problems.append(problem)
        turns = [turn for turn in turns if turn not in exhausted]
    return problems


def _draw_one(draws: random.Random, template: Template, level: int, belongs: Belongs, seen: set[str]) -> Problem | None:
    for _ in range(MAX_MISSES):
        parameters = template.draw(draws, level)
        wording = draws.randrange(len(template.wordings))
        if not belongs(template, parameters):
            continue
        problem = template.build(parameters, level, wording)
        if problem.id not in seen and problem.problem not in seen:
            seen.update((problem.id, problem.problem))
            return problem
    return None


def recognise(text: str) -> Problem | None:
    """Find the problem that somebody's statement is, with its solution; None: no kind of kdkit's.

    Args:
        text: plain text or LaTeX, with or without dollar signs, unicode or not.
    """
    normal = normalise(text)
    for template in TEMPLATES:
        parameters = template().read(normal)
        if parameters is None:
            continue
        try:
            return template().build(parameters, None)
        except UnprovenStepError:  # numbers that are too large to prove anything with
            continue
    return None
