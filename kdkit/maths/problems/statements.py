"""What somebody's statement is about: the functions of x in it, and what is asked of them."""

import re

from kdkit.maths.formulas.reading import find_formula
from kdkit.maths.formulas.tree import Formula
from kdkit.maths.reading import read_statement

OF_X = re.compile(r"[A-Za-z]\s*\(\s*x\s*\)|y")
DERIVED = re.compile(r"[a-z]'\s*(?:\(\s*x\s*\))?|dy\s*/\s*dx|\\frac\{dy\}\{dx\}")
DERIVE = re.compile(r"^\s*(?:\\frac\{d\}\{dx\}|d\s*/\s*dx)")
DERIVATIVE_WORDS = "function respect rule using first power product quotient chain"


def find_derivative(text: str) -> Formula | None:
    """Return the function whose first derivative a statement asks for; None: it asks for something else."""
    statement = read_statement(text)
    formulas = [each for each in statement.formulas if each != "x"]
    names = [each for each in formulas if DERIVED.fullmatch(each.removesuffix("=").strip())]
    others = [each for each in formulas if each not in names]
    operated = len(others) == 1 and DERIVE.match(others[0])
    asked = bool(names or operated)
    needs = "" if asked else "derivative differentiate derive"
    if len(others) != 1 or not statement.fits(f"{DERIVATIVE_WORDS} derivative differentiate derive", needs):
        return None
    if operated:
        return find_formula(DERIVE.sub("", others[0]).strip().removesuffix("=").strip())
    return find_right_side(others[0])


def find_right_side(formula: str) -> Formula | None:
    """Return g of a definition `f(x) = g` or `y = g`, or the formula itself where it is no equation."""
    left, *rest = formula.split("=")
    if not rest:
        return find_formula(left)
    return find_formula(rest[0]) if len(rest) == 1 and OF_X.fullmatch(left.strip()) else None
