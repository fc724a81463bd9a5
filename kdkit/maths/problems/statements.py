"""What somebody's statement asks for: the formulas in it, and the function it speaks of."""

import re

from kdkit.maths.formulas.reading import FUNCTION_NAMES, find_formula
from kdkit.maths.formulas.tree import Formula

FENCE = re.compile(r"\$\$?|\\\(|\\\)|\\\[|\\\]")
FENCED = re.compile(r"\$\$?(.+?)\$\$?|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
WORD = re.compile(rf"(?<![\\A-Za-z])(?!(?:x?(?:{FUNCTION_NAMES}|pi)x?|[xey]{{2}}|d[xyz])(?![A-Za-z]))[A-Za-z]{{2,}}")
STOP = re.compile(r"[?;:,]|\.(?![0-9])")
OF_X = re.compile(r"^\s*(?:[A-Za-z]\s*\(\s*x\s*\)|y)\s*$")
DERIVATIVE = re.compile(r"\\d?frac\{d\}\{dx\}|\bd\s*/\s*dx\b")


def find_clauses(text: str) -> list[str]:
    """Return the formulas in a text: what stands between dollar signs, or else between its words."""
    fenced = [next(filter(None, found)) for found in FENCED.findall(text)]
    if not fenced:
        fenced = STOP.sub("\n", WORD.sub("\n", text)).split("\n")
    return [clause.strip(" .,;") for clause in fenced if clause.strip(" .,;")]


def find_function(text: str) -> Formula | None:
    """Return the function of x that a statement speaks of: the right side of `f(x) = ...`, or the only formula."""
    formulas = []
    for clause in find_clauses(text):
        left, *rest = clause.split("=")
        if len(rest) == 1 and OF_X.match(left):
            return find_formula(rest[0])
        if not rest:
            formulas.append(find_formula(DERIVATIVE.sub(" ", clause)))
    known = [formula for formula in formulas if formula is not None]
    return max(known, key=lambda formula: len(str(formula)), default=None)


def asks_derivative(text: str) -> bool:
    """Whether a statement asks for a first derivative, as a function of x."""
    asked = re.search(r"(?<!anti)(?<!anti-)derivative|differentiate\b|\b[a-z]'|dy\s*/\s*dx", text, re.IGNORECASE)
    other = re.search(
        r"second|third|partial|tangent|equation|solve|integra|limit|minim|maxim|\bat\b|''", text, re.IGNORECASE
    )
    return bool(asked or DERIVATIVE.search(text)) and not other
