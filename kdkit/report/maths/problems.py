"""Problems and the checker, as notebook 09 shows them: how many there are, one with its proof, what counts as equal."""

from collections.abc import Mapping, Sequence

from kdkit.config.maths.settings import PolicyConfig
from kdkit.maths.checking.answers import check_answer
from kdkit.maths.checking.steps import check_steps
from kdkit.maths.problem import Problem
from kdkit.report.maths.solution import SolvedProblem
from kdkit.report.maths.tables import title_of
from kdkit.report.tables import Table


def problems_table(sets: Mapping[str, Sequence[Problem]]) -> Table:
    """Count the problems of every kind in each set; a row per kind."""
    kinds = sorted({(each.domain or "", each.template or "") for problems in sets.values() for each in problems})
    rows = []
    for domain, template in kinds:
        own = [
            [each for each in problems if ((each.domain or ""), (each.template or "")) == (domain, template)]
            for problems in sets.values()
        ]
        levels = sorted({str(each.level) for problems in own for each in problems if each.level is not None})
        words = [domain.replace("_", " "), template.replace("_", " "), ", ".join(levels)]
        rows.append([*words, *(f"{len(problems):,}" for problems in own)])
    titles = ["to learn from" if name == "train" else title_of(name) for name in sets]
    return ["domain", "kind", "levels", *titles], rows


def prove(problem: Problem, policies: PolicyConfig | None = None) -> SolvedProblem:
    """Show a problem with its own solution, every step checked as a model's would be."""
    policies = policies or PolicyConfig()
    marks = check_steps("\n".join(problem.steps), problem.facts, policies)
    kind, against = problem.answer_kind, problem.check_against
    verdict = check_answer(problem.answer, problem.answer, policies, kind, against)
    steps = list(zip(problem.steps, marks, strict=True))
    return SolvedProblem(problem.problem, steps, problem.answer, verdict, problem.answer, "generator")


def verdicts_table(pairs: Sequence[tuple[str, str]], policies: PolicyConfig | None = None) -> Table:
    """Say what the checker makes of pairs of a true answer and another one."""
    found = [check_answer(gold, answer, policies or PolicyConfig()) for gold, answer in pairs]
    rows = [[*pair, str(verdict).replace("_", " ")] for pair, verdict in zip(pairs, found, strict=True)]
    return ["true answer", "answer", "verdict"], rows
