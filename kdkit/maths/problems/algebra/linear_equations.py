"""Linear equations in one unknown."""

import random
import re
from collections.abc import Sequence
from fractions import Fraction
from math import gcd, lcm

from kdkit.maths.latex import Exact, factor, number, polynomial, signed, term, total
from kdkit.maths.problems.proofs import exact, proven, quotient, value_at
from kdkit.maths.problems.template import Parameters, Solved, Template
from kdkit.maths.reading import as_parameters, read_equation, read_statement

WORDS = "equation equations linear solution solutions root roots unknown variable satisfies satisfy"

BRACKET = re.compile(r"(-?\d*)\*?\(([a-z])([+-]\d+)\)([+-]\d+)?")
FRACTIONS = re.compile(r"(?:\\frac\{[a-z]\}\{(\d+)\}|[a-z]/(\d+))([+-])(?:\\frac\{[a-z]\}\{(\d+)\}|[a-z]/(\d+))")


def solve_for(variable: str) -> tuple[str, ...]:
    """Return the usual wordings of an equation."""
    return (
        "Solve $<<equation>>$.",
        f"Solve the equation $<<equation>>$ for ${variable}$.",
        f"Find ${variable}$ such that $<<equation>>$.",
    )


def linear_steps(left: Sequence[int], right: Sequence[int], variable: str) -> tuple[list[str], Exact]:
    """Solve `a x + b = c x + d`; every line is an equation that the solution satisfies, and no other number does."""
    (a, b), (c, d) = left, right
    solution = quotient(d - b, a - c)
    steps = []

    def add(what: str, new_left: Sequence[Exact], new_right: Sequence[Exact]) -> None:
        claim = value_at(new_left, solution) == value_at(new_right, solution) and new_left[0] != new_right[0]
        steps.append(proven(f"{what}: ${polynomial(new_left, variable)} = {polynomial(new_right, variable)}$.", claim))

    if c:
        add(_move(total([(abs(c), variable)]), c > 0), [a - c, b], [0, d])
    if b:
        add(_move(number(abs(b)), b > 0), [a - c, 0], [0, d - b])
    if a - c != 1:
        add(f"Divide both sides by ${number(a - c)}$", [1, 0], [0, solution])
    return steps, solution


def _move(what: str, is_positive: bool) -> str:
    return f"Subtract ${what}$ from both sides" if is_positive else f"Add ${what}$ to both sides"


def _left_side(text: str) -> str:
    """Return what stands left in a statement's only equation, without spaces."""
    equation = next(formula for formula in read_statement(text).formulas if "=" in formula)
    return equation.split("=")[0].replace(" ", "")


class LinearEquation(Template):
    """`a x + b = c x + d` with a x + b on the left."""

    name = "linear_equation"
    domain = "algebra"
    wordings = solve_for("<<variable>>")

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Levels: 1 one step; 2 two steps; 3 the unknown on both sides; 4 larger numbers; 5 fractions."""
        size = {1: 12, 2: 9, 3: 9, 4: 25, 5: 15}[level]
        a = draws.choice([n for n in range(-size, size + 1) if abs(n) > 1])
        b, c = draws.randint(-3 * size, 3 * size), 0
        if level == 1:
            return (
                (1, b, 0, b + draws.randint(-size, size), "x") if b and draws.random() < 0.5 else (a, 0, 0, a * b, "x")
            )
        if level >= 3:
            c = draws.choice([n for n in range(-size, size + 1) if n not in (0, a)])
        b = b or 1
        d = draws.randint(-3 * size, 3 * size) if level == 5 else b + (a - c) * draws.randint(-size, size)
        return a, b, c, d, "x"

    def solve(self, parameters: Parameters) -> Solved:
        """Move the unknown to the left, the numbers to the right, divide."""
        a, b, c, d = map(exact, parameters[:4])
        variable = parameters[4]
        steps, solution = linear_steps((a, b), (c, d), variable)
        equation = f"{polynomial((a, b), variable)} = {polynomial((c, d), variable)}"
        facts = {variable: (number(solution),)}
        words = {"equation": equation, "variable": variable}
        return Solved(words, tuple(steps), number(solution), "values", facts=facts)

    def read(self, text: str) -> Parameters | None:
        """Read an equation between two linear polynomials."""
        found = read_equation(text, WORDS)
        if not found or max(len(found[0]), len(found[1])) > 2:
            return None
        left, right, variable = found
        a, b, c, d = as_parameters([*([0] * 2 + left)[-2:], *([0] * 2 + right)[-2:]])
        return None if a == c else (a, b, c, d, variable)


class LinearEquationWithBrackets(Template):
    """`k (x + b) + m = c x + d`."""

    name = "linear_equation_with_brackets"
    domain = "algebra"
    levels = (2, 3, 4, 5)
    wordings = solve_for("<<variable>>")

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Levels: 2 a bracket alone; 3 and a number; 4 the unknown on both sides; 5 larger numbers, fractions."""
        size = 6 if level < 5 else 12
        k = draws.choice([n for n in range(-size, size + 1) if abs(n) > 1])
        b = draws.choice([n for n in range(-size, size + 1) if n])
        m = draws.choice([n for n in range(-size, size + 1) if n]) if level > 2 else 0
        c = draws.choice([n for n in range(-size, size + 1) if n not in (0, k)]) if level > 3 else 0
        x = draws.randint(-2 * size, 2 * size)
        d = k * (x + b) + m - c * x if level < 5 else draws.randint(-4 * size, 4 * size)
        return k, b, m, c, d, "x"

    def solve(self, parameters: Parameters) -> Solved:
        """Expand the bracket, then as for a linear equation."""
        k, b, m = parameters[:3]
        c, d = map(exact, parameters[3:5])
        variable = parameters[5]
        left, right = [k, k * b + m], [c, d]
        steps, solution = linear_steps(left, right, variable)
        equation = f"{term(k, factor(-b, variable))}{signed(m)} = {polynomial(right, variable)}"
        expanded = f"{polynomial([k, k * b], variable)}{signed(m)}"
        lines = [f"Expand: ${expanded} = {polynomial(right, variable)}$."]
        if m:
            lines.append(f"Collect: ${polynomial(left, variable)} = {polynomial(right, variable)}$.")
        holds = k * (solution + b) + m == value_at(left, solution) == value_at(right, solution)
        first = [proven(line, holds) for line in lines]
        words = {"equation": equation, "variable": variable}
        facts = {variable: (number(solution),)}
        return Solved(words, (*first, *steps), number(solution), "values", facts=facts)

    def read(self, text: str) -> Parameters | None:
        """Read an equation whose left side has this form."""
        found = read_equation(text, WORDS)
        form = found and BRACKET.fullmatch(_left_side(text))
        if not form or len(found[1]) > 2 or found[2] != form[2]:
            return None
        k = int(form[1] + "1" if form[1] in ("", "-") else form[1])
        c, d = as_parameters(([Fraction(0)] * 2 + found[1])[-2:])
        return None if k == c else (k, int(form[3]), int(form[4] or 0), c, d, found[2])


class LinearEquationWithFractions(Template):
    r"""`x/p + x/q = r` or `x/p - x/q = r`."""

    name = "linear_equation_with_fractions"
    domain = "algebra"
    levels = (3, 4, 5)
    wordings = solve_for("<<variable>>")

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Levels: 3 small numbers; 4 larger ones; 5 larger ones, and the solution may be a fraction."""
        size = {3: 6, 4: 10, 5: 12}[level]
        p, q = draws.sample(range(2, size + 1), 2)
        q *= draws.choice((1, -1))
        r = draws.choice([n for n in range(-size, size + 1) if n])
        if level < 5:
            common = lcm(p, q)
            collected = common // p + common // q
            r *= abs(collected) // gcd(common, collected)
        return p, q, r, "x"

    def solve(self, parameters: Parameters) -> Solved:
        """Multiply by the least common multiple, then divide."""
        p, q, r, variable = parameters
        common = lcm(p, q)
        a, b = common // p, common // q
        solution = quotient(r * common, a + b)
        holds = quotient(1, p) * solution + quotient(1, q) * solution == r
        sign = "+" if q > 0 else "-"
        equation = rf"\frac{{{variable}}}{{{p}}} {sign} \frac{{{variable}}}{{{abs(q)}}} = {r}"
        multiplied = f"{total([(a, variable), (b, variable)])} = {r * common}"
        steps = [
            proven(f"Multiply both sides by ${common}$: ${multiplied}$.", holds, a * p == common == b * q),
            proven(f"Collect: ${total([(a + b, variable)])} = {r * common}$.", (a + b) * solution == r * common),
        ]
        if a + b != 1:
            divided = f"Divide both sides by ${a + b}$: ${variable} = {number(solution)}$."
            steps.append(proven(divided, solution * (a + b) == r * common))
        words = {"equation": equation, "variable": variable}
        return Solved(words, tuple(steps), number(solution), "values", facts={variable: (number(solution),)})

    def read(self, text: str) -> Parameters | None:
        """Read an equation of this form."""
        found = read_equation(text, WORDS)
        form = found and FRACTIONS.fullmatch(_left_side(text))
        if not form or len(found[1]) > 1 or found[1][0].denominator != 1:
            return None
        p, q = int(form[1] or form[2]), int(form[3] + (form[4] or form[5]))
        return None if p == -q or 1 in (p, abs(q)) else (p, q, int(found[1][0]), found[2])


TEMPLATES = (LinearEquationWithBrackets, LinearEquationWithFractions, LinearEquation)
