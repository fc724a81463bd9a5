"""A teacher that knows more than the student: its last question is another text, in which the answer may stand.

The two prompts have no text in common that could be aligned, so both count as one stretch in no loss, and the last
answer alone is aligned and learnt.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from kdkit.alignment.templates import Message, Piece
from kdkit.data.chat.sides import Fitted, Side

ALONE = "alone"
"""What of a conversation is in the loss: its last answer, all before it being one interval."""


@dataclass(frozen=True)
class PrivilegedPrompt:
    """How a teacher is asked."""

    template: str
    """With `{prompt}` and `{answer}` in the places of the last question and of its answer."""

    def apply(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """Return a conversation with another last question."""
        *before, question, answer = messages
        asked = self.template.format(prompt=question.content, answer=answer.content)
        return (*before, replace(question, content=asked), answer)


class AnswerSide(Side):
    """A side of which everything before the last answer is one interval."""

    privileged: PrivilegedPrompt | None = None
    """How its model is asked; None: as the data says."""

    def pieces(self, fitted: Fitted) -> tuple[list[Piece], list[int]]:
        """Return what a model reads, and the width of the three intervals: prompt, answer, end."""
        if self.privileged is not None:
            fitted = replace(fitted, messages=self.privileged.apply(fitted.messages))
        pieces, widths = super().pieces(fitted)
        return pieces, [sum(widths[:-2]), *widths[-2:]]
