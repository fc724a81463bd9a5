"""Second order with constant coefficients and a right side."""

import random
from fractions import Fraction

from kdkit.maths.formulas.reading import find_integers
from kdkit.maths.formulas.tree import (
    Function,
    Named,
    Number,
    exp,
)
from kdkit.maths.formulas.writing import write
from kdkit.maths.problems.calculus.elementary import X, draw_nonzero
from kdkit.maths.problems.differential_equations.equations import (
    C1,
    C2,
    facts_of,
    find_number,
    holds,
    prove_general,
)
from kdkit.maths.problems.differential_equations.first_order import GENERAL, part_factor
from kdkit.maths.problems.differential_equations.second_order import (
    prove_solution,
    read_constants,
    root_steps,
    solution,
    write_equation,
)
from kdkit.maths.problems.relations import equal
from kdkit.maths.problems.template import Parameters, Solved, Template


class OdeForced(Template):
    """y'' + p y' + q y = b e^(kx), or = b. Parameters: p, q, b, k (0: a number on the right)."""

    name = "ode_forced"
    domain = "differential_equations"
    levels = (4, 5)
    wordings = GENERAL

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Draw whole real roots; a number on the right at level 4, an exponential at level 5."""
        while True:
            roots = [draw_nonzero(draws, 6), draw_nonzero(draws, 6)]
            k = 0 if level == 4 else draw_nonzero(draws, 5)
            value = (k - roots[0]) * (k - roots[1])
            if k not in roots and roots[0] != roots[1]:
                return -sum(roots), roots[0] * roots[1], value * draw_nonzero(draws, 5), k

    def solve(self, parameters: Parameters) -> Solved:
        """See Template."""
        p, q, b, k = parameters
        coefficients, value = (1, p, q), k * k + p * k + q
        factor = Fraction(b, value)
        right, part = b * exp(k * X), factor * exp(k * X)
        y, a = solution(coefficients) + part, Named("A", Number(factor))
        prove_solution(y, coefficients, right)
        prove_solution(part, coefficients, right)
        prove_general(y, C1, C2)
        steps, facts = root_steps(coefficients)
        name = Named("y_{p}", part)
        steps += [
            f"Try {holds(name, a * exp(k * X))}: {equal(value * a, b)}",
            f"So {equal(a, factor)}",
            holds(Named("y", y), y),
        ]
        equation = write_equation(coefficients, right)
        facts = {**facts, **facts_of(y, 2), "A": (write(factor),), "y_{p}": (write(part),)}
        return Solved({"equation": equation}, tuple(steps), f"y = {write(y)}", "ode", equation, facts)

    def read(self, text: str) -> Parameters | None:
        """See Template."""
        found = read_constants(text, 0)
        if not found or found[1] == Number(0) or found[0][0] != 1:
            return None
        (_, p, q), right, _ = found
        if isinstance(right, Number):
            b, k = find_number(right), 0
        else:
            factor, inner = part_factor(right)
            line = find_integers(inner.argument) if isinstance(inner, Function) and inner.name == "exp" else None
            if not line or len(line) != 2 or line[1]:
                return None
            b, k = find_number(factor), line[0]
        return (p, q, b, k) if b and k * k + p * k + q else None
