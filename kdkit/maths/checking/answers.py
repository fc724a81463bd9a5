"""Whether an answer is right, in this process and without limits; `kdkit.maths.checking.pool` has them."""

from kdkit.config.maths.settings import PolicyConfig
from kdkit.maths.checking.boxes import find_answer
from kdkit.maths.checking.quick import read_number, squeeze
from kdkit.maths.checking.verdicts import Verdict
from kdkit.maths.problem import AnswerKind

__all__ = ["Verdict", "check_answer", "find_answer"]


def check_answer(
    gold: str, answer: str, policies: PolicyConfig, kind: AnswerKind | None = None, against: str = ""
) -> Verdict:
    """Compare an answer with the gold one.

    Args:
        gold: LaTeX of the right answer.
        answer: LaTeX of the one to mark, as `find_answer` gives it.
        policies: when two answers count as the same.
        kind: of the answer; None: what the gold answer looks like.
        against: see `Problem.check_against`.
    """
    if not answer.strip():
        return Verdict.NO_ANSWER
    ours, theirs = squeeze(gold), squeeze(answer)
    if ours == theirs:
        return Verdict.RIGHT
    numbers = read_number(ours), read_number(theirs)
    if None not in numbers:
        return Verdict.RIGHT if numbers[0] == numbers[1] else Verdict.WRONG
    return Verdict.UNREADABLE
