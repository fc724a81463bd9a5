"""Quadratic equations: by factors, by the formula, by completing the square."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import gcd, isqrt

from kdkit.maths.latex import (
    Exact,
    factor,
    fraction,
    is_square,
    number,
    polynomial,
    powered,
    product,
    root,
    signed,
    split_square,
    surd,
    term,
    total,
)
from kdkit.maths.problems.algebra.linear_equations import solve_for
from kdkit.maths.problems.proofs import proven, quotient, times, value_at
from kdkit.maths.problems.template import Parameters, Solved, Template
from kdkit.maths.reading import as_parameters, read_equation

WORDS = (
    "equation equations quadratic solution solutions root roots zero zeros unknown variable satisfies satisfy formula"
    " factor factoring factorising factorizing"
)


@dataclass(frozen=True)
class QuadraticEquation:
    """`left = right`, brought to `a x^2 + b x + c = 0` with whole numbers without common factor and `a` positive."""

    left: Sequence[int]
    right: Sequence[int]
    variable: str

    @property
    def latex(self) -> str:
        """The equation as it is stated."""
        return f"{polynomial(self.left, self.variable)} = {polynomial(self.right, self.variable)}"

    def normal_form(self) -> tuple[list[int], list[str]]:
        """Return (a, b, c) and the steps that lead there."""
        left, right = ([0] * (3 - len(side)) + list(side) for side in (self.left, self.right))
        moved = [a - b for a, b in zip(left, right, strict=True)]
        divisor = gcd(*moved) * (1 if moved[0] > 0 else -1)
        normal = [each // divisor for each in moved]
        steps = []
        if any(right):
            is_same = all(a == b + c for a, b, c in zip(left, right, moved, strict=True))
            steps.append(proven(f"Bring all to the left: ${polynomial(moved, self.variable)} = 0$.", is_same))
        if divisor != 1:
            is_same = [divisor * each for each in normal] == moved
            step = f"Divide by ${number(divisor)}$: ${polynomial(normal, self.variable)} = 0$."
            steps.append(proven(step, is_same))
        return normal, steps


def rational_roots(coefficients: Sequence[int]) -> list[Exact]:
    """Return the roots of `a x^2 + b x + c` with a square discriminant, the smaller one first, a double one once."""
    a, b, c = coefficients
    distance = isqrt(b * b - 4 * a * c)
    return sorted({quotient(-b - distance, 2 * a), quotient(-b + distance, 2 * a)})


def linear_factors(coefficients: Sequence[int], roots: Sequence[Exact], variable: str) -> tuple[str, bool]:
    """Write `a x^2 + b x + c` as a product with whole numbers; also whether the product is the polynomial."""
    first, last = Fraction(roots[0]), Fraction(roots[-1])
    factors = [[each.denominator, -each.numerator] for each in (first, last)]
    rest = quotient(coefficients[0], factors[0][0] * factors[1][0])
    expanded = [rest * each for each in times(*factors)]
    texts = [variable if not each[1] else f"({polynomial(each, variable)})" for each in factors]
    if len(roots) == 1:
        texts = [f"{texts[0]}^{{2}}"]
    texts.sort(key=lambda text: text != variable)
    return term(rest, "".join(texts)), expanded == list(coefficients)


def either(variable: str, values: Sequence[str]) -> str:
    """Write `$x = 2$ or $x = 3$`."""
    return " or ".join(f"${variable} = {value}$" for value in values)


class QuadraticWithRationalRoots(Template):
    """`a x^2 + b x + c = e x + f` whose discriminant is a square."""

    name = "quadratic_with_rational_roots"
    domain = "algebra"
    family = "quadratic_equation"
    wordings = solve_for("<<variable>>")

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Levels: 1 small positive roots; 2 any sign; 3 terms on both sides; 4 a leading number; 5 both, larger."""
        size = {1: 9, 2: 9, 3: 9, 4: 6, 5: 9}[level]
        first, last = (draws.randint(1 if level == 1 else -size, size) for _ in range(2))
        a = draws.randint(2, 4) if level > 3 else 1
        factors = [1, -first], [a, -last]
        normal = times(*factors)
        e, f = (draws.randint(-size, size) for _ in range(2)) if level in (3, 5) else (0, 0)
        return normal[0], normal[1] + e, normal[2] + f, 0, e, f, "x"

    def solve(self, parameters: Parameters) -> Solved:
        """Bring all to one side and factor."""
        equation = QuadraticEquation(parameters[:3], parameters[3:6], parameters[6])
        variable = equation.variable
        normal, steps = equation.normal_form()
        roots = rational_roots(normal)
        factors, is_product = linear_factors(normal, roots, variable)
        solves = all(value_at(equation.left, each) == value_at(equation.right, each) for each in roots)
        values = [number(each) for each in roots]
        steps.append(proven(f"Factor: ${factors} = 0$.", is_product))
        steps.append(proven(f"So {either(variable, values)}.", solves))
        words = {"equation": equation.latex, "variable": variable}
        return Solved(words, tuple(steps), ", ".join(values), "values", facts={variable: tuple(values)})

    def read(self, text: str) -> Parameters | None:
        """Read an equation of degree 2 with a square discriminant."""
        return _read(text, lambda discriminant: is_square(discriminant))


class QuadraticByFormula(Template):
    """`a x^2 + b x + c = e x + f` with irrational solutions."""

    name = "quadratic_by_formula"
    domain = "algebra"
    family = "quadratic_equation"
    levels = (2, 3, 4, 5)
    wordings = solve_for("<<variable>>")

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Levels: 2 small numbers; 3 larger ones; 4 a leading number; 5 terms on both sides."""
        size = {2: 6, 3: 12, 4: 9, 5: 9}[level]
        while True:
            a = draws.randint(2, 5) if level > 3 else 1
            b, c = draws.randint(-size, size), draws.randint(-size, size)
            if b * b - 4 * a * c > 0 and not is_square(b * b - 4 * a * c):
                break
        e, f = (draws.randint(-size, size) for _ in range(2)) if level == 5 else (0, 0)
        return a, b + e, c + f, 0, e, f, "x"

    def solve(self, parameters: Parameters) -> Solved:
        """Put the numbers into the formula and simplify the root."""
        equation = QuadraticEquation(parameters[:3], parameters[3:6], parameters[6])
        variable = equation.variable
        normal, steps = equation.normal_form()
        a, b, c = normal
        discriminant = b * b - 4 * a * c
        outside, inside = split_square(discriminant)
        is_split = outside**2 * inside == discriminant
        values, chains = [], []
        for sign in (-1, 1):
            value = surd(-b, sign * outside, inside, 2 * a)
            raw = fraction(total([(-b, ""), (sign, rf"\sqrt{{{discriminant}}}")]), number(2 * a))
            values.append(value)
            chains.append(value if raw == value else f"{raw} = {value}")
        p, q, d = Fraction(-b, 2 * a), Fraction(outside, 2 * a), inside
        left, right = equation.left, equation.right
        moved = [one - other for one, other in zip(left, right, strict=True)]
        rational = moved[0] * (p * p + q * q * d) + moved[1] * p + moved[2]
        irrational = 2 * moved[0] * p * q + moved[1] * q
        shown = f"{powered(b, 2)} - {product([4, a, c])} = {discriminant}"
        steps.append(proven(f"The discriminant is ${shown}$.", b**2 - 4 * a * c == discriminant))
        steps.append(proven(f"So {either(variable, chains)}.", is_split, rational == irrational == 0))
        words = {"equation": equation.latex, "variable": variable}
        return Solved(words, tuple(steps), ", ".join(values), "values", facts={variable: tuple(values)})

    def read(self, text: str) -> Parameters | None:
        """Read an equation of degree 2 whose discriminant is positive and no square."""
        return _read(text, lambda discriminant: discriminant > 0 and not is_square(discriminant))


class QuadraticByCompletingTheSquare(Template):
    """`x^2 + 2 h x + c = 0` with real solutions."""

    name = "quadratic_by_completing_the_square"
    domain = "algebra"
    family = "quadratic_equation"
    wordings = (
        "Solve $<<equation>>$ by completing the square.",
        "Complete the square to solve $<<equation>>$ for $<<variable>>$.",
    )

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Levels: 1, 2 whole solutions, small and larger; 3 to 5 roots, ever larger."""
        size = {1: 5, 2: 10, 3: 5, 4: 8, 5: 12}[level]
        half = draws.choice([n for n in range(-size, size + 1) if n])
        square = draws.randint(1, size) ** 2 if level < 3 else 1
        while level > 2 and is_square(square):
            square = draws.randint(2, size * size)
        return 1, 2 * half, half * half - square, 0, 0, 0, "x"

    def solve(self, parameters: Parameters) -> Solved:
        """Move the number to the right, add the square of half the middle number, take roots."""
        _, b, c, *_, variable = parameters
        half, square = b // 2, (b // 2) ** 2 - c
        outside, inside = split_square(square)
        shift = factor(-half, variable)
        is_square_complete = times([1, half], [1, half]) == [1, b, c + square]
        moved = f"Move the number: ${polynomial([1, b, 0], variable)} = {-c}$."
        steps = [proven(moved, [1, b, 0 - (-c)] == [1, b, c])] if c else []
        added = f"Add ${half**2}$: ${shift}^{{2}} = {square}$."
        steps.append(proven(added, is_square_complete, half**2 - c == square == outside**2 * inside))
        if inside == 1:
            values = [number(-half - outside), number(-half + outside)]
            solves = all(value_at([1, b, c], -half + sign * outside) == 0 for sign in (-1, 1))
        else:
            values = [surd(-half, sign * outside, inside, 1) for sign in (-1, 1)]
            # (x + h)^2 with x = -h + q sqrt(m) is q^2 m
            solves = outside**2 * inside == square
        sides = either(f"{variable}{signed(half)}", [f"-{root(square)}", root(square)])
        steps.append(proven(f"Take roots: {sides}.", outside**2 * inside == square))
        steps.append(proven(f"So {either(variable, values)}.", solves))
        equation = QuadraticEquation([1, b, c], [0], variable).latex
        words = {"equation": equation, "variable": variable}
        return Solved(words, tuple(steps), ", ".join(values), "values", facts={variable: tuple(values)})

    def read(self, text: str) -> Parameters | None:
        """Read such an equation where the statement asks for the square."""
        parameters = _read(
            text, lambda discriminant: discriminant > 0, "completing complete square", "completing complete"
        )
        is_simple = (
            parameters and parameters[0] == 1 and parameters[1] % 2 == 0 and parameters[1] and not any(parameters[3:6])
        )
        return parameters if is_simple else None


def _read(text: str, is_meant: Callable[[int], bool], words: str = "", needs: str = "") -> Parameters | None:
    """Read an equation of degree 2 with whole numbers whose discriminant is as meant."""
    found = read_equation(text, f"{WORDS} {words}", needs)
    if not found or max(len(found[0]), len(found[1])) > 3:
        return None
    left, right = ([Fraction(0)] * (3 - len(side)) + side for side in found[:2])
    a, b, c = (one - other for one, other in zip(left, right, strict=True))
    whole = as_parameters([*left, *right])
    is_whole = all(isinstance(each, int) for each in whole)
    return (*whole, found[2]) if a and is_whole and is_meant(int(b * b - 4 * a * c)) else None


TEMPLATES = (QuadraticWithRationalRoots, QuadraticByFormula, QuadraticByCompletingTheSquare)
