"""The verb `solve`: a model of a run solves problems, and every step is checked."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kdkit.config.language import Config
from kdkit.data.problems import HELD_OUT, TRAIN, open_problems
from kdkit.errors import UserError
from kdkit.evaluate.maths.estimates import share
from kdkit.evaluate.maths.solutions import Asking, Solution, fits, step_lines
from kdkit.evaluate.maths.solving import Examiner
from kdkit.evaluate.maths.voting import count_contradictions, group_answers, verified_vote
from kdkit.machine.open_session import open_trained_session
from kdkit.maths.checking.pool import CheckerPool
from kdkit.maths.checking.verdicts import Verdict
from kdkit.maths.files import read_problems
from kdkit.maths.notation import normalise
from kdkit.maths.problem import Problem
from kdkit.maths.problems.make import recognise
from kdkit.models.writer import Writer
from kdkit.report.maths.solution import SolvedProblem, to_page
from kdkit.runs.disk import write_text
from kdkit.runs.paths import resolve_input
from kdkit.workflow.writers import open_writer, run_folder

BATCH_SIZE = 16
"""Solutions that are written at the same time."""


@dataclass(frozen=True)
class SolveRequest:
    """What the command asks for: one of `problem`, `is_random` and `file`."""

    run: str
    """Its name or its folder."""
    problem: str = ""
    is_random: bool = False
    """Draw one of the run's held-out problems."""
    file: str = ""
    """A .json or .jsonl file of problems."""
    model: str = "student"
    num_samples: int = 1
    """Solutions among which steps and a vote choose; 1: the greedy one."""
    seed: int = 0
    html: str = ""
    """A file for a page; empty: none."""
    runs_dir: str = "runs"


def solve(
    run: str,
    problem: str = "",
    *,
    model: str = "student",
    num_samples: int = 1,
    seed: int = 0,
    runs_dir: str = "runs",
) -> SolvedProblem:
    """Let a model of a run solve one problem; in a notebook the result shows its steps.

    Args:
        run: its name or its folder.
        problem: LaTeX or plain text; empty: one of the run's held-out problems, drawn by the seed.
        model: `student`, `teacher`, `baseline` or another folder of the run.
        num_samples: solutions among which steps and a vote choose; 1: the greedy one.

    Raises:
        UserError: see `solve_problems`.
    """
    request = SolveRequest(
        run, problem, not problem, model=model, num_samples=num_samples, seed=seed, runs_dir=runs_dir
    )
    return solve_problems(request)[0]


def solve_problems(request: SolveRequest) -> list[SolvedProblem]:
    """Solve what a request names, and write the page that it asks for.

    Raises:
        UserError: not one of problem, random and file; no such run or model; a run whose data are no problems; a
            problem that leaves no room in the model's context; see also `read_problems`.
    """
    named = [bool(request.problem.strip()), request.is_random, bool(request.file)].count(True)
    if named != 1:
        raise UserError(
            'solve: expected one of --problem "Solve 2x + 3 = 7", --random and --file FILE.jsonl, got '
            f"{'several' if named else 'none'}; name one"
        )
    folder, config = _open(request)
    asked = _asked(request, folder)
    writer, is_chat = open_writer(str(folder), request.model, request.runs_dir, BATCH_SIZE)
    asking = Asking(bool(is_chat), config.data.prompt_template)
    solver = _Solver(writer, asking, config, request, open_problems(folder / "data", TRAIN))
    with CheckerPool(config.maths.checker) as pool:
        solved = [solver.solve(each, pool) for each in asked]
    if request.html:
        write_text(Path(request.html), to_page(solved, f"{request.model} of {folder.name}"))
    return solved


def describe_solved(solved: Sequence[SolvedProblem]) -> str:
    """Say how many of several problems were solved."""
    verdicts = Counter(str(each.verdict or "not checked") for each in solved)
    known = [each.verdict is Verdict.RIGHT for each in solved if each.verdict is not None]
    counts = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in verdicts.most_common())
    if not known:
        return f"{len(solved)} problems: {counts}"
    low, high = share(known)["interval_95"]
    return (
        f"{len(solved)} problems: {counts}; {sum(known) / len(known):.1%} right (95 % interval {low:.0%} to {high:.0%})"
    )


@dataclass(frozen=True)
class _Asked:
    """A problem to solve."""

    statement: str
    problem: Problem | None
    """With its true answer; None: nobody knows it."""


def _open(request: SolveRequest) -> tuple[Path, Config]:
    """Find the run."""
    folder = run_folder(request.run, request.runs_dir)
    name, runs_dir = (folder.name, folder.resolve().parent) if folder is not None else (request.run, request.runs_dir)
    session = open_trained_session(name, runs_dir=runs_dir)  # which says what there is, where this is not
    folder, config = session.run.path, session.config
    if not open_problems(folder / "data", TRAIN):
        raise UserError(
            f"RUN: expected a run whose data are maths problems, got {folder.name!r}, whose data are "
            f"{config.data.path!r}; make one: python -m kdkit run maths_demo"
        )
    return folder, config


def _asked(request: SolveRequest, folder: Path) -> list[_Asked]:
    """Return the problems that a request names."""
    if request.file:
        file = resolve_input(request.file)
        if not file.is_file():
            raise UserError(f"--file: expected a .json or .jsonl file of problems, got {request.file!r}; name another")
        return [_Asked(problem.problem, problem) for problem in read_problems(file)]
    if request.is_random:
        held_out = open_problems(folder / "data", HELD_OUT)
        if not held_out:
            raise UserError("--random: expected a run with held-out problems, got none; use --problem TEXT")
        problem = random.Random(request.seed).choice(held_out)
        return [_Asked(problem.problem, problem)]
    problem = recognise(request.problem)
    return [_Asked(normalise(request.problem) if problem is None else problem.problem, problem)]


@dataclass(frozen=True)
class _Solver:
    """A model, and what its run taught it."""

    writer: Writer
    asking: Asking
    config: Config
    request: SolveRequest
    taught: list[Problem]

    def solve(self, asked: _Asked, pool: CheckerPool) -> SolvedProblem:
        """Solve one problem."""
        problem = asked.problem or Problem("", asked.statement, "")
        if not fits(self.writer, self.asking.prompt(problem)):
            if not self.request.file:
                raise UserError(
                    f"--problem: expected a problem of fewer than {self.writer.context} tokens, the model's context, "
                    "got a longer one; shorten it"
                )
            return self._show(asked, None, ["it is longer than the model's context, so it was not solved"])
        solution, notes = self._choose(problem, pool)
        return self._show(asked, solution, [*self._warnings(asked), *notes])

    def _choose(self, problem: Problem, pool: CheckerPool) -> tuple[Solution, list[str]]:
        """Write one solution, or choose among several."""
        request, checker = self.request, self.config.maths.checker
        judging = self.config.maths.judging.model_copy(update={"num_samples": request.num_samples})
        examiner = Examiner(pool, checker.policies, judging, self.asking, request.seed)
        if request.num_samples == 1:
            return examiner.answer(self.writer, [problem])[0], []
        samples = examiner.sample(self.writer, [problem], with_steps=True)
        (groups,), (contradictions,) = (
            group_answers([problem], samples, pool),
            count_contradictions([problem], samples, pool),
        )
        place = verified_vote(groups, contradictions)
        if groups[place] is None:
            return samples[0][place], [f"none of {len(groups)} samples has an answer that can be read"]
        agreeing = [sum(each) for group, each in zip(groups, contradictions, strict=True) if group == groups[place]]
        return samples[0][place], [
            f"{len(agreeing)} of {len(groups)} samples agree on this answer, and in "
            f"{agreeing.count(0)} of them it makes no step and no statement false"
        ]

    def _warnings(self, asked: _Asked) -> list[str]:
        """Say how far the problem lies from what the model was taught."""
        kinds = {problem.template for problem in self.taught if problem.template is not None}
        if asked.problem is None:
            known = f": {', '.join(sorted(kinds))}" if kinds else ""
            return [f"outside what this model was taught, as far as we can tell{known}; its answer cannot be checked"]
        if asked.statement in {problem.problem for problem in self.taught}:
            return ["this very problem is one that the model was trained on"]
        if kinds and asked.problem.template is not None and asked.problem.template not in kinds:
            return [
                f"outside what this model was taught: {asked.problem.template} is none of {', '.join(sorted(kinds))}"
            ]
        return []

    def _show(self, asked: _Asked, solution: Solution | None, notes: list[str]) -> SolvedProblem:
        """Put together what a person reads."""
        lines = zip(step_lines(solution.text), solution.steps, strict=True) if solution is not None else ()
        if solution is not None and not solution.stopped:
            notes = [*notes, "the solution was cut off (maths.judging.max_answer_tokens, or the model's context)"]
        return SolvedProblem(
            asked.statement,
            list(lines),
            None if solution is None else solution.answer,
            None if asked.problem is None else Verdict.NO_ANSWER if solution is None else solution.verdict,
            None if asked.problem is None else asked.problem.answer,
            self.request.model,
            notes,
        )
