"""Determinants and inverses of matrices of two and three rows."""

import random

from kdkit.maths.latex import Exact, bracketed, fraction, join, matrix, number, product
from kdkit.maths.problems.linear_algebra.statements import Rows, as_parameters, as_rows, draw_matrix, multiply, read_one
from kdkit.maths.problems.proofs import determinant, proven, quotient
from kdkit.maths.problems.template import Parameters, Solved, Template

DOT = r"\cdot"


def cross(rows: Rows) -> str:
    r"""Write a determinant of two rows: `1 \cdot 4 - 2 \cdot 3`."""
    (a, b), (c, d) = rows
    return f"{product([a, d])} - {bracketed(number(b))} {DOT} {bracketed(number(c))}"


def minor(rows: Rows, i: int, j: int) -> Rows:
    """Return the matrix without a row and a column."""
    return [[value for n, value in enumerate(row) if n != j] for m, row in enumerate(rows) if m != i]


def facts_of(rows: Rows) -> dict[str, tuple[str, ...]]:
    r"""Return what A and `\det A` stand for."""
    return {"A": (matrix(rows),), r"\det A": (number(determinant(rows)),)}


class Determinant2(Template):
    """Of two rows."""

    name = "determinant_2"
    domain = "linear_algebra"
    wordings = (
        "Find the determinant of $A = <<matrix>>$.",
        "Compute $\\det A$ for $A = <<matrix>>$.",
        "What is the determinant of the matrix $<<matrix>>$?",
    )

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Levels: 1 positive numbers; 2 to 5 ever larger ones of any sign."""
        size = {1: 6, 2: 5, 3: 9, 4: 15, 5: 30}[level]
        rows = draw_matrix(draws, 2, 2, size)
        return as_parameters([[abs(value) for value in row] for row in rows] if level == 1 else rows)

    def solve(self, parameters: Parameters) -> Solved:
        """Cross products."""
        rows = as_rows(parameters, 2, 2)
        (a, b), (c, d) = rows
        value = determinant(rows)
        step = rf"$\det A = {cross(rows)} = {join([number(a * d), number(-b * c)])} = {value}$."
        if 0 in (a * d, b * c):
            step = rf"$\det A = {cross(rows)} = {value}$."
        steps = (proven(step, a * d - b * c == value),)
        return Solved({"matrix": matrix(rows)}, steps, number(value), facts=facts_of(rows))

    def read(self, text: str) -> Parameters | None:
        """Read a determinant of two rows of whole numbers."""
        return read_one(text, (2, 2), "", "determinant det", r"\det")


class Determinant3(Template):
    """Of three rows."""

    name = "determinant_3"
    domain = "linear_algebra"
    levels = (2, 3, 4, 5)
    wordings = Determinant2.wordings

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Levels: 2 a zero in the first row; 3 to 5 ever larger numbers."""
        size = {2: 3, 3: 3, 4: 5, 5: 9}[level]
        rows = draw_matrix(draws, 3, 3, size)
        if level == 2:
            rows[0][draws.randrange(3)] = 0
        return as_parameters(rows)

    def solve(self, parameters: Parameters) -> Solved:
        """Expand along the first row."""
        rows = as_rows(parameters, 3, 3)
        value = determinant(rows)
        shown, values, terms = [], [], []
        for j, entry in enumerate(rows[0]):
            if entry:
                part = minor(rows, 0, j)
                sign = (-1) ** j * entry
                shown.append(f"{number(sign)}({cross(part)})")
                values.append(rf"{number(sign)} {DOT} {bracketed(number(determinant(part)))}")
                terms.append(sign * determinant(part))
        facts = facts_of(rows)
        if not terms:
            step = proven(r"The first row is zero, so $\det A = 0$.", value == 0)
            return Solved({"matrix": matrix(rows)}, (step,), "0", facts=facts)
        steps = (
            proven(rf"Along the first row: $\det A = {join(shown)}$.", sum(terms) == value),
            proven(rf"$\det A = {join(values)} = {value}$.", sum(terms) == value, _rule_of_sarrus(rows) == value),
        )
        return Solved({"matrix": matrix(rows)}, steps, number(value), facts=facts)

    def read(self, text: str) -> Parameters | None:
        """Read a determinant of three rows of whole numbers."""
        return read_one(text, (3, 3), "", "determinant det", r"\det")


def _rule_of_sarrus(rows: Rows) -> int:
    """Return a determinant of three rows by another way than `determinant`."""
    (a, b, c), (d, e, f), (g, h, i) = rows
    return a * e * i + b * f * g + c * d * h - c * e * g - a * f * h - b * d * i


class Inverse2(Template):
    """Of two rows."""

    name = "inverse_2"
    domain = "linear_algebra"
    wordings = (
        "Find the inverse of $A = <<matrix>>$.",
        "Compute $A^{-1}$ for $A = <<matrix>>$.",
        "Invert the matrix $<<matrix>>$.",
    )

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Levels: 1, 2 the determinant is 1 or -1; 3 to 5 any other, ever larger numbers."""
        size = {1: 3, 2: 7, 3: 4, 4: 7, 5: 12}[level]
        while True:
            rows = draw_matrix(draws, 2, 2, size)
            value = determinant(rows)
            if abs(value) == 1 if level < 3 else value:
                return as_parameters(rows)

    def solve(self, parameters: Parameters) -> Solved:
        """Swap, change signs, divide by the determinant."""
        rows = as_rows(parameters, 2, 2)
        (a, b), (c, d) = rows
        return _inverted(rows, [[d, -b], [-c, a]], rf"$\det A = {cross(rows)} = {determinant(rows)}$.", ())

    def read(self, text: str) -> Parameters | None:
        """Read the inverse of an invertible matrix of whole numbers."""
        parameters = read_one(text, (2, 2), "", "inverse invert", "^{-1}")
        return parameters if parameters and determinant(as_rows(parameters, 2, 2)) else None


class Inverse3(Template):
    """Of three rows."""

    name = "inverse_3"
    domain = "linear_algebra"
    levels = (4, 5)
    wordings = Inverse2.wordings

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Levels: 4 the determinant is 1 or -1; 5 up to 4."""
        while True:
            rows = draw_matrix(draws, 3, 3, 3)
            if 1 <= abs(determinant(rows)) <= (1 if level == 4 else 4):
                return as_parameters(rows)

    def solve(self, parameters: Parameters) -> Solved:
        """Cofactors, transposed, over the determinant."""
        rows = as_rows(parameters, 3, 3)
        cofactors = [[(-1) ** (i + j) * determinant(minor(rows, i, j)) for j in range(3)] for i in range(3)]
        value = determinant(rows)
        terms = [rf"{number(a)} {DOT} {bracketed(number(c))}" for a, c in zip(rows[0], cofactors[0], strict=True) if a]
        is_value = sum(a * c for a, c in zip(rows[0], cofactors[0], strict=True)) == value == _rule_of_sarrus(rows)
        cofactor_step = proven(f"The cofactors are ${matrix(cofactors)}$.", is_value)
        adjugate = [list(column) for column in zip(*cofactors, strict=True)]
        return _inverted(rows, adjugate, rf"$\det A = {join(terms)} = {value}$.", (cofactor_step,))

    def read(self, text: str) -> Parameters | None:
        """Read the inverse of an invertible matrix of whole numbers."""
        parameters = read_one(text, (3, 3), "", "inverse invert", "^{-1}")
        return parameters if parameters and determinant(as_rows(parameters, 3, 3)) else None


def _inverted(rows: Rows, adjugate: Rows, determinant_step: str, first: tuple[str, ...]) -> Solved:
    """Divide the adjugate by the determinant; the product with the matrix proves it."""
    value, size = determinant(rows), len(rows)
    inverse: list[list[Exact]] = [[quotient(each, value) for each in row] for row in adjugate]
    unit = [[int(i == j) for j in range(size)] for i in range(size)]
    is_adjugate = multiply(rows, adjugate) == [[value * each for each in row] for row in unit]
    is_inverse = multiply(rows, inverse) == unit
    answer, scaled = matrix(inverse), matrix(adjugate)
    middle = "" if value == 1 else f" = {fraction('1', number(value)) if value > 0 else _minus_over(value)} {scaled}"
    steps = (
        *first,
        proven(determinant_step, is_adjugate),
        proven(f"$A^{{-1}}{middle} = {answer}$.", is_inverse),
    )
    facts = {**facts_of(rows), "A^{-1}": (answer,)}
    return Solved({"matrix": matrix(rows)}, steps, answer, "matrix", facts=facts)


def _minus_over(value: int) -> str:
    return "-" if value == -1 else fraction("-1", number(-value))


TEMPLATES = (Determinant2, Determinant3, Inverse2, Inverse3)
