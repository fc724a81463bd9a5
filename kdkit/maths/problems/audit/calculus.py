"""Answers in calculus, checked by differences, quadrature and values near a limit."""

import re
from collections.abc import Callable
from fractions import Fraction

from mpmath import mp

from kdkit.maths.problem import Problem
from kdkit.maths.problems.audit.formulas import DIGITS, Value, dollars, evaluate, names_in

PLACES = (Fraction(7, 10), Fraction(13, 10), Fraction(21, 10))
STEP = Fraction(1, 10**12)
"""Width of a difference: with 50 digits it has an error of about 1e-24."""
NEAR = 1e-9
LIMIT_NEAR = 1e-6


def is_near(first: Value, second: Value, tolerance: float = NEAR, size: float = 1.0) -> bool:
    """Compare two numbers relative to their size; those below `size` count as that large."""
    first, second = as_mp(first), as_mp(second)
    return bool(abs(first - second) <= tolerance * max(abs(first), size))


def slope(function: Callable[[Value], Value], x: Value) -> Value:
    """Return a derivative as a central difference."""
    with mp.workdps(DIGITS):
        difference = as_mp(function(x + STEP)) - as_mp(function(x - STEP))
        return difference / (2 * as_mp(STEP))


def as_mp(value: Value) -> Value:
    """Return a number as mpmath's."""
    return mp.mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else mp.mpmathify(value)


def function_of(latex: str, name: str = "x", **others: Value) -> Callable[[Value], Value]:
    """Return a formula as a function of one name."""
    return lambda value: evaluate(latex, {name: value, **others})


def group_at(text: str, start: int) -> tuple[str, int]:
    """Return what stands in the braces that open at a place, and the place behind them."""
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] == "{") - (text[i] == "}")
        if depth == 0:
            return text[start + 1 : i], i + 1
    raise ValueError(f"no end of braces in {text[start:]}")


def right_of(formula: str) -> str:
    """Return a formula without `f(x) =`."""
    return formula.partition("=")[2] if re.match(r"[a-z]\([a-z]\) =", formula) else formula


def check_derivative(problem: Problem) -> bool:
    """Central differences."""
    formula = dollars(problem.problem)[0]
    wrapped = re.fullmatch(r"\\frac\{d\}\{dx\}\((.*)\)", formula)
    function = function_of(wrapped[1] if wrapped else right_of(formula))
    return all(is_near(slope(function, x), evaluate(problem.answer, {"x": x})) for x in PLACES)


def check_antiderivative(problem: Problem) -> bool:
    """Central differences of the answer; it has a constant."""
    formula = dollars(problem.problem)[0]
    integral = re.fullmatch(r"\\int (.*) \\, dx", formula)
    integrand = integral[1] if integral else right_of(formula)
    answer = function_of(problem.answer, C=Fraction(37, 100))
    has_constant = "C" in names_in(problem.answer)
    return has_constant and all(is_near(slope(answer, x), evaluate(integrand, {"x": x})) for x in PLACES)


def check_definite(problem: Problem) -> bool:
    """Mpmath's quadrature."""
    formulas = dollars(problem.problem)
    if formulas[0].startswith(r"\int_"):
        low, place = group_at(formulas[0], formulas[0].index("{"))
        high, place = group_at(formulas[0], place + 1)
        integrand = formulas[0][place:].removesuffix(r"\, dx")
    else:
        integrand, low, high = right_of(formulas[0]), formulas[1], formulas[2]
    function = function_of(integrand)
    found = mp.quad(lambda x: as_mp(function(x)), [as_mp(evaluate(low)), as_mp(evaluate(high))])
    return is_near(found, evaluate(problem.answer))


def limit_at(latex: str, target: str) -> Value:
    """Return the mean of two values near a place, or the value far out."""
    function = function_of(latex)
    if target.endswith(r"\infty"):
        return as_mp(function(Fraction(-(10**9) if target.startswith("-") else 10**9)))
    place, step = evaluate(target), Fraction(1, 10**8)
    with mp.workdps(DIGITS):
        return (as_mp(function(place + step)) + as_mp(function(place - step))) / 2


def split_limit(latex: str) -> tuple[str, str]:
    r"""Part `\lim_{x \to 2} (x + 1)` into the formula and the place."""
    target, place = group_at(latex, latex.index("{"))
    return latex[place:], target.split(r"\to")[1].strip()


def check_limit(problem: Problem) -> bool:
    """Values near the place."""
    formulas = dollars(problem.problem)
    if formulas[0].startswith(r"\lim_"):
        function, target = split_limit(formulas[0])
    else:
        function, target = right_of(formulas[0]), formulas[1].split(r"\to")[1].strip()
    return is_near(limit_at(function, target), evaluate(problem.answer), LIMIT_NEAR)


def check_taylor(problem: Problem) -> bool:
    """What is left of the function is small of a higher order at 0."""
    degree = int(re.search(r"degree (\d)", problem.problem)[1])
    function = function_of(right_of(dollars(problem.problem)[0]))
    polynomial = function_of(problem.answer)
    x = Fraction(1, 10**8)
    with mp.workdps(DIGITS):
        rest = (as_mp(function(x)) - as_mp(polynomial(x))) / as_mp(x) ** degree
    exponents = [int(exponent) for exponent in re.findall(r"x\^\{(\d+)\}", problem.answer)]
    return bool(abs(rest) < 1e-2) and max(exponents, default=0) <= degree


CHECKS = {
    "derivative_product": check_derivative,
    "derivative_quotient": check_derivative,
    "derivative_chain": check_derivative,
    "derivative_functions": check_derivative,
    "derivative_polynomial": check_derivative,
    "integral_functions": check_antiderivative,
    "integral_parts": check_antiderivative,
    "integral_substitution": check_antiderivative,
    "integral_polynomial": check_antiderivative,
    "definite_polynomial": check_definite,
    "definite_function": check_definite,
    "limit_substitution": check_limit,
    "limit_factor": check_limit,
    "limit_infinity": check_limit,
    "limit_hopital": check_limit,
    "taylor_polynomial": check_taylor,
}
