"""Identities between polynomials: numbers that make one true, and whether one is."""

import random
import re
from fractions import Fraction

from kdkit.maths.latex import factor, number, point, polynomial, term
from kdkit.maths.problems.algebra.polynomials import draw_nonzero
from kdkit.maths.problems.proofs import plus, proven, quotient, times, value_at
from kdkit.maths.problems.template import Parameters, Solved, Template
from kdkit.maths.reading import as_parameters, read_coefficients, read_statement


class CompareCoefficients(Template):
    """`u x + v = A (x - p) + B (x - q)` for every x. Parameters: u, v, p, q."""

    name = "compare_coefficients"
    domain = "algebra"
    levels = (2, 3, 4, 5)
    wordings = (
        "Find $(A, B)$ such that $<<left>> = <<right>>$ for every $x$.",
        "Determine numbers $A$ and $B$ with $<<left>> = <<right>>$ for all $x$. Answer with $(A, B)$.",
    )

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Levels: 2 to 4 ever larger numbers; 5 fractions."""
        size = {2: 4, 3: 7, 4: 12, 5: 6}[level]
        p, q = draws.sample([n for n in range(-size, size + 1) if n], 2)
        a, b = draw_nonzero(draws, size), draw_nonzero(draws, size)
        if level == 5:
            return draw_nonzero(draws, size), draws.randint(-2 * size, 2 * size), p, q
        return a + b, -a * p - b * q, p, q

    def solve(self, parameters: Parameters) -> Solved:
        """Put in the zero of each bracket."""
        u, v, p, q = parameters
        left = polynomial([u, v])
        first, second = quotient(u * q + v, q - p), quotient(u * p + v, p - q)
        summed = plus(times([first], [1, -p]), times([second], [1, -q]))
        is_identity = summed == plus([0, 0], [u, v])
        steps = []
        for name, at, other, value in (("A", q, p, first), ("B", p, q, second)):
            side = term(at - other, name)
            equation = f"{side} = {number(u * at + v)}"
            so = "" if at - other == 1 else f", so ${name} = {number(value)}$"
            steps.append(proven(f"Put ${at}$ for $x$: ${equation}${so}.", (at - other) * value == u * at + v))
        proven("the identity", is_identity)
        words = {"left": left, "right": f"A{factor(p)} + B{factor(q)}"}
        facts = {"A": (number(first),), "B": (number(second),)}
        return Solved(words, tuple(steps), point([first, second]), "tuple", facts=facts)

    def read(self, text: str) -> Parameters | None:
        """Read such an identity with whole numbers in x."""
        statement = read_statement(text)
        found = [formula for formula in statement.formulas if "=" in formula]
        if not statement.fits("constants coefficients identity holds partial fractions") or len(found) != 1:
            return None
        form = re.fullmatch(r"([^=]*)=A\*?\(x([+-]\d+)\)\+B\*?\(x([+-]\d+)\)", found[0].replace(" ", ""))
        left = form and read_coefficients(form[1], "x")
        if not left or len(left) > 2 or form[2] == form[3]:
            return None
        u, v = as_parameters([Fraction(0), *left][-2:])
        is_whole = isinstance(u, int) and isinstance(v, int)
        return (u, v, -int(form[2]), -int(form[3])) if is_whole else None


class CheckIdentity(Template):
    """Is `(a x + b)^2 - (c x + d)^2 = p x^2 + q x + r` true for every x? Parameters: these numbers in order."""

    name = "check_identity"
    domain = "algebra"
    wordings = (
        "Is $<<left>> = <<right>>$ true for every $x$? Answer yes or no.",
        "Do $<<left>>$ and $<<right>>$ agree for every $x$? Answer yes or no.",
    )

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Half of them are true. Levels: 1, 2 without leading numbers, 3 to 5 with ever larger ones."""
        size = {1: 4, 2: 9, 3: 4, 4: 6, 5: 9}[level]
        a, c = (draws.randint(1, size) if level > 2 else 1 for _ in range(2))
        b, d = draws.sample([n for n in range(-size, size + 1) if n], 2)
        right = [a * a - c * c, 2 * (a * b - c * d), b * b - d * d]
        if draws.random() < 0.5:
            right[draws.choice((1, 2))] += draws.choice((-2, -1, 1, 2))
        return a, b, c, d, *right

    def solve(self, parameters: Parameters) -> Solved:
        """Expand both squares, then compare."""
        a, b, c, d, *right = parameters
        first, second = times([a, b], [a, b]), times([c, d], [c, d])
        result = [one - other for one, other in zip(first, second, strict=True)]
        squares = f"({polynomial([a, b])})^{{2}}", f"({polynomial([c, d])})^{{2}}"
        left = f"{squares[0]} - {squares[1]}"
        at = range(-2, 3)
        steps = [
            proven(f"${square} = {polynomial(expanded)}$.", all(value_at(expanded, x) == (m * x + n) ** 2 for x in at))
            for square, expanded, m, n in ((squares[0], first, a, b), (squares[1], second, c, d))
        ]
        holds = all((a * x + b) ** 2 - (c * x + d) ** 2 == value_at(result, x) for x in at)
        is_true = result == right
        steps.append(proven(f"So ${left} = {polynomial(result)}$.", holds))
        verdict = "This is the right side." if is_true else "This is not the right side."
        steps.append(proven(verdict, is_true == all(value_at(result, x) == value_at(right, x) for x in at)))
        answer = r"\text{yes}" if is_true else r"\text{no}"
        words = {"left": left, "right": polynomial(right)}
        return Solved(words, tuple(steps), answer, "statement")

    def read(self, text: str) -> Parameters | None:
        """Read such a question with whole numbers, either as an equation or as two formulas."""
        statement = read_statement(text)
        if not statement.fits("false answer yes no holds do", "true identity agree equal same"):
            return None
        formulas = [formula for formula in statement.formulas if formula != "x"]
        sides = "=".join(formulas).replace(" ", "").split("=")
        form = len(sides) == 2 and re.fullmatch(r"\(([^()]*)\)\^\{2\}-\(([^()]*)\)\^\{2\}", sides[0])
        read = [read_coefficients(each, "x") for each in (form[1], form[2], sides[1])] if form else []
        if not read or None in read or any(len(each) != 2 for each in read[:2]) or len(read[2]) > 3:
            return None
        numbers = as_parameters([*read[0], *read[1], *[Fraction(0)] * (3 - len(read[2])), *read[2]])
        return tuple(numbers) if all(isinstance(each, int) for each in numbers) else None


TEMPLATES = (CompareCoefficients, CheckIdentity)
