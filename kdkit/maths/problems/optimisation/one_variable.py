"""Extrema of polynomials in one variable."""

import random
import re
from collections.abc import Sequence

from kdkit.maths.latex import Exact, join, number, polynomial, polynomial_at
from kdkit.maths.problems.algebra.polynomials import draw_nonzero
from kdkit.maths.problems.algebra.quadratic_equations import either, linear_factors, rational_roots
from kdkit.maths.problems.optimisation.statements import read_aim, read_whole
from kdkit.maths.problems.proofs import derivative, proven, quotient, times, value_at
from kdkit.maths.problems.template import Parameters, Solved, Template


def derivative_step(coefficients: Sequence[int]) -> str:
    """Write the derivative; five places decide up to degree 5."""
    slope = derivative(coefficients)
    is_slope = all(_slope_at(coefficients, x) == value_at(slope, x) for x in range(5))
    return proven(f"$f'(x) = {polynomial(slope)}$.", is_slope)


def _slope_at(coefficients: Sequence[Exact], x: Exact) -> Exact:
    """Return a derivative's value as Horner's scheme has it, run twice: not by the power rule."""
    value, slope = coefficients[0], 0
    for coefficient in coefficients[1:]:
        slope = slope * x + value
        value = value * x + coefficient
    return slope


def evaluate_step(coefficients: Sequence[Exact], x: Exact) -> str:
    r"""Write the value at a place: `$f(2) = 2^{2} - 4 \cdot 2 + 1 = -3$`."""
    value = value_at(coefficients, x)
    degree = len(coefficients) - 1
    summed = sum(coefficient * x ** (degree - i) for i, coefficient in enumerate(coefficients))
    put, shown = polynomial_at(coefficients, x), number(value)
    return proven(f"$f({number(x)}) = {put if put == shown else f'{put} = {shown}'}$", summed == value)


def facts_of(coefficients: Sequence[Exact], places: Sequence[Exact], *critical: Exact) -> dict[str, tuple[str, ...]]:
    """Return what f, its derivatives, its values at places and x stand for."""
    slope = derivative(coefficients)
    named = {"f(x)": coefficients, "f'(x)": slope, "f''(x)": derivative(slope)}
    facts = {name: (polynomial(each),) for name, each in named.items()}
    facts |= {f"f({number(x)})": (number(value_at(coefficients, x)),) for x in places}
    return facts | {"x": tuple(number(x) for x in critical)}


class QuadraticExtremum(Template):
    """The minimum or maximum of `a x^2 + b x + c`."""

    name = "quadratic_extremum"
    domain = "optimisation"
    wordings = (
        "Find the <<kind>> value of $f(x) = <<function>>$.",
        "What is the <<kind>> of $f(x) = <<function>>$?",
        "Let $f(x) = <<function>>$. Find the <<kind>> of $f(x)$.",
    )

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Levels: 1 x^2 with a minimum; 2 either; 3, 4 a leading number, larger ones; 5 fractions."""
        size = {1: 6, 2: 9, 3: 5, 4: 9, 5: 9}[level]
        a = draws.choice((1, -1) if level > 1 else (1,)) * (1 if level < 3 else draws.randint(2, 6))
        b = draws.randint(-2 * size, 2 * size) if level == 5 else 2 * a * draw_nonzero(draws, size)
        return a, b, draws.randint(-3 * size, 3 * size)

    def solve(self, parameters: Parameters) -> Solved:
        """The derivative's zero; the second derivative says which it is."""
        a, b, _ = parameters
        place = quotient(-b, 2 * a)
        value = value_at(parameters, place)
        kind, sign = ("minimum", ">") if a > 0 else ("maximum", "<")
        # f(x) - f(place) = a (x - place)^2
        rest = [one - other for one, other in zip(parameters, [0, 0, value], strict=True)]
        is_extremum = rest == [a * each for each in times([1, -place], [1, -place])]
        zero = f"${polynomial([2 * a, b])} = 0$"
        steps = (
            derivative_step(parameters),
            proven(f"It is zero where {zero}, so $x = {number(place)}$.", value_at([2 * a, b], place) == 0),
            proven(f"$f''(x) = {2 * a} {sign} 0$, so this is the {kind}.", is_extremum, (2 * a > 0) == (sign == ">")),
            f"{evaluate_step(parameters, place)}.",
        )
        words = {"kind": kind, "function": polynomial(parameters)}
        return Solved(words, steps, number(value), facts=facts_of(parameters, [place], place))

    def read(self, text: str) -> Parameters | None:
        """Read a quadratic with whole numbers and its kind of extremum."""
        aim = read_aim(text, "value quadratic parabola vertex")
        function = read_whole(aim.function) if aim and not aim.others else None
        if not function or len(function) != 3 or (function[0] > 0) != (aim.kind == "minimum"):
            return None
        return tuple(function)


class CubicExtremum(Template):
    """A local minimum or maximum of a cubic. Parameters: which, then the coefficients."""

    name = "cubic_extremum"
    domain = "optimisation"
    levels = (2, 3, 4, 5)
    wordings = (
        "Find the local <<kind>> value of $f(x) = <<function>>$.",
        "What is the local <<kind>> of $f(x) = <<function>>$?",
    )

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Levels: 2 to 4 ever larger numbers; 5 the cubic may fall."""
        size, scale = {2: (2, 1), 3: (4, 1), 4: (6, 2), 5: (5, 3)}[level]
        first, last = draws.sample(range(-size, size + 1), 2)
        a = draws.randint(1, scale) * (draws.choice((1, -1)) if level == 5 else 1)
        # the derivative is 3 a (x - p)(x - q); an even p + q keeps the coefficients whole
        last += (first + last) % 2
        if first == last:
            last += 2
        cubic = a, -3 * a * (first + last) // 2, 3 * a * first * last, draws.randint(-9, 9)
        return draws.choice(("minimum", "maximum")), *cubic

    def solve(self, parameters: Parameters) -> Solved:
        """Zeros of the derivative, then the sign of the second one."""
        kind, *cubic = parameters
        slope = derivative(cubic)
        roots = rational_roots(slope)
        factors, is_product = linear_factors(slope, roots, "x")
        curve = derivative(slope)
        place = next(x for x in roots if (value_at(curve, x) > 0) == (kind == "minimum"))
        bend, sign = value_at(curve, place), ">" if kind == "minimum" else "<"
        put, zeros = polynomial_at(curve, place), either("x", [number(x) for x in roots])
        is_kind = value_at(slope, place) == 0 and (bend > 0) == (sign == ">") and bend == _slope_at(slope, place)
        is_curve = all(_slope_at(slope, x) == value_at(curve, x) for x in range(4))
        steps = (
            derivative_step(cubic),
            proven(f"Factor: ${polynomial(slope)} = {factors}$.", is_product),
            proven(f"It is zero where {zeros}.", all(value_at(slope, x) == 0 for x in roots)),
            proven(f"$f''(x) = {polynomial(curve)}$.", is_curve),
            proven(f"$f''({number(place)}) = {put} = {number(bend)} {sign} 0$, so a {kind}.", is_kind),
            f"{evaluate_step(cubic, place)}.",
        )
        words = {"kind": kind, "function": polynomial(cubic)}
        facts = facts_of(cubic, [place], *roots) | {f"f''({number(place)})": (number(bend),)}
        return Solved(words, steps, number(value_at(cubic, place)), facts=facts)

    def read(self, text: str) -> Parameters | None:
        """Read a cubic with whole numbers whose derivative has two rational zeros."""
        aim = read_aim(text, "value local cubic relative")
        function = read_whole(aim.function) if aim and not aim.others else None
        if not function or len(function) != 4:
            return None
        slope = derivative(function)
        discriminant = slope[1] ** 2 - 4 * slope[0] * slope[2]
        is_rational = discriminant > 0 and value_at(slope, rational_roots(slope)[0]) == 0
        return (aim.kind, *function) if is_rational else None


class ExtremumOnInterval(Template):
    """The least or greatest value on a closed interval. Parameters: which, both ends, then the coefficients."""

    name = "extremum_on_interval"
    domain = "optimisation"
    levels = (2, 3, 4, 5)
    wordings = (
        "Find the <<kind>> value of $f(x) = <<function>>$ on $[<<low>>, <<high>>]$.",
        "What is the <<kind>> of $f(x) = <<function>>$ for $<<low>> \\leq x \\leq <<high>>$?",
    )

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Levels: 2, 3 quadratics; 4, 5 cubics, ever larger numbers."""
        size = {2: 4, 3: 8, 4: 3, 5: 5}[level]
        kind = draws.choice(("minimum", "maximum"))
        if level < 4:
            a, place = draws.choice((1, -1)) * (1 if level == 2 else draws.randint(1, 4)), draws.randint(-size, size)
            function = [a, -2 * a * place, draws.randint(-9, 9)]
        else:
            _, *function = CubicExtremum().draw(draws, level)
            place = rational_roots(derivative(function))[draws.randrange(2)]
        low = place + draws.randint(-size, 1)
        return kind, low, low + draws.randint(2, size + 2), *function

    def solve(self, parameters: Parameters) -> Solved:
        """Compare the values at both ends with those at the derivative's zeros between them."""
        kind, low, high, *function = parameters
        slope = derivative(function)
        roots = [quotient(-slope[1], slope[0])] if len(slope) == 2 else rational_roots(slope)
        inner = [x for x in roots if low < x < high]
        places = [low, *inner, high]
        values = [value_at(function, x) for x in places]
        best = min(values) if kind == "minimum" else max(values)
        where = either("x", [number(x) for x in roots])
        between = {0: "No zero is", len(roots): "This is" if len(roots) == 1 else "Both are"}.get(
            len(inner), f"Only ${number(inner[0])}$ is" if inner else ""
        )
        tried = [value_at(function, low + quotient(i * (high - low), 24)) for i in range(25)]
        is_best = all(best <= each if kind == "minimum" else best >= each for each in (*tried, *values))
        steps = [
            derivative_step(function),
            proven(f"It is zero where {where}.", all(value_at(slope, x) == 0 for x in roots)),
            proven(f"{between} between ${low}$ and ${high}$.", all(low < x < high for x in inner)),
            *(f"{evaluate_step(function, x)}." for x in places),
            proven(f"The {'least' if kind == 'minimum' else 'greatest'} is ${number(best)}$.", is_best),
        ]
        words = {"kind": kind, "function": polynomial(function), "low": number(low), "high": number(high)}
        return Solved(words, tuple(steps), number(best), facts=facts_of(function, places, *roots))

    def read(self, text: str) -> Parameters | None:
        """Read a quadratic or cubic with whole numbers and an interval with whole ends."""
        aim = read_aim(text, "value interval closed between from")
        if not aim:
            return None
        function = read_whole(aim.function)
        beside = join(aim.others).replace(" ", "")
        form = re.fullmatch(r"(?:x\\in)?\[(-?\d{1,4}),(-?\d{1,4})\]|(-?\d{1,4})\\leqx\\leq(-?\d{1,4})", beside)
        if not form or not function or len(function) not in (3, 4):
            return None
        low, high = (int(end) for end in form.groups() if end is not None)
        slope = derivative(function)
        discriminant = slope[1] ** 2 - 4 * slope[0] * slope[2] if len(slope) == 3 else 1
        if low >= high or discriminant < 0 or (len(slope) == 3 and value_at(slope, rational_roots(slope)[0])):
            return None
        return aim.kind, low, high, *function


TEMPLATES = (QuadraticExtremum, CubicExtremum, ExtremumOnInterval)
