"""Inequalities in one unknown: linear, quadratic, with absolute values."""

import random
from collections.abc import Sequence
from fractions import Fraction

from kdkit.maths.latex import Exact, number, polynomial
from kdkit.maths.problems.algebra.quadratic_equations import linear_factors, rational_roots
from kdkit.maths.problems.proofs import exact, proven, quotient, times, value_at
from kdkit.maths.problems.template import Parameters, Solved, Template
from kdkit.maths.reading import as_parameters, letters_of, read_coefficients, read_statement

WORDS = (
    "inequality inequalities solution set solutions linear quadratic absolute satisfies satisfy holds true interval"
    " unknown variable"
)
SIGNS = ("<", r"\leq", ">", r"\geq")
FLIPPED = {"<": ">", r"\leq": r"\geq", ">": "<", r"\geq": r"\leq"}
INFINITY = r"\infty"
NEAR = Fraction(1, 100)
"""How close to its border a set of solutions is tried."""
WORDINGS = (
    "Solve the inequality $<<inequality>>$.",
    "Solve $<<inequality>>$ for $<<variable>>$.",
    "Find all $<<variable>>$ with $<<inequality>>$.",
)


def compares(left: Exact, sign: str, right: Exact) -> bool:
    """Return whether two numbers are in this order."""
    return {"<": left < right, r"\leq": left <= right, ">": left > right, r"\geq": left >= right}[sign]


def agrees(
    left: Sequence[Exact], sign: str, right: Sequence[Exact], inside: Sequence[Exact], outside: Sequence[Exact]
) -> bool:
    """Return whether an inequality between polynomials holds at all points inside a set, and at none outside."""
    tried = [compares(value_at(left, x), sign, value_at(right, x)) for x in (*inside, *outside)]
    return tried == [True] * len(inside) + [False] * len(outside)


def interval(low: str, high: str, is_closed: bool) -> str:
    r"""Write an interval: `(-\infty, 3]`; its finite ends belong to it or not."""
    opening = "[" if is_closed and low != f"-{INFINITY}" else "("
    closer = "]" if is_closed and high != INFINITY else ")"
    return f"{opening}{low}, {high}{closer}"


def between_or_outside(low: str, high: str, is_closed: bool, is_between: bool) -> str:
    """Write the interval between two borders, or the union of the two outside."""
    if is_between:
        return interval(low, high, is_closed)
    return rf"{interval(f'-{INFINITY}', low, is_closed)} \cup {interval(high, INFINITY, is_closed)}"


def points_as_facts(variable: str, points: Sequence[Exact]) -> dict[str, tuple[str, ...]]:
    """Return solutions near the border, where a wrong step shows."""
    return {variable: tuple(number(each) for each in points)}


class LinearInequality(Template):
    r"""`a x + b < c x + d`; the sign of order may be any."""

    name = "linear_inequality"
    domain = "algebra"
    wordings = WORDINGS

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Levels: 1 positive factor; 2 any factor; 3 both sides; 4 larger numbers; 5 fractions."""
        size = {1: 9, 2: 9, 3: 9, 4: 20, 5: 12}[level]
        a = draws.choice([n for n in range(-size, size + 1) if abs(n) > 1 and (n > 0 or level > 1)])
        b = draws.choice([n for n in range(-2 * size, 2 * size + 1) if n])
        c = draws.choice([n for n in range(-size, size + 1) if n not in (0, a)]) if level > 2 else 0
        d = draws.randint(-3 * size, 3 * size) if level == 5 else b + (a - c) * draws.randint(-size, size)
        return a, b, draws.choice(SIGNS), c, d, "x"

    def solve(self, parameters: Parameters) -> Solved:
        """As an equation; dividing by a negative number turns the sign."""
        (a, b), sign, (c, d) = map(exact, parameters[:2]), parameters[2], map(exact, parameters[3:5])
        variable = parameters[5]
        border = quotient(d - b, a - c)
        final = sign if a > c else FLIPPED[sign]
        side = -1 if final in ("<", r"\leq") else 1
        inside = [border + side * each for each in (NEAR, 1, 100)]
        outside = [border - side * each for each in (NEAR, 1, 100)]
        (inside if sign in (r"\leq", r"\geq") else outside).append(border)
        lines = []
        if c:
            lines.append((f"Bring ${polynomial([c, 0], variable)}$ to the left", [a - c, b], sign, [d]))
        if b:
            lines.append((f"Bring ${number(b)}$ to the right", [a - c, 0], sign, [d - b]))
        if a - c != 1:
            turned = ", which turns the sign" if a < c else ""
            lines.append((f"Divide by ${number(a - c)}${turned}", [1, 0], final, [border]))
        steps = [
            proven(
                f"{what}: ${polynomial(left, variable)} {order} {polynomial(right, variable)}$.",
                agrees(left, order, right, inside, outside),
            )
            for what, left, order, right in lines
        ]
        shown = f"{polynomial([a, b], variable)} {sign} {polynomial([c, d], variable)}"
        proven(shown, agrees([a, b], sign, [c, d], inside, outside))
        ends = (f"-{INFINITY}", number(border)) if side < 0 else (number(border), INFINITY)
        answer = interval(*ends, sign in (r"\leq", r"\geq"))
        words = {"inequality": shown, "variable": variable}
        return Solved(words, tuple(steps), answer, "set", facts=points_as_facts(variable, inside))

    def read(self, text: str) -> Parameters | None:
        """Read an inequality between linear polynomials."""
        found = _read(text)
        if not found or max(len(found[0]), len(found[2])) > 2:
            return None
        a, b = as_parameters(([Fraction(0)] + found[0])[-2:])
        c, d = as_parameters(([Fraction(0)] + found[2])[-2:])
        return None if a == c else (a, b, found[1], c, d, found[3])


class QuadraticInequality(Template):
    r"""`a x^2 + b x + c < 0` with two rational zeros; the sign of order may be any."""

    name = "quadratic_inequality"
    domain = "algebra"
    levels = (2, 3, 4, 5)
    wordings = WORDINGS

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Levels: 2 small whole zeros; 3 larger ones; 4 a leading number; 5 it may be negative."""
        size = {2: 5, 3: 10, 4: 6, 5: 8}[level]
        a = draws.randint(2, 4) if level > 3 else 1
        a *= draws.choice((1, -1)) if level == 5 else 1
        first, last = draws.randint(-size, size), draws.randint(-size, size)
        while last == a * first:
            last = draws.randint(-size, size)
        return *times([1, -first], [a, -last]), draws.choice(SIGNS), "x"

    def solve(self, parameters: Parameters) -> Solved:
        """Find the zeros; between them the parabola lies on one side of the axis."""
        *normal, sign, variable = parameters
        roots = rational_roots(normal)
        low, high = roots
        factors, is_product = linear_factors(normal, roots, variable)
        wants_positive = sign in (">", r"\geq")
        is_between = wants_positive == (normal[0] < 0)
        middle = [low + (high - low) * each for each in (NEAR, Fraction(1, 2), 1 - NEAR)]
        outer = [low - 1, low - NEAR, high + NEAR, high + 1]
        inside, outside = (middle, outer) if is_between else (outer, middle)
        is_closed = sign in (r"\leq", r"\geq")
        (inside if is_closed else outside).extend(roots)
        texts = [number(each) for each in roots]
        opens = "upwards" if normal[0] > 0 else "downwards"
        kind = "positive" if wants_positive else "negative"
        equal = r"\leq" if is_closed else "<"
        if is_between:
            where = f"between its zeros: ${texts[0]} {equal} {variable} {equal} {texts[1]}$"
        else:
            more = r"\geq" if is_closed else ">"
            where = f"outside its zeros: ${variable} {equal} {texts[0]}$ or ${variable} {more} {texts[1]}$"
        quadratic = polynomial(normal, variable)
        vanishes = all(value_at(normal, each) == 0 for each in roots)
        steps = [
            proven(f"Factor: ${quadratic} = {factors}$.", is_product),
            proven(f"The zeros are ${texts[0]}$ and ${texts[1]}$.", vanishes, low < high),
            proven(
                f"The parabola opens {opens}, so it is {kind} {where}.",
                agrees(normal, sign, [0], inside, outside),
            ),
        ]
        words = {"inequality": f"{quadratic} {sign} 0", "variable": variable}
        answer = between_or_outside(*texts, is_closed, is_between)
        return Solved(words, tuple(steps), answer, "set", facts=points_as_facts(variable, inside))

    def read(self, text: str) -> Parameters | None:
        """Read an inequality of degree 2 whose two zeros are rational; all is brought to the left."""
        found = _read(text)
        if not found:
            return None
        left, sign, right, variable = found
        width = max(len(left), len(right))
        sides = ([Fraction(0)] * (width - len(side)) + side for side in (left, right))
        moved = as_parameters([a - b for a, b in zip(*sides, strict=True)])
        if width != 3 or not moved[0] or not all(isinstance(each, int) for each in moved):
            return None
        a, b, c = moved
        discriminant = b * b - 4 * a * c
        is_rational = discriminant > 0 and value_at(moved, rational_roots(moved)[0]) == 0
        return (*moved, sign, variable) if is_rational else None


class AbsoluteValueInequality(Template):
    r"""`|a x + b| < c` or `> c`, strict or not, with c positive."""

    name = "absolute_value_inequality"
    domain = "algebra"
    levels = (2, 3, 4, 5)
    wordings = WORDINGS

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Levels: 2 |x + b|; 3 larger numbers; 4 a factor; 5 the borders may be fractions."""
        size = {2: 6, 3: 15, 4: 8, 5: 12}[level]
        a = draws.randint(2, 5) if level > 3 else 1
        b = draws.choice([n for n in range(-size, size + 1) if n]) * (a if level == 4 else 1)
        return a, b, draws.choice(SIGNS), draws.randint(1, size) * (a if level == 4 else 1), "x"

    def solve(self, parameters: Parameters) -> Solved:
        """Less than c: between -c and c. More than c: outside."""
        a, b, sign, c, variable = parameters
        low, high = quotient(-c - b, a), quotient(c - b, a)
        is_closed, is_between = sign in (r"\leq", r"\geq"), sign in ("<", r"\leq")
        middle = [low + NEAR * c / a, quotient(low + high, 2), high - NEAR * c / a]
        outer = [low - 1, low - NEAR, high + NEAR, high + 1]
        inside, outside = (middle, outer) if is_between else (outer, middle)
        (inside if is_closed else outside).extend((low, high))
        verb = f"Subtract ${b}$" if b > 0 else f"Add ${-b}$"
        lines = [("This means", [a, b], -c, c)]
        if b:
            lines.append((f"{verb}:", [a, 0], -c - b, c - b))
        if a > 1:
            lines.append((f"Divide by ${a}$:", [1, 0], low, high))
        steps = []
        for what, shown, least, most in lines:
            middle_side, borders = polynomial(shown, variable), (number(least), number(most))
            if is_between:
                step = f"{what} ${borders[0]} {sign} {middle_side} {sign} {borders[1]}$."
                holds = agrees(shown, sign, [most], inside, []) and agrees([least], sign, shown, inside, [])
                fails = not any(compares(least, sign, y) and compares(y, sign, most) for y in _values(shown, outside))
            else:
                less = FLIPPED[sign]
                step = f"{what} ${middle_side} {less} {borders[0]}$ or ${middle_side} {sign} {borders[1]}$."
                holds = all(compares(y, less, least) or compares(y, sign, most) for y in _values(shown, inside))
                fails = not any(compares(y, less, least) or compares(y, sign, most) for y in _values(shown, outside))
            steps.append(proven(step, holds, fails))
        tried = [compares(abs(value_at([a, b], x)), sign, c) for x in (*inside, *outside)]
        proven("the statement", tried == [True] * len(inside) + [False] * len(outside))
        linear, answer = (
            polynomial([a, b], variable),
            between_or_outside(number(low), number(high), is_closed, is_between),
        )
        words = {"inequality": f"|{linear}| {sign} {c}", "variable": variable}
        return Solved(words, tuple(steps), answer, "set", facts=points_as_facts(variable, inside))

    def read(self, text: str) -> Parameters | None:
        """Read an inequality of this form with whole numbers."""
        split = _split(text)
        if not split:
            return None
        left, sign, right, variable = split
        bars = left.strip().replace(r"\lvert", "|").replace(r"\rvert", "|").replace(r"\vert", "|")
        if not (bars.startswith("|") and bars.endswith("|") and bars.count("|") == 2):
            return None
        linear, bound = read_coefficients(bars[1:-1], variable), read_coefficients(right, variable)
        if not linear or not bound or len(linear) != 2 or len(bound) != 1 or linear[0] <= 0 or bound[0] <= 0:
            return None
        a, b, c = as_parameters([*linear, *bound])
        return (a, b, sign, c, variable) if all(isinstance(each, int) for each in (a, b, c)) else None


def _values(coefficients: Sequence[Exact], points: Sequence[Exact]) -> list[Exact]:
    return [value_at(coefficients, x) for x in points]


def _split(text: str) -> tuple[str, str, str, str] | None:
    """Read the one inequality of a statement: left side, sign, right side, unknown."""
    statement = read_statement(text)
    found = [formula for formula in statement.formulas if any(sign in formula for sign in SIGNS)]
    if not statement.fits(WORDS) or len(found) != 1:
        return None
    letters = letters_of(found[0])
    others = [formula for formula in statement.formulas if formula != found[0]]
    signs = [sign for sign in SIGNS if sign in found[0]]
    if (
        len(letters) != 1
        or len(signs) != 1
        or found[0].count(signs[0]) != 1
        or any(each != letters[0] for each in others)
    ):
        return None
    left, right = found[0].split(signs[0])
    return left, signs[0], right, letters[0]


def _read(text: str) -> tuple[list[Fraction], str, list[Fraction], str] | None:
    """Read an inequality between polynomials."""
    split = _split(text)
    if not split:
        return None
    left, sign, right, variable = split
    sides = read_coefficients(left, variable), read_coefficients(right, variable)
    return None if None in sides else (sides[0], sign, sides[1], variable)


TEMPLATES = (LinearInequality, QuadraticInequality, AbsoluteValueInequality)
