"""What one model writes about problems: greedy solutions and samples, judged, with those that agree found."""

from collections.abc import Sequence
from dataclasses import dataclass

from kdkit.config.maths.judging import JudgingConfig
from kdkit.config.maths.settings import PolicyConfig
from kdkit.evaluate.maths.solutions import Asking, Solution, fits, judge_solutions, write_solutions
from kdkit.evaluate.maths.voting import Groups, group_answers
from kdkit.maths.checking.pool import CheckerPool
from kdkit.maths.checking.verdicts import Verdict
from kdkit.maths.problem import Problem
from kdkit.models.generation import Sampling
from kdkit.models.writer import Writer, read_prompt


@dataclass(frozen=True)
class Solved:
    """What one model wrote about the problems of a set, a place for every problem."""

    greedy: list[Solution]
    samples: list[list[Solution]]
    """Empty lists where none were asked for."""
    groups: list[Groups]
    """Of the samples; see `group_answers`."""
    prompt_tokens: list[int]
    too_long: int
    """Problems that leave no room in the model's context: they count as unanswered."""


@dataclass(frozen=True)
class Examiner:
    """What lets models solve problems: the checker, and how they write."""

    pool: CheckerPool
    policies: PolicyConfig
    settings: JudgingConfig
    asking: Asking
    seed: int

    def solve(self, writer: Writer, problems: Sequence[Problem]) -> Solved:
        """Let a model solve problems, greedily and `num_samples` times.

        Raises:
            UserError: it writes nothing at all.
        """
        greedy, samples = self.answer(writer, problems), self.sample(writer, problems)
        prompts = [self.asking.prompt(problem) for problem in problems]
        return Solved(
            greedy=greedy,
            samples=samples,
            groups=group_answers(problems, samples, self.pool),
            prompt_tokens=[len(read_prompt(prompt, writer.tokenizer)) for prompt in prompts],
            too_long=sum(not fits(writer, prompt) for prompt in prompts),
        )

    def answer(self, writer: Writer, problems: Sequence[Problem]) -> list[Solution]:
        """Let a model solve problems with the most likely token, always."""
        sampling = Sampling(0.0, max_new_tokens=self.settings.max_answer_tokens)
        return [row[0] for row in self._write(writer, problems, sampling, 1, with_steps=True)]

    def sample(self, writer: Writer, problems: Sequence[Problem], with_steps: bool = False) -> list[list[Solution]]:
        """Let a model solve problems `num_samples` times.

        Args:
            with_steps: whether the steps are checked too.
        """
        if not self.settings.num_samples:
            return [[] for _ in problems]
        settings = self.settings
        sampling = Sampling(settings.temperature, max_new_tokens=settings.max_answer_tokens, seed=self.seed)
        return self._write(writer, problems, sampling, settings.num_samples, with_steps)

    def _write(
        self, writer: Writer, problems: Sequence[Problem], sampling: Sampling, count: int, with_steps: bool
    ) -> list[list[Solution]]:
        """Write solutions and judge them."""
        texts = write_solutions(writer, problems, self.asking, sampling, count)
        judged = judge_solutions(problems, [row or [] for row in texts], self.pool, self.policies, with_steps)
        nothing = Solution("", None, Verdict.NO_ANSWER, (), 0, False)  # of a problem that leaves no room
        return [row or [nothing] * count for row in judged]
