"""Eigenvalues of matrices of two rows, and of three with a zero block."""

import random

from kdkit.maths.latex import bracketed, is_square, join, matrix, number, polynomial, product, split_square, surd
from kdkit.maths.problems.algebra.quadratic_equations import either, linear_factors, rational_roots
from kdkit.maths.problems.linear_algebra.determinants import cross
from kdkit.maths.problems.linear_algebra.statements import Rows, as_rows, read_one
from kdkit.maths.problems.proofs import determinant, proven, value_at
from kdkit.maths.problems.template import Parameters, Solved, Template

LAMBDA = r"\lambda"
WORDINGS = (
    "Find the eigenvalues of $A = <<matrix>>$.",
    "What are the eigenvalues of the matrix $<<matrix>>$?",
    "Compute all eigenvalues of $<<matrix>>$.",
)


def less_lambda(rows: Rows, value: object) -> list[list[object]]:
    """Return the matrix less a multiple of the unit matrix."""
    return [[each - value if i == j else each for j, each in enumerate(row)] for i, row in enumerate(rows)]


class Eigenvalues2(Template):
    """Of two rows, real ones."""

    name = "eigenvalues_2"
    domain = "linear_algebra"
    wordings = WORDINGS

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Levels: 1 a triangle; 2 to 4 whole eigenvalues, ever larger numbers; 5 roots."""
        size = {1: 9, 2: 3, 3: 6, 4: 10, 5: 6}[level]
        if level == 1:
            return draws.randint(-size, size), draws.randint(-size, size), 0, draws.randint(-size, size)
        while True:
            a, b, c, d = (draws.randint(-size, size) for _ in range(4))
            discriminant = (a - d) ** 2 + 4 * b * c
            if b and c and discriminant > 0 and is_square(discriminant) == (level < 5):
                return a, b, c, d

    def solve(self, parameters: Parameters) -> Solved:
        """Trace and determinant give the characteristic polynomial."""
        rows = as_rows(parameters, 2, 2)
        (a, _), (_, d) = rows
        trace, value = a + d, determinant(rows)
        characteristic = [1, -trace, value]
        # at three places it is det(A - x I), so everywhere
        is_characteristic = all(determinant(less_lambda(rows, x)) == value_at(characteristic, x) for x in range(3))
        sums = f"{join([number(a)])} + {bracketed(number(d))} = {trace}"
        steps = [
            proven(f"The trace is ${sums}$.", a + d == trace),
            proven(f"The determinant is ${cross(rows)} = {value}$.", value == a * d - rows[0][1] * rows[1][0]),
            proven(f"So ${polynomial(characteristic, LAMBDA)} = 0$.", is_characteristic),
        ]
        discriminant = trace * trace - 4 * value
        if is_square(discriminant):
            roots = rational_roots(characteristic)
            factors, is_product = linear_factors(characteristic, roots, LAMBDA)
            values = [number(each) for each in roots]
            is_root = all(determinant(less_lambda(rows, each)) == 0 for each in roots)
            steps.append(proven(f"Factor: ${factors} = 0$.", is_product))
        else:
            outside, inside = split_square(discriminant)
            values = [surd(trace, sign * outside, inside, 2) for sign in (-1, 1)]
            # (2 x - t)^2 = t^2 - 4 d
            is_root = outside**2 * inside == discriminant
            shown = f"{bracketed(number(trace))}^{{2}} - {product([4, value])} = {discriminant}"
            steps.append(proven(f"The discriminant is ${shown}$.", trace**2 - 4 * value == discriminant))
        steps.append(proven(f"So {either(LAMBDA, values)}.", is_root))
        facts = {"A": (matrix(rows),), LAMBDA: tuple(values)}
        return Solved({"matrix": matrix(rows)}, tuple(steps), ", ".join(values), "values", facts=facts)

    def read(self, text: str) -> Parameters | None:
        """Read the eigenvalues of a matrix of whole numbers that has real ones."""
        parameters = read_one(text, (2, 2), "real", "eigenvalues eigenvalue")
        if not parameters:
            return None
        a, b, c, d = parameters
        return parameters if (a - d) ** 2 + 4 * b * c >= 0 else None


class Eigenvalues3(Template):
    """Of three rows with zeros below the first number; whole ones."""

    name = "eigenvalues_3"
    domain = "linear_algebra"
    levels = (3, 4, 5)
    wordings = WORDINGS

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Levels: 3 a triangle; 4, 5 a block of two rows, ever larger numbers."""
        size = {3: 6, 4: 3, 5: 6}[level]
        first = [draws.randint(-size, size) for _ in range(3)]
        while True:
            a, b, c, d = (draws.randint(-size, size) for _ in range(4))
            c = 0 if level == 3 else c
            if is_square((a - d) ** 2 + 4 * b * c) and (level == 3 or (b and c)):
                return *first, 0, a, b, 0, c, d

    def solve(self, parameters: Parameters) -> Solved:
        """The first number is one, the block has the others."""
        rows = as_rows(parameters, 3, 3)
        first, block = rows[0][0], [row[1:] for row in rows[1:]]
        trace, value = block[0][0] + block[1][1], determinant(block)
        quadratic = [1, -trace, value]
        roots = rational_roots(quadratic)
        values = sorted({first, *roots})
        factors, is_product = linear_factors(quadratic, roots, LAMBDA)
        own = LAMBDA if first == 0 else f"({polynomial([1, -first], LAMBDA)})"
        # the characteristic polynomial has degree 3: four places decide
        shown = f"{own}({polynomial(quadratic, LAMBDA)}) = 0"
        is_characteristic = all(
            -determinant(less_lambda(rows, x)) == (x - first) * value_at(quadratic, x) for x in range(4)
        )
        texts = [number(each) for each in values]
        steps = (
            proven(f"Expand along the first column: ${shown}$.", is_characteristic),
            proven(f"Factor: ${own}{factors} = 0$.", is_product),
            proven(f"So {either(LAMBDA, texts)}.", all(determinant(less_lambda(rows, each)) == 0 for each in values)),
        )
        facts = {"A": (matrix(rows),), LAMBDA: tuple(texts)}
        return Solved({"matrix": matrix(rows)}, steps, ", ".join(texts), "values", facts=facts)

    def read(self, text: str) -> Parameters | None:
        """Read the eigenvalues of such a matrix of whole numbers."""
        parameters = read_one(text, (3, 3), "real", "eigenvalues eigenvalue")
        if not parameters or parameters[3] or parameters[6]:
            return None
        (_, a, b), (_, c, d) = as_rows(parameters, 3, 3)[1:]
        return parameters if is_square((a - d) ** 2 + 4 * b * c) else None


TEMPLATES = (Eigenvalues2, Eigenvalues3)
