"""What somebody's statement is about: the functions of x in it, and what is asked of them."""

import re
from fractions import Fraction

from kdkit.maths.formulas.reading import find_formula
from kdkit.maths.formulas.tree import Formula, Number
from kdkit.maths.reading import read_statement

OF_X = re.compile(r"[A-Za-z]\s*\(\s*x\s*\)|y")
DERIVED = re.compile(r"[a-z]'\s*(?:\(\s*x\s*\))?|dy\s*/\s*dx|\\frac\{dy\}\{dx\}")
DERIVE = re.compile(r"^\s*(?:\\frac\{d\}\{dx\}|d\s*/\s*dx)")
INTEGRAL = re.compile(
    r"(?:\\int\s*(?:_\s*(?:\{(?P<low>[^{}]*(?:\{[^{}]*\}[^{}]*)*)\}|(?P<low_digit>\\pi|\S))\s*"
    r"\^\s*(?:\{(?P<high>[^{}]*(?:\{[^{}]*\}[^{}]*)*)\}|(?P<high_digit>\\pi|\S)))?)?(?P<inside>.+?)(?:d\s*x)?\s*=?\s*"
)
INTEGRAL_WORDS = (
    "integral integrate antiderivative primitive indefinite definite general function respect rule using from power"
    " substitution parts integration constant"
)
LIMIT = re.compile(r"\\?lim\s*_\s*\{\s*x\s*\\to\s*(?P<target>[^{}]+)\}(?P<inside>.+)")
TO = re.compile(r"x\s*\\to\s*(.+)")
LIMIT_WORDS = "limit lim as approaches goes tends to function when rule factoring"
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


def find_integral(text: str) -> tuple[Formula, Formula | None, Formula | None] | None:
    r"""Return the integrand, and the bounds or None twice, of a statement with $\int ... dx$ or the word for it."""
    statement = read_statement(text)
    formulas = [each for each in statement.formulas if each != "x"]
    sign = [each for each in formulas if r"\int" in each]
    needs = "" if sign else "integral integrate antiderivative primitive"
    if not formulas or not statement.fits(INTEGRAL_WORDS, needs) or len(sign) > 1:
        return None
    found = INTEGRAL.fullmatch((sign or formulas)[0])
    if not found:
        return None
    bounds = [found["low"] or found["low_digit"], found["high"] or found["high_digit"]]
    others = [each for each in formulas if each != (sign or formulas)[0]]
    if {"from", "to"} <= statement.words and len(others) == 2:
        bounds, others = others, []
    integrand = find_right_side(found["inside"].strip())
    if others or integrand is None or (bounds[0] is None) != (bounds[1] is None):
        return None
    if bounds[0] is None:
        return None if "definite" in statement.words else (integrand, None, None)
    low, high = find_formula(bounds[0]), find_formula(bounds[1])
    return None if low is None or high is None else (integrand, low, high)


def find_limit(text: str) -> tuple[Formula, int | Fraction | None] | None:
    r"""Return the function of a limit, `\lim_{x \to 2} ...` or words, and what x goes to: a number, None: infinity."""
    statement = read_statement(text)
    formulas = list(statement.formulas)
    if not statement.fits(LIMIT_WORDS, "" if any("lim" in each for each in formulas) else "limit lim"):
        return None
    if len(formulas) == 1 and (found := LIMIT.fullmatch(formulas[0])):
        inside, target = found["inside"], found["target"]
    elif len(formulas) == 3 and formulas[1] == "x":
        inside, target = formulas[0], formulas[2]
    elif len(formulas) == 2 and (found := TO.fullmatch(formulas[1])):
        inside, target = formulas[0], found[1]
    else:
        return None
    function = find_right_side(inside.strip().removesuffix("=").strip())
    if function is None or target.strip() == r"\infty":
        return None if function is None else (function, None)
    number = find_formula(target)
    return (function, number.number) if isinstance(number, Number) else None


def find_right_side(formula: str) -> Formula | None:
    """Return g of a definition `f(x) = g` or `y = g`, or the formula itself where it is no equation."""
    left, *rest = formula.split("=")
    if not rest:
        return find_formula(left)
    return find_formula(rest[0]) if len(rest) == 1 and OF_X.fullmatch(left.strip()) else None
