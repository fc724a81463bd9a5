"""Extrema and kinds of critical points of quadratics in two variables."""

import random

from kdkit.maths.latex import Exact, join, number, term, total
from kdkit.maths.problems.optimisation.statements import read_aim, read_quadratic, write_quadratic
from kdkit.maths.problems.proofs import proven, quotient
from kdkit.maths.problems.template import Parameters, Solved, Template
from kdkit.maths.reading import read_statement


def draw_quadratic(draws: random.Random, level: int, wants_saddle: bool) -> Parameters:
    """Draw a quadratic with its critical point at whole numbers."""
    size = {1: 1, 2: 3, 3: 2, 4: 4, 5: 6}[level]
    while True:
        a, c = draws.randint(1, size), draws.randint(1, size)
        b = draws.randint(-size, size) if level > 2 else 0
        if wants_saddle:
            c, b = -c if draws.random() < 0.5 else c, b + (3 if level > 2 else 0)
        elif draws.random() < 0.3 and level > 1:
            a, b, c = -a, -b, -c
        discriminant = 4 * a * c - b * b
        if (discriminant < 0) if wants_saddle else (discriminant > 0):
            break
    x, y = draws.randint(-size - 2, size + 2), draws.randint(-size - 2, size + 2)
    return a, b, c, -2 * a * x - b * y, -b * x - 2 * c * y, draws.randint(-9, 9)


def value_of(quadratic: Parameters, x: Exact, y: Exact) -> Exact:
    """Return the value at a point."""
    a, b, c, d, e, k = quadratic
    return a * x * x + b * x * y + c * y * y + d * x + e * y + k


def find_critical(quadratic: Parameters) -> tuple[Exact, Exact, list[str]]:
    """Return the critical point and the steps that lead there."""
    a, b, c, d, e, _ = quadratic
    discriminant = 4 * a * c - b * b
    x, y = quotient(b * e - 2 * c * d, discriminant), quotient(b * d - 2 * a * e, discriminant)
    along_x, along_y = total([(2 * a, "x"), (b, "y"), (d, "")]), total([(b, "x"), (2 * c, "y"), (e, "")])
    # a quadratic's slope is its central difference, of any width
    is_gradient = all(
        value_of(quadratic, p + 1, q) - value_of(quadratic, p - 1, q) == 2 * (2 * a * p + b * q + d)
        and value_of(quadratic, p, q + 1) - value_of(quadratic, p, q - 1) == 2 * (b * p + 2 * c * q + e)
        for p, q in ((0, 0), (1, 0), (0, 1))
    )
    is_zero = 2 * a * x + b * y + d == 0 and b * x + 2 * c * y + e == 0
    steps = [proven(f"The gradient is zero: ${along_x} = 0$ and ${along_y} = 0$.", is_gradient, is_zero)]
    if b:
        eliminated = f"Eliminate $y$: ${term(discriminant, 'x')} = {number(discriminant * x)}$."
        # 2 c times the first less b times the second
        steps.append(proven(eliminated, 2 * c * d - b * e == -discriminant * x))
    steps.append(proven(f"So $x = {number(x)}$ and $y = {number(y)}$.", is_zero))
    return x, y, steps


def curvature(quadratic: Parameters) -> tuple[str, int]:
    """Write the determinant of the second derivatives and its sign; return it too."""
    a, b, c, *_ = quadratic
    value = 4 * a * c - b * b
    shown = rf"{number(2 * a)} \cdot {number(2 * c) if c > 0 else f'({2 * c})'} - {b if b >= 0 else f'({b})'}^{{2}}"
    return proven(f"${shown} = {value} {'>' if value > 0 else '<'} 0$", 2 * a * 2 * c - b**2 == value), value


def is_sum_of_squares(quadratic: Parameters, x: Exact, y: Exact) -> bool:
    """Return whether 4 a times the change from (x, y) is (2 a p + b q)^2 + (4 a c - b^2) q^2: nine places decide."""
    a, b, c, *_ = quadratic
    value = value_of(quadratic, x, y)
    return all(
        4 * a * (value_of(quadratic, x + p, y + q) - value) == (2 * a * p + b * q) ** 2 + (4 * a * c - b * b) * q * q
        for p in (-1, 0, 1)
        for q in (-1, 0, 1)
    )


class QuadraticExtremum2(Template):
    """The minimum or maximum of `a x^2 + b xy + c y^2 + d x + e y + k`."""

    name = "quadratic_extremum_2"
    domain = "optimisation"
    wordings = (
        "Find the <<kind>> value of $f(x, y) = <<function>>$.",
        "What is the <<kind>> of $f(x, y) = <<function>>$?",
    )

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Levels: 1, 2 without xy; 3 to 5 with it, ever larger numbers."""
        return draw_quadratic(draws, level, wants_saddle=False)

    def solve(self, parameters: Parameters) -> Solved:
        """Zero of the gradient; the second derivatives say which it is."""
        a, b, c, d, e, k = parameters
        x, y, steps = find_critical(parameters)
        value = value_of(parameters, x, y)
        kind = "minimum" if a > 0 else "maximum"
        shown, bend = curvature(parameters)
        line = f"{shown} and ${2 * a} {'>' if a > 0 else '<'} 0$, so this is the {kind}."
        is_kind = bend > 0 and is_sum_of_squares(parameters, x, y)
        steps.append(proven(line, is_kind))
        terms = [a * x * x, b * x * y, c * y * y, d * x, e * y, k]
        put = join(number(each) for each in terms)
        at = f"f({number(x)}, {number(y)})"
        shown_value = f"{put} = {number(value)}" if put != number(value) else put
        steps.append(proven(f"${at} = {shown_value}$.", sum(terms) == value))
        words = {"kind": kind, "function": write_quadratic(parameters)}
        facts = {"x": (number(x),), "y": (number(y),), at: (number(value),), "f(x, y)": (write_quadratic(parameters),)}
        return Solved(words, tuple(steps), number(value), facts=facts)

    def read(self, text: str) -> Parameters | None:
        """Read a quadratic in x and y with whole numbers and its kind of extremum."""
        aim = read_aim(text, "value quadratic two variables")
        function = read_quadratic(aim.function) if aim and not aim.others else None
        if not function:
            return None
        a, b, c, *_ = function
        return tuple(function) if 4 * a * c > b * b and (a > 0) == (aim.kind == "minimum") else None


class ClassifyCriticalPoint(Template):
    """Minimum, maximum or saddle point of a quadratic in two variables."""

    name = "classify_critical_point"
    domain = "optimisation"
    levels = (2, 3, 4, 5)
    wordings = (
        "Is the critical point of $f(x, y) = <<function>>$ a minimum, a maximum or a saddle point?",
        "Classify the critical point of $f(x, y) = <<function>>$: minimum, maximum or saddle point.",
    )

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Half of them are saddle points. Levels: 2 without xy; 3 to 5 with it, ever larger numbers."""
        return draw_quadratic(draws, level, wants_saddle=draws.random() < 0.5)

    def solve(self, parameters: Parameters) -> Solved:
        """Zero of the gradient, then the determinant of the second derivatives."""
        x, y, steps = find_critical(parameters)
        a, b, c, *_ = parameters
        shown, bend = curvature(parameters)
        value = value_of(parameters, x, y)
        if bend < 0:
            kind, line = "saddle point", f"{shown}, so it is a saddle point."
            directions = ((1, 0), (b, -2 * a), (0, 1), (-2 * c, b), (1, 1), (1, -1))
            changes = [value_of(parameters, x + p, y + q) - value for p, q in directions]
            holds = min(changes) < 0 < max(changes)
        else:
            kind = "minimum" if a > 0 else "maximum"
            line = f"{shown} and ${2 * a} {'>' if a > 0 else '<'} 0$, so it is a {kind}."
            holds = is_sum_of_squares(parameters, x, y)
        steps.append(proven(line, holds, bend == 4 * a * c - b * b))
        facts = {"x": (number(x),), "y": (number(y),), "f(x, y)": (write_quadratic(parameters),)}
        words = {"function": write_quadratic(parameters)}
        return Solved(words, tuple(steps), rf"\text{{{kind}}}", "statement", facts=facts)

    def read(self, text: str) -> Parameters | None:
        """Read such a question for a quadratic with whole numbers."""
        statement = read_statement(text)
        words = "critical point minimum maximum saddle function stationary kind type"
        functions = [formula.partition("=")[2] or formula for formula in statement.formulas if "^" in formula]
        if not statement.fits(words, "classify saddle kind type") or len(functions) != 1:
            return None
        function = read_quadratic(functions[0])
        return tuple(function) if function and 4 * function[0] * function[2] != function[1] ** 2 else None


TEMPLATES = (ClassifyCriticalPoint, QuadraticExtremum2)
