"""Extrema with one constraint, by a Lagrange multiplier."""

import random
from fractions import Fraction

from kdkit.maths.latex import (
    Exact,
    fraction,
    number,
    powered,
    product,
    split_square,
    surd,
    term,
    total,
)
from kdkit.maths.problems.algebra.polynomials import draw_nonzero
from kdkit.maths.problems.optimisation.statements import Aim, read_aim, read_line, read_quadratic
from kdkit.maths.problems.proofs import proven, quotient
from kdkit.maths.problems.template import Parameters, Solved, Template
from kdkit.maths.reading import read_polynomial

LAMBDA = r"\lambda"
WORDS = "value subject constraint condition under lagrange multiplier multipliers when circle line positive"
WORDINGS = (
    "Find the <<kind>> of $<<function>>$ subject to $<<constraint>>$.",
    "What is the <<kind>> value of $<<function>>$ under the constraint $<<constraint>>$?",
    "Use a Lagrange multiplier to find the <<kind>> of $f(x, y) = <<function>>$ subject to $<<constraint>>$.",
)


def read_constrained(text: str) -> Aim | None:
    """Read a function and exactly one constraint."""
    aim = read_aim(text, WORDS)
    return aim if aim and len(aim.others) == 1 and aim.others[0].count("=") == 1 else None


class LagrangeLine(Template):
    """The minimum of `p x^2 + q y^2` on `a x + b y = c`. Parameters: p, q, a, b, c."""

    name = "lagrange_line"
    domain = "optimisation"
    levels = (2, 3, 4, 5)
    wordings = WORDINGS

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Levels: 2 x^2 + y^2; 3, 4 with numbers before them, larger; 5 fractions."""
        size = {2: 3, 3: 3, 4: 5, 5: 6}[level]
        p, q = (draws.randint(1, size) if level > 2 else 1 for _ in range(2))
        a, b = draw_nonzero(draws, size), draw_nonzero(draws, size)
        if level == 5:
            return p, q, a, b, draw_nonzero(draws, 20)
        return p, q, a, b, (a * a * q + b * b * p) * draw_nonzero(draws, 3)

    def solve(self, parameters: Parameters) -> Solved:
        """The gradients are parallel; the constraint gives the multiplier."""
        p, q, a, b, c = parameters
        weight = quotient(quotient(a * a, 2 * p) + quotient(b * b, 2 * q), 1)
        multiplier = quotient(c, weight)
        per_x, per_y = quotient(a, 2 * p), quotient(b, 2 * q)
        x, y = quotient(multiplier * per_x, 1), quotient(multiplier * per_y, 1)
        value = quotient(p * x * x + q * y * y, 1)
        # along the line (x + b t, y - a t) the value grows by (p b^2 + q a^2) t^2
        is_least = all(
            p * (x + b * t) ** 2 + q * (y - a * t) ** 2 - value == (p * b * b + q * a * a) * t * t for t in (-1, 0, 1)
        )
        is_parallel = 2 * p * x == a * multiplier and 2 * q * y == b * multiplier
        squares = (powered(each, 2) if k == 1 else rf"{k} \cdot {powered(each, 2)}" for k, each in ((p, x), (q, y)))
        steps = (
            proven(
                f"Set ${term(2 * p, 'x')} = {term(a, LAMBDA)}$ and ${term(2 * q, 'y')} = {term(b, LAMBDA)}$.",
                is_parallel,
            ),
            proven(f"So $x = {term(per_x, LAMBDA)}$ and $y = {term(per_y, LAMBDA)}$.", per_x * multiplier == x),
            proven(
                f"Into the constraint: ${term(weight, LAMBDA)} = {c}$, so ${LAMBDA} = {number(multiplier)}$.",
                weight * multiplier == c,
            ),
            proven(f"So $x = {number(x)}$ and $y = {number(y)}$.", a * x + b * y == c),
            proven(f"The value is ${' + '.join(squares)} = {number(value)}$.", is_least),
        )
        function = total([(p, "x^{2}"), (q, "y^{2}")])
        words = {"kind": "minimum", "function": function, "constraint": f"{total([(a, 'x'), (b, 'y')])} = {c}"}
        return Solved(words, steps, number(value), facts=_facts(number(x), number(y), number(multiplier)))

    def read(self, text: str) -> Parameters | None:
        """Read such a minimum with whole numbers."""
        aim = read_constrained(text)
        function, line = (read_quadratic(aim.function), read_line(aim.others[0])) if aim else (None, None)
        if not function or not line or aim.kind != "minimum":
            return None
        p, xy, q, *rest = function
        a, b, c = line
        is_such = p > 0 and q > 0 and not xy and not any(rest) and a and b and c
        return (p, q, int(a), int(b), int(c)) if is_such and all(each.denominator == 1 for each in line) else None


class LagrangeCircle(Template):
    """The minimum or maximum of `a x + b y` on `x^2 + y^2 = c`. Parameters: which, a, b, c."""

    name = "lagrange_circle"
    domain = "optimisation"
    levels = (3, 4, 5)
    wordings = WORDINGS

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Levels: 3, 4 whole solutions, ever larger; 5 roots."""
        size = {3: 4, 4: 8, 5: 6}[level]
        a, b = draw_nonzero(draws, size), draw_nonzero(draws, size)
        c = draws.randint(1, 30) if level == 5 else (a * a + b * b) * draws.randint(1, 4) ** 2
        return draws.choice(("minimum", "maximum")), a, b, c

    def solve(self, parameters: Parameters) -> Solved:
        """The gradients are parallel; the constraint gives the multiplier up to its sign."""
        kind, a, b, c = parameters
        sign = 1 if kind == "maximum" else -1
        squares = a * a + b * b
        outside, inside = split_square(c * squares)
        # x, y, the multiplier and the value in units of the root of `inside`
        x, y = Fraction(sign * a * outside, squares), Fraction(sign * b * outside, squares)
        multiplier, value = Fraction(sign * outside, 2 * c), Fraction(sign * outside)
        is_parallel = 2 * multiplier * x * inside == a and 2 * multiplier * y * inside == b
        is_on_circle = (x * x + y * y) * inside == c
        # nothing on the circle is larger: (a x + b y)^2 <= (a^2 + b^2) c
        is_extremum = value**2 * inside == squares * c and a * x + b * y == value
        named = {"x": x, "y": y, LAMBDA: multiplier, "value": value}
        texts = {name: _root_times(each, inside) for name, each in named.items()}
        least = ">" if sign > 0 else "<"
        halves = [fraction(number(quotient(each, 2).numerator), _under(quotient(each, 2))) for each in (a, b)]
        steps = (
            proven(rf"Set ${a} = 2{LAMBDA} x$ and ${b} = 2{LAMBDA} y$.", is_parallel),
            proven(f"So $x = {halves[0]}$ and $y = {halves[1]}$.", is_parallel),
            proven(
                rf"Into the constraint: $\frac{{{squares}}}{{4{LAMBDA}^{{2}}}} = {c}$, so"
                f" ${LAMBDA}^{{2}} = {number(quotient(squares, 4 * c))}$.",
                multiplier**2 * inside == quotient(squares, 4 * c),
                is_on_circle,
            ),
            proven(f"The {kind} has ${LAMBDA} {least} 0$: ${LAMBDA} = {texts[LAMBDA]}$.", sign * multiplier > 0),
            proven(f"So $x = {texts['x']}$ and $y = {texts['y']}$.", is_on_circle, is_parallel),
            proven(f"The value is ${total([(a, 'x'), (b, 'y')])} = {texts['value']}$.", is_extremum),
        )
        words = {"kind": kind, "function": total([(a, "x"), (b, "y")]), "constraint": f"x^{{2}} + y^{{2}} = {c}"}
        return Solved(words, steps, texts["value"], facts=_facts(texts["x"], texts["y"], texts[LAMBDA]))

    def read(self, text: str) -> Parameters | None:
        """Read such an extremum with whole numbers."""
        aim = read_constrained(text)
        if not aim:
            return None
        function = read_polynomial(aim.function, "xy")
        left, right = aim.others[0].split("=")
        circle, size = read_quadratic(left), right.strip()
        is_circle = circle == [1, 0, 1, 0, 0, 0] and size.isdigit() and 0 < int(size) < 10**6
        if (
            not function
            or not is_circle
            or any(sum(powers) != 1 or v.denominator != 1 for powers, v in function.items())
        ):
            return None
        x, y = function.ring.gens
        a, b = int(function.coeff(x)), int(function.coeff(y))
        return (aim.kind, a, b, int(size)) if a and b else None


def _under(half: Exact) -> str:
    """Write the multiplier times a fraction's denominator."""
    return term(half.denominator, LAMBDA)


def _root_times(value: Fraction, inside: int) -> str:
    """Write a fraction times the root of a number without square factors."""
    return number(value) if inside == 1 else surd(0, value.numerator, inside, value.denominator)


class LagrangeProduct(Template):
    """The maximum of `x y` for positive x and y on `a x + b y = c`. Parameters: a, b, c, all positive."""

    name = "lagrange_product"
    domain = "optimisation"
    levels = (1, 2, 3, 4)
    wordings = (
        "Find the <<kind>> of $<<function>>$ subject to $<<constraint>>$ with positive $x$ and $y$.",
        "What is the <<kind>> value of $<<function>>$ for positive $x$ and $y$ under the constraint $<<constraint>>$?",
    )

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Levels: 1 x + y; 2, 3 with numbers before them, larger; 4 fractions."""
        size = {1: 1, 2: 4, 3: 9, 4: 9}[level]
        a, b = draws.randint(1, size), draws.randint(1, size)
        return a, b, draws.randint(1, 99) if level == 4 else 2 * a * b * draws.randint(1, 60 if level == 1 else 9)

    def solve(self, parameters: Parameters) -> Solved:
        """The gradients are parallel; the constraint gives the multiplier."""
        a, b, c = parameters
        multiplier = quotient(c, 2 * a * b)
        x, y = quotient(b * multiplier, 1), quotient(a * multiplier, 1)
        value = quotient(x * y, 1)
        # along the line (x + b t, y - a t) the product falls by a b t^2
        is_greatest = all((x + b * t) * (y - a * t) - value == -a * b * t * t for t in (-1, 0, 1))
        steps = (
            proven(
                f"Set $y = {term(a, LAMBDA)}$ and $x = {term(b, LAMBDA)}$.", y == a * multiplier, x == b * multiplier
            ),
            proven(
                f"Into the constraint: ${term(2 * a * b, LAMBDA)} = {c}$, so ${LAMBDA} = {number(multiplier)}$.",
                2 * a * b * multiplier == c,
            ),
            proven(f"So $x = {number(x)}$ and $y = {number(y)}$.", a * x + b * y == c),
            proven(f"The value is ${product([x, y])} = {number(value)}$.", is_greatest),
        )
        words = {"kind": "maximum", "function": "xy", "constraint": f"{total([(a, 'x'), (b, 'y')])} = {c}"}
        return Solved(words, steps, number(value), facts=_facts(number(x), number(y), number(multiplier)))

    def read(self, text: str) -> Parameters | None:
        """Read such a maximum with positive whole numbers."""
        aim = read_constrained(text)
        function, line = (read_quadratic(aim.function), read_line(aim.others[0])) if aim else (None, None)
        if function != [0, 1, 0, 0, 0, 0] or not line or aim.kind != "maximum":
            return None
        is_such = all(each > 0 and each.denominator == 1 for each in line)
        return tuple(int(each) for each in line) if is_such else None


def _facts(x: str, y: str, multiplier: str) -> dict[str, tuple[str, ...]]:
    return {"x": (x,), "y": (y,), LAMBDA: (multiplier,)}


TEMPLATES = (LagrangeLine, LagrangeProduct, LagrangeCircle)
