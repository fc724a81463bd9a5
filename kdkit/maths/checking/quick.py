r"""Plain numbers, decided without sympy: most answers of word problems are no more than that."""

import re
from decimal import Decimal
from fractions import Fraction

from kdkit.config.maths.settings import PolicyConfig
from kdkit.maths.checking.verdicts import Verdict
from kdkit.maths.problem import AnswerKind

MOST_DIGITS = 40
"""Of a number that is read here."""
NUMBER = re.compile(
    r"(?P<sign>[-+]?)(?:(?P<whole>\d{1,3}(?:(?:,|\{,\})\d{3})+|\d+)(?P<part>\.\d*)?|(?P<only>\.\d+))"
    r"(?:/(?P<below>\d+))?"
)
FRACTION = re.compile(r"(?P<sign>[-+]?)\\[dtc]?frac(?:\{(-?\d+)\}|(\d))(?:\{(\d+)\}|(\d))")
SPACE = re.compile(r"(?<!\d)\s+(?![A-Za-z])|\s+(?![A-Za-z\d])")
"""What may be dropped: a space before a letter ends a command, and one between digits may be that of `3 1/2`."""


def compare_quickly(gold: str, answer: str, policies: PolicyConfig, kind: AnswerKind | None) -> Verdict | None:
    """Compare equal texts, and two plain numbers; None: that takes a closer look.

    Args:
        gold: LaTeX of the right answer.
        answer: LaTeX of the one to mark.
        policies: when two answers count as the same.
        kind: of the answer.
    """
    if not answer.strip():
        return Verdict.NO_ANSWER
    ours, theirs = (SPACE.sub("", text.strip()) for text in (gold, answer))
    if len(ours) > MOST_DIGITS or len(theirs) > MOST_DIGITS or policies.decimal_comma:
        return None
    numbers = read_number(ours, kind), read_number(theirs, kind)
    if None in numbers:
        return None
    if numbers[0] == numbers[1]:
        return Verdict.RIGHT
    if "." in ours or "." in theirs:
        is_whole = any(
            "." not in text and number.denominator == 1 for text, number in zip((ours, theirs), numbers, strict=True)
        )
        if policies.rounding != "none":
            return None
        difference = abs(numbers[0] - numbers[1])
        tolerance = 0 if is_whole else Fraction(Decimal(str(policies.tolerance)))
        return Verdict.RIGHT if difference <= tolerance * max(map(abs, numbers)) else Verdict.WRONG
    return Verdict.WRONG


def read_number(text: str, kind: AnswerKind | None) -> Fraction | None:
    r"""Read `-3`, `1,000`, `2.50`, `3/4`, `\frac{3}{4}`, `\dfrac12`; None where it is anything else."""
    if len(text) > MOST_DIGITS:
        return None
    if match := NUMBER.fullmatch(text):
        if "," in text and kind in ("values", "set", "tuple", "matrix"):
            return None
        whole = re.sub(r"[{},]", "", match["whole"] or "0")
        value = Fraction(whole + (match["part"] or match["only"] or "").rstrip("."))
        below = int(match["below"] or 1)
        if not below or (match["below"] and (match["part"] or match["only"])):
            return None
        return (-value if match["sign"] == "-" else value) / below
    if match := FRACTION.fullmatch(text):
        above, below = int(match[2] or match[3]), int(match[4] or match[5])
        if not below:
            return None
        return Fraction(-above if match["sign"] == "-" else above, below)
    return None
