"""Answers that are checked beside the problem's answer, or beside what stands in the reference's box."""

from collections.abc import Sequence
from dataclasses import dataclass

from kdkit.data.prepare import PreparedData
from kdkit.data.problems import TRAIN
from kdkit.errors import UserError
from kdkit.maths.checking.boxes import find_answer
from kdkit.maths.checking.pool import CheckerPool, Job
from kdkit.maths.checking.verdicts import Verdict
from kdkit.maths.problem import Problem
from kdkit.teachers.sampling.scorers import Candidate


@dataclass(frozen=True)
class VerifiedAnswer:
    """The scorer `verified_answer`: called with a candidate, it returns a verdict."""

    pool: CheckerPool
    problems: dict[str, Problem]
    """By how they are asked: they say what kind of answer is wanted. What is none of them has its answer in a box, or
    behind four hashes, of the reference."""

    @classmethod
    def of(cls, pool: CheckerPool, data: PreparedData) -> "VerifiedAnswer":
        """Make the scorer for the training problems of some data; for other conversations it knows none."""
        problems = data.problems(TRAIN)
        asked = data.prompts("train", len(problems))
        pairs = zip(asked, problems, strict=True)
        return cls(pool, {conversation.prompt[-1].content.strip(): problem for conversation, problem in pairs})

    def find(self, prompt: Sequence[dict[str, str]]) -> Problem | None:
        """Return the problem that a prompt asks; None: it is none of them."""
        return self.problems.get(prompt[-1]["content"].strip())

    def __call__(self, candidate: Candidate) -> Verdict:
        """Compare the answer that a candidate comes to with the right one.

        Raises:
            UserError: no right answer is known.
        """
        policies = self.pool.settings.policies
        problem = self.find(candidate.prompt)
        gold = problem.answer if problem else find_answer(candidate.reference, policies)
        if gold is None:
            raise UserError(
                rf"expected an answer in \boxed{{}} or behind #### in {candidate.reference[-60:]!r}, got none"
            )
        answer = find_answer(candidate.answer, policies)
        if answer is None:
            return Verdict.NO_ANSWER
        job = Job(gold, answer, problem.answer_kind, problem.check_against) if problem else Job(gold, answer)
        return self.pool.check([job])[0]
