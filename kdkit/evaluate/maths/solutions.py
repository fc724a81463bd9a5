"""Solutions that models write, with the verdicts on their answers and on every step."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kdkit.alignment.templates import Message
from kdkit.config.maths.settings import PolicyConfig
from kdkit.data.conversations import fill_template
from kdkit.maths.checking.answers import Verdict, find_answer
from kdkit.maths.checking.pool import CheckerPool, Job, StepJob
from kdkit.maths.checking.steps import StepVerdict
from kdkit.maths.problem import BOX, Problem
from kdkit.models.generation import Sampling
from kdkit.models.writer import Prompt, Writer, Written, read_prompt

FORMAT_ERRORS = (Verdict.NO_ANSWER, Verdict.UNREADABLE, Verdict.TIMED_OUT)
"""Verdicts on what cannot be compared: no wrong answer, and no right one."""


@dataclass(frozen=True)
class Solution:
    """What a model wrote about a problem, judged."""

    text: str
    answer: str | None
    """None: there is none."""
    verdict: Verdict
    steps: tuple[StepVerdict, ...]
    """Of `step_lines(text)`; none where they were not checked."""
    num_tokens: int
    stopped: bool

    @property
    def is_right(self) -> bool:
        """Whether the answer is right, whatever the steps are."""
        return self.verdict is Verdict.RIGHT

    @property
    def first_wrong_step(self) -> int | None:
        """Number of the first step that is wrong, from 1; None: none is."""
        return next((number for number, each in enumerate(self.steps, 1) if each is StepVerdict.WRONG), None)

    def as_row(self) -> dict[str, Any]:
        """Return what is kept of it in a file."""
        return {
            "text": self.text,
            "answer": self.answer,
            "verdict": str(self.verdict),
            "steps": [str(step) for step in self.steps],
            "tokens": self.num_tokens,
            "stopped": self.stopped,
        }


def step_lines(text: str) -> list[str]:
    """Return the lines of a solution that are steps: not empty, and not the boxed answer."""
    return [line.strip() for line in text.splitlines() if line.strip() and BOX not in line]


@dataclass(frozen=True)
class Asking:
    """How models are asked: as they were in their training."""

    is_chat: bool
    """Whether a problem is a message to be answered; else a line to go on from."""
    template: str | None = None
    """`data.prompt_template`; one that does not name `{problem}` was made for other data."""

    def words(self, problem: Problem) -> str:
        """Return what is asked."""
        if self.template is None or "{problem}" not in self.template:
            return problem.problem
        return fill_template(self.template, {"problem": problem.problem}, f"problem {problem.id!r}")

    def prompt(self, problem: Problem) -> Prompt:
        """Return what a model reads of a problem."""
        words = self.words(problem)
        return [Message("user", words)] if self.is_chat else f"{words}\n"


def write_solutions(
    writer: Writer, problems: Sequence[Problem], asking: Asking, sampling: Sampling, num_samples: int = 1
) -> list[list[Written] | None]:
    """Let a model write about every problem; None for one that leaves no room in its context.

    Raises:
        UserError: the model writes nothing at all.
    """
    prompts = [asking.prompt(problem) for problem in problems]
    texts: list[list[Written] | None] = [None] * len(prompts)
    fitting = [place for place, prompt in enumerate(prompts) if fits(writer, prompt)]
    for place, written in zip(
        fitting, writer.write([prompts[i] for i in fitting], sampling, num_samples) if fitting else [], strict=True
    ):
        texts[place] = written
    return texts


def fits(writer: Writer, prompt: Prompt) -> bool:
    """Return whether a prompt leaves room for an answer.

    Raises:
        UserError: a message, and a tokenizer without a chat template.
    """
    return writer.context is None or len(read_prompt(prompt, writer.tokenizer)) < writer.context


def judge_solutions(
    problems: Sequence[Problem],
    texts: Sequence[Sequence[Written]],
    pool: CheckerPool,
    policies: PolicyConfig,
    with_steps: bool = True,
) -> list[list[Solution]]:
    """Check the answer and the steps of every text.

    Args:
        problems: of one without an answer nobody knows it, and every answer that can be read is right.
        texts: of each problem.
        with_steps: whether steps are checked, which takes most of the time.
    """
    flat = [(problem, text) for problem, row in zip(problems, texts, strict=True) for text in row]
    answers = [find_answer(text.text, policies) for _, text in flat]
    jobs = [
        Job(problem.answer or answer or "", answer or "", problem.answer_kind, problem.check_against)
        for (problem, _), answer in zip(flat, answers, strict=True)
    ]
    verdicts = pool.check(jobs)
    lines = [(step_lines(text.text) if with_steps else [], problem.facts) for problem, text in flat]
    steps = check_lines(lines, pool)
    judged = iter(
        Solution(text.text, answer, verdict, tuple(marks), text.num_tokens, text.stopped)
        for (_, text), answer, verdict, marks in zip(flat, answers, verdicts, steps, strict=True)
    )
    return [[next(judged) for _ in row] for row in texts]


def check_lines(
    solutions: Sequence[tuple[Sequence[str], dict[str, tuple[str, ...]]]], pool: CheckerPool
) -> list[list[StepVerdict]]:
    """Return the verdicts on the lines of every solution.

    Args:
        solutions: lines, and what the names in them stand for.
    """
    found = iter(pool.check_steps([StepJob("\n".join(lines), facts) for lines, facts in solutions if lines]))
    return [next(found) if lines else [] for lines, _ in solutions]
