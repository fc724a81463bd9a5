"""What a checker says of an answer and of a step."""

from enum import StrEnum


class Verdict(StrEnum):
    """Of an answer."""

    RIGHT = "right"
    WRONG = "wrong"
    NO_ANSWER = "no_answer"
    """No box, or an empty one: an error of format."""
    UNREADABLE = "unreadable"
    """No formula that we know, or one too large to compute with."""
    TIMED_OUT = "timed_out"
    """The time or the memory did not suffice, or the process died: nothing is known."""


class StepVerdict(StrEnum):
    """Of a line of a solution."""

    RIGHT = "right"
    WRONG = "wrong"
    UNCHECKED = "unchecked"
    """Words only, an expression without a relation, or nothing we can read."""
