"""What every kind of problem provides: it draws numbers, and has statement, proven steps and answer for them."""

import hashlib
import json
import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from kdkit.maths.problem import AnswerKind, Domain, Problem

Parameters = tuple[int | str, ...]
"""What decides a problem of a template: JSON can write them."""
HELD_OUT_SHARE = 10
"""One in so many parameters is never trained on, by a hash: whatever the seed and the size of a set."""


class UnprovenStepError(AssertionError):
    """A generator's own step or answer is not true: a fault of the generator."""


@dataclass(frozen=True)
class Solved:
    """A solution of one template and its parameters."""

    words: dict[str, str]
    """What stands in the braces of the wordings: LaTeX."""
    steps: tuple[str, ...]
    """See `Problem.steps`; each has been checked by `Template.solve`."""
    answer: str
    answer_kind: AnswerKind = "expression"
    check_against: str = ""
    facts: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """See `Problem.facts`."""


class Template(ABC):
    """A kind of problem."""

    name: ClassVar[str]
    """Unique among all templates, lower case with underscores: it is part of ids and settings."""
    domain: ClassVar[Domain]
    family: ClassVar[str] = ""
    """Kinds that ask the same of the same numbers name one; their numbers are held out together."""
    levels: ClassVar[Sequence[int]] = (1, 2, 3, 4, 5)
    """For which it draws numbers."""
    wordings: ClassVar[tuple[str, ...]]
    """Statements with names in double angle brackets, `Find the derivative of $f(x) = <<function>>$.`"""

    @abstractmethod
    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Draw the numbers of a problem of a level."""

    @abstractmethod
    def solve(self, parameters: Parameters) -> Solved:
        """Write the solution, with every step checked.

        Raises:
            UnprovenStepError: one of them is not true.
        """

    def read(self, text: str) -> Parameters | None:
        """Find the parameters in somebody's statement of such a problem; None: it is none of this kind.

        Args:
            text: LaTeX or plain text, with unicode superscripts already written as `^{3}`.
        """
        return None

    def holds_out(self, parameters: Parameters) -> bool:
        """Return whether these numbers are never trained on."""
        return is_held_out(self.family or self.name, parameters)

    def build(self, parameters: Parameters, level: int | None, wording: int = 0) -> Problem:
        """Make the problem."""
        solved = self.solve(parameters)
        statement = self.wordings[wording % len(self.wordings)]
        for name, latex in solved.words.items():
            statement = statement.replace(f"<<{name}>>", latex)
        shape = solved.answer_kind, solved.check_against, solved.facts
        name = f"{self.name}:{','.join(str(each) for each in parameters)}"
        return Problem(name, statement, solved.answer, solved.steps, self.domain, self.name, level, *shape)


def is_held_out(template: str, parameters: Parameters) -> bool:
    """Return whether these numbers are kept for judging: fixed by a hash, so no training set ever has them."""
    digest = hashlib.sha256(json.dumps([template, *parameters]).encode()).digest()
    return int.from_bytes(digest[:8]) % HELD_OUT_SHARE == 0
