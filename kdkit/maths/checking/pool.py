"""Many answers at once, in processes with limits of time and memory. First slice: in this process."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from kdkit.config.maths.settings import CheckerConfig
from kdkit.maths.checking.answers import check_answer
from kdkit.maths.checking.steps import check_steps
from kdkit.maths.checking.verdicts import StepVerdict, Verdict
from kdkit.maths.problem import AnswerKind


@dataclass(frozen=True)
class Job:
    """One answer to compare."""

    gold: str
    answer: str
    kind: AnswerKind | None = None
    against: str = ""


@dataclass(frozen=True)
class StepJob:
    """One solution to check, line by line."""

    solution: str
    facts: dict[str, tuple[str, ...]] = field(default_factory=dict)


class CheckerPool:
    """Checks answers; a context manager."""

    def __init__(self, settings: CheckerConfig) -> None:
        """Keep the settings."""
        self.settings = settings

    def __enter__(self) -> "CheckerPool":
        return self

    def __exit__(self, *_: object) -> None:
        """End the processes."""

    def check(self, jobs: Sequence[Job]) -> list[Verdict]:
        """Compare answers, in their order."""
        policies = self.settings.policies
        return [check_answer(job.gold, job.answer, policies, job.kind, job.against) for job in jobs]

    def check_steps(self, jobs: Sequence[StepJob]) -> list[list[StepVerdict]]:
        """Check the lines of solutions."""
        return [check_steps(job.solution, job.facts, self.settings.policies) for job in jobs]
