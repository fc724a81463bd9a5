"""Matrices in statements, drawn and read."""

import random
import re

from kdkit.maths.problems.template import Parameters
from kdkit.maths.reading import read_matrix, read_statement

Rows = list[list[int]]
MATRIX = re.compile(r"\\begin\{pmatrix\}.*?\\end\{pmatrix\}|\[\s*\[.*?\]\s*\]", re.DOTALL)
BESIDE = re.compile(r"(?:[A-Z]|=|\^\{-1\}|\\cdot|\\times|\*|\\det|\(|\)|\\lambda|\s)*")
"""What may stand in a formula beside its matrices."""


def draw_matrix(draws: random.Random, height: int, width: int, size: int) -> Rows:
    """Draw whole numbers from -size to size."""
    return [[draws.randint(-size, size) for _ in range(width)] for _ in range(height)]


def as_rows(parameters: Parameters, height: int, width: int) -> Rows:
    """Return parameters as a matrix, row by row."""
    return [list(parameters[i * width : (i + 1) * width]) for i in range(height)]


def as_parameters(rows: Rows) -> Parameters:
    """Return a matrix as parameters, row by row."""
    return tuple(value for row in rows for value in row)


def multiply(first: Rows, second: Rows) -> Rows:
    """Multiply two matrices."""
    columns = list(zip(*second, strict=True))
    return [[sum(a * b for a, b in zip(row, column, strict=True)) for column in columns] for row in first]


def read_matrices(text: str, words: str, needs: str, symbol: str = "") -> list[Rows] | None:
    r"""Read the matrices of a statement, of whole numbers.

    Args:
        text: see `Template.read`.
        words: see `Statement.fits`.
        needs: see `Statement.fits`.
        symbol: what may stand for the needed words in a formula, such as `\det`.
    """
    statement = read_statement(text)
    has_symbol = symbol != "" and any(symbol in formula for formula in statement.formulas)
    if not statement.fits(f"matrix matrices {words} {needs}", "" if has_symbol else needs):
        return None
    if not all(BESIDE.fullmatch(MATRIX.sub("", formula)) for formula in statement.formulas):
        return None
    found = [read_matrix(matrix) for formula in statement.formulas for matrix in MATRIX.findall(formula)]
    is_whole = all(rows and all(value.denominator == 1 for row in rows for value in row) for rows in found)
    return [[[int(value) for value in row] for row in rows] for rows in found] if found and is_whole else None


def read_one(text: str, shape: tuple[int, int], words: str, needs: str, symbol: str = "") -> Parameters | None:
    """Read a statement's only matrix of a shape, as parameters; see `read_matrices`."""
    found = read_matrices(text, words, needs, symbol)
    is_such = found and len(found) == 1 and (len(found[0]), len(found[0][0])) == shape
    return as_parameters(found[0]) if is_such else None
