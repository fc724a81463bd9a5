"""Products of matrices, and ranks."""

import random
from itertools import combinations
from math import gcd

from kdkit.maths.latex import bracketed, matrix, number, product, total
from kdkit.maths.problems.linear_algebra.statements import (
    Rows,
    as_parameters,
    as_rows,
    draw_matrix,
    multiply,
    read_matrices,
    read_one,
)
from kdkit.maths.problems.proofs import determinant, proven
from kdkit.maths.problems.template import Parameters, Solved, Template

ORDINALS = ("first", "second", "third")


def dot(row: list[int], column: tuple[int, ...]) -> str:
    r"""Write a row times a column: `1 \cdot 5 + 2 \cdot (-7)`."""
    parts = [rf"{bracketed(number(a))} \cdot {bracketed(number(b))}" for a, b in zip(row, column, strict=True)]
    parts[0] = product([row[0], column[0]])
    return " + ".join(parts)


class MatrixProduct(Template):
    """Two matrices. Parameters: rows of the first, columns of the first, columns of the second, then the numbers."""

    name = "matrix_product"
    domain = "linear_algebra"
    wordings = (
        "Compute $<<first>> <<second>>$.",
        "Find the product $AB$ of $A = <<first>>$ and $B = <<second>>$.",
        "Multiply $A = <<first>>$ by $B = <<second>>$.",
    )

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Levels: 1 a matrix times a column; 2, 3 two rows and columns; 4 with three in the middle; 5 three each."""
        shape = {1: (2, 2, 1), 2: (2, 2, 2), 3: (2, 2, 2), 4: (2, 3, 2), 5: (3, 3, 3)}[level]
        size = {1: 5, 2: 3, 3: 9, 4: 5, 5: 4}[level]
        height, middle, width = shape
        first, second = draw_matrix(draws, height, middle, size), draw_matrix(draws, middle, width, size)
        return *shape, *as_parameters(first), *as_parameters(second)

    def solve(self, parameters: Parameters) -> Solved:
        """Rows times columns, a line for each row."""
        height, middle, width, *numbers = parameters
        first = as_rows(numbers[: height * middle], height, middle)
        second = as_rows(numbers[height * middle :], middle, width)
        result = multiply(first, second)
        columns = list(zip(*second, strict=True))
        steps = []
        for i, row in enumerate(first):
            entries = [f"${dot(row, column)} = {value}$" for column, value in zip(columns, result[i], strict=True)]
            # entry by entry, in another order than `multiply`
            sums = [sum(row[k] * second[k][j] for k in range(middle)) for j in range(width)]
            steps.append(proven(f"{ORDINALS[i].capitalize()} row: {', '.join(entries)}.", sums == result[i]))
        words = {"first": matrix(first), "second": matrix(second)}
        facts = {"A": (matrix(first),), "B": (matrix(second),)}
        return Solved(words, tuple(steps), matrix(result), "matrix", facts=facts)

    def read(self, text: str) -> Parameters | None:
        """Read a product of two matrices of whole numbers, of up to three rows and columns."""
        found = read_matrices(text, "product multiply times ab", "")
        if not found or len(found) != 2:
            return None
        first, second = found
        shape = len(first), len(second), len(second[0])
        if len(first[0]) != len(second) or max(shape) > 3:
            return None
        return *shape, *as_parameters(first), *as_parameters(second)


class MatrixRank(Template):
    """Of three rows. Parameters: the number of columns, then the numbers."""

    name = "matrix_rank"
    domain = "linear_algebra"
    wordings = (
        "Find the rank of $A = <<matrix>>$.",
        "What is the rank of the matrix $<<matrix>>$?",
    )

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Ranks 1 to 3. Levels: 1, 2 small numbers, three columns; 3 larger ones; 4, 5 four columns."""
        size, width = {1: (2, 3), 2: (3, 3), 3: (5, 3), 4: (3, 4), 5: (5, 4)}[level]
        rank = draws.randint(1, 2) if level == 1 else draws.randint(1, 3)
        while True:
            rows = draw_matrix(draws, 3, width, size)
            mixed = [[draws.randint(-2, 2) for _ in range(rank)] for _ in range(3)]
            made = multiply(mixed, rows[:rank]) if rank < 3 else rows
            if made[0][0] and sum(any(row) for row in made) > 1:
                return width, *as_parameters(made)

    def solve(self, parameters: Parameters) -> Solved:
        """Bring it to row echelon form, a step for each row that changes."""
        width, *numbers = parameters
        rows = as_rows(numbers, 3, width)
        reduced, steps = _reduce(rows)
        rank = sum(any(row) for row in reduced)
        count = {1: "One row is", 2: "Two rows are", 3: "Three rows are"}[rank]
        steps.append(proven(f"{count} not zero: ${matrix(reduced)}$.", rank == _rank_by_minors(rows)))
        facts = {"A": (matrix(rows),)}
        return Solved({"matrix": matrix(rows)}, tuple(steps), number(rank), facts=facts)

    def read(self, text: str) -> Parameters | None:
        """Read the rank of a matrix of three rows and columns, or four columns."""
        for width in (3, 4):
            parameters = read_one(text, (3, width), "", "rank")
            if parameters and any(parameters):
                return width, *parameters
        return None


def _reduce(rows: Rows) -> tuple[Rows, list[str]]:
    """Return the row echelon form and a step for each row that changes."""
    rows, steps, done = [list(row) for row in rows], [], 0
    for column in range(len(rows[0])):
        pivot = next((i for i in range(done, len(rows)) if rows[i][column]), None)
        if pivot is None:
            continue
        if pivot != done:
            rows[done], rows[pivot] = rows[pivot], rows[done]
            steps.append(f"Swap rows {done + 1} and {pivot + 1}.")
        for i in range(done + 1, len(rows)):
            if rows[i][column]:
                what, rows[i] = _subtract(rows[done], rows[i], column)
                steps.append(proven(f"Row {i + 1}: ${what} = {matrix([rows[i]])}$.", rows[i][column] == 0))
        done += 1
        if done == len(rows):
            break
    return rows, steps


def _subtract(pivot: list[int], row: list[int], column: int) -> tuple[str, list[int]]:
    """Return a multiple of a row plus one of the pivot's without a column: in LaTeX, and its value."""
    common = gcd(pivot[column], row[column])
    k, m = pivot[column] // common, -row[column] // common
    if k < 0:
        k, m = -k, -m
    shown = total([(k, matrix([row])), (m, matrix([pivot]))])
    return shown, [k * b + m * a for a, b in zip(pivot, row, strict=True)]


def _rank_by_minors(rows: Rows) -> int:
    """Return the rank as the size of the largest minor that is not zero."""
    width = len(rows[0])
    for size in (3, 2, 1):
        for chosen in combinations(range(len(rows)), size):
            for columns in combinations(range(width), size):
                if determinant([[rows[i][j] for j in columns] for i in chosen]):
                    return size
    return 0


TEMPLATES = (MatrixProduct, MatrixRank)
