"""Answers in algebra, checked by putting them in, by counting roots and by trying many numbers."""

import random
import re
from fractions import Fraction

import numpy as np

from kdkit.maths.problem import Problem
from kdkit.maths.problems.audit.formulas import (
    Value,
    are_close,
    dollars,
    evaluate,
    holds,
    names_in,
    split_list,
    split_relation,
)

NUM_TRIED = 60
"""Values of n up to which a claim is tried."""


def coefficients(latex: str, name: str = "x", degree: int = 6) -> np.ndarray:
    """Return a polynomial's coefficients, highest degree first: numpy's, through its values at whole numbers."""
    places = np.arange(degree + 1) - degree // 2
    values = [float(evaluate(latex, {name: Fraction(int(place))})) for place in places]
    found = np.round(np.polyfit(places, values, degree), 6)
    nonzero = np.nonzero(found)[0]
    return found[nonzero[0] :] if len(nonzero) else np.zeros(1)


def relation_of(problem: Problem) -> str:
    """Return the statement's first formula with a relation."""
    return next(formula for formula in dollars(problem.problem) if split_relation(formula)[1])


def check_equation(problem: Problem) -> bool:
    """Each value solves the equation, and there are as many as it has real roots."""
    equation = relation_of(problem)
    name = min(names_in(equation))
    values = [evaluate(value) for value in split_list(problem.answer)]
    left, right = split_relation(equation)[0]
    roots = np.roots(coefficients(f"{left} - ({right})", name))
    real = {round(float(root.real), 4) for root in roots if abs(root.imag) < 1e-4}
    is_complete = len(values) == len({round(float(value), 4) for value in values}) == len(real)
    return is_complete and all(holds(equation, {name: value}) for value in values)


def check_system(problem: Problem) -> bool:
    """The point solves all equations, and their numbers are independent."""
    body = re.search(r"\\begin\{cases\}(.*)\\end\{cases\}", problem.problem)[1]
    equations = [line.strip() for line in body.split(r"\\")]
    names = sorted(set().union(*map(names_in, equations)))
    point = [evaluate(value) for value in split_list(problem.answer[1:-1])]
    solved = all(holds(equation, dict(zip(names, point, strict=True))) for equation in equations)
    zero = dict.fromkeys(names, Fraction(0))
    rows = []
    for equation in equations:
        left, right = split_relation(equation)[0]
        at_zero = evaluate(f"{left} - ({right})", zero)
        rows.append([float(evaluate(f"{left} - ({right})", {**zero, name: Fraction(1)}) - at_zero) for name in names])
    return solved and np.linalg.matrix_rank(np.array(rows)) == len(names)


def in_set(latex: str, value: Value) -> bool:
    r"""Return whether a number belongs to a union of intervals: `(-\infty, 1] \cup (2, 3)`."""
    for part in latex.split(r"\cup"):
        opening, low, high, closer = re.fullmatch(r"\s*([(\[])(.*),(.*)([)\]])\s*", part).groups()
        bounds = [None if r"\infty" in end else evaluate(end) for end in (low, high)]
        above = bounds[0] is None or value > bounds[0] or (opening == "[" and value == bounds[0])
        below = bounds[1] is None or value < bounds[1] or (closer == "]" and value == bounds[1])
        if above and below:
            return True
    return False


def check_inequality(problem: Problem) -> bool:
    """Numbers far, near and at the ends are in the set where, and only where, they satisfy the inequality."""
    inequality = relation_of(problem)
    name = min(names_in(inequality))
    ends = [evaluate(end) for end in re.findall(r"[(\[,] *(-?(?:\d+|\\frac\{\d+\}\{\d+\}))", problem.answer)]
    near = [end + step for end in ends for step in (Fraction(-1, 1000), Fraction(0), Fraction(1, 1000))]
    tried = [Fraction(n, 2) for n in range(-120, 121, 3)] + [Fraction(n) for n in (-10000, 10000)]
    return all(holds(inequality, {name: value}) == in_set(problem.answer, value) for value in (*tried, *near))


def same_function(first: str, second: str, seed: str) -> bool:
    """Compare two formulas at five random places."""
    draws = random.Random(seed)
    names = names_in(first) | names_in(second)
    places = [{name: Fraction(draws.randint(-99, 99), draws.randint(1, 9)) for name in sorted(names)} for _ in range(5)]
    return all(are_close(evaluate(first, place), evaluate(second, place)) for place in places)


def check_expanded(problem: Problem) -> bool:
    """The answer is the same function and has no brackets."""
    return same_function(dollars(problem.problem)[0], problem.answer, problem.id) and "(" not in problem.answer


def check_factored(problem: Problem) -> bool:
    """The answer is the same function, and a product of at least two factors with the unknown."""
    factors = re.findall(r"\([^()]*\)(?:\^\{2\})?|[a-z]", problem.answer)
    count = sum(2 if factor.endswith("^{2}") else 1 for factor in factors)
    return same_function(dollars(problem.problem)[0], problem.answer, problem.id) and count == 2


def check_remainder(problem: Problem) -> bool:
    """Numpy divides."""
    over, under = dollars(problem.problem)
    _, rest = np.polydiv(coefficients(over), coefficients(under))
    return abs(float(rest[-1]) - float(evaluate(problem.answer))) < 1e-3


def check_coefficients(problem: Problem) -> bool:
    """With the two numbers both sides agree at random places."""
    first, last = (evaluate(value) for value in split_list(problem.answer[1:-1]))
    places = [Fraction(n, 7) for n in range(-9, 9, 3)]
    return all(holds(relation_of(problem), {"A": first, "B": last, "x": place}) for place in places)


def check_identity(problem: Problem) -> bool:
    """Both sides agree at random places where, and only where, the answer is yes."""
    formulas = dollars(problem.problem)
    sides = split_relation(formulas[0])[0] if split_relation(formulas[0])[1] else formulas[:2]
    return same_function(*sides, problem.id) == (problem.answer == r"\text{yes}")


def check_sum(problem: Problem) -> bool:
    """Add the terms up to n = 8."""
    formula = relation_of(problem)
    start, term = re.search(r"\\sum_\{k=(\d)\}\^\{n\} (.*)", formula).groups()
    total = Fraction(0)
    for n in range(int(start), 9):
        total += evaluate(term, {"k": Fraction(n)})
        if total != evaluate(problem.answer, {"n": Fraction(n)}):
            return False
    return True


def check_divisibility(problem: Problem) -> bool:
    """Divide the first values."""
    formulas = dollars(problem.problem)
    divisor = next(int(formula) for formula in formulas if formula.isdigit())
    expression = next(formula for formula in formulas if "n" in formula and not split_relation(formula)[1])
    start = int(re.search(r"n \\geq (\d)", problem.problem)[1])
    values = [evaluate(expression, {"n": Fraction(n)}) for n in range(start, NUM_TRIED)]
    return all(value % divisor == 0 for value in values) == (problem.answer == r"\text{yes}")


CHECKS = {
    "linear_equation": check_equation,
    "linear_equation_with_brackets": check_equation,
    "linear_equation_with_fractions": check_equation,
    "quadratic_with_rational_roots": check_equation,
    "quadratic_by_formula": check_equation,
    "quadratic_by_completing_the_square": check_equation,
    "linear_system_2": check_system,
    "linear_system_3": check_system,
    "linear_inequality": check_inequality,
    "quadratic_inequality": check_inequality,
    "absolute_value_inequality": check_inequality,
    "expand_product": check_expanded,
    "expand_power": check_expanded,
    "factor_quadratic": check_factored,
    "polynomial_remainder": check_remainder,
    "compare_coefficients": check_coefficients,
    "check_identity": check_identity,
    "induction_sum": check_sum,
    "induction_geometric_sum": check_sum,
    "induction_divisibility": check_divisibility,
    "induction_polynomial_divisibility": check_divisibility,
}
