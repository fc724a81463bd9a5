r"""Plain numbers and equal texts, decided without sympy: most answers of word problems are no more than that."""

import re
from fractions import Fraction

MOST_DIGITS = 40
"""Of a number that is read here."""
NUMBER = re.compile(
    r"(?P<sign>[-+]?)(?:(?P<whole>\d{1,3}(?:(?:,|\{,\})\d{3})+|\d+)(?P<part>\.\d*)?|(?P<only>\.\d+))"
    r"(?:/(?P<below>\d+))?"
)
FRACTION = re.compile(r"(?P<sign>[-+]?)\\[dtc]?frac(?:\{(-?\d+)\}|(\d))(?:\{(\d+)\}|(\d))")
SPACE = re.compile(r"\\[,;:! ]|\s|~|\\left(?![a-z])|\\right(?![a-z])")


def squeeze(text: str) -> str:
    """Drop spaces, and the dollar signs around it; nothing that changes what a formula says."""
    text = text.strip().removeprefix("$").removesuffix("$")
    if "\\text" in text or "\\mathrm" in text or "\\operatorname" in text:
        return text.strip()
    return re.sub(r"(\\[A-Za-z]+)\s+(?=[A-Za-z])|\s+", lambda match: f"{match[1]} " if match[1] else "", text)


def read_number(text: str) -> Fraction | None:
    r"""Read `-3`, `1,000`, `2.50`, `3/4`, `\frac{3}{4}`, `\dfrac12`; None where it is anything else."""
    if len(text) > MOST_DIGITS:
        return None
    if match := NUMBER.fullmatch(text):
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
