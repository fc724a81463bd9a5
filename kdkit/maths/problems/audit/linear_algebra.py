"""Answers in linear algebra, checked by numpy."""

import re

import numpy as np

from kdkit.maths.problem import Problem
from kdkit.maths.problems.audit.formulas import are_close, determinant, evaluate, split_list

MATRIX = re.compile(r"\\begin\{pmatrix\}.*?\\end\{pmatrix\}")


def matrices_of(text: str) -> list[np.ndarray]:
    """Return the matrices of a text."""
    return [evaluate(matrix) for matrix in MATRIX.findall(text)]


def check_determinant(problem: Problem) -> bool:
    """By numpy's decomposition."""
    return abs(determinant(matrices_of(problem.problem)[0]) - float(evaluate(problem.answer))) < 1e-6


def check_inverse(problem: Problem) -> bool:
    """The product is the unit matrix, exactly."""
    (given,), (inverse,) = matrices_of(problem.problem), matrices_of(problem.answer)
    unit = np.array([[int(i == j) for j in range(len(given))] for i in range(len(given))], dtype=object)
    return are_close(given @ inverse, unit)


def check_eigenvalues(problem: Problem) -> bool:
    """The same set as numpy's; a double one is found with half the digits."""
    found = np.linalg.eigvals(matrices_of(problem.problem)[0].astype(float))
    values = [complex(evaluate(value)) for value in split_list(problem.answer)]
    is_found = all(min(abs(value - other) for other in found) < 1e-5 for value in values)
    is_complete = all(min(abs(value - other) for value in values) < 1e-5 for other in found)
    return (
        is_found and is_complete and len({complex(round(v.real, 4), round(v.imag, 4)) for v in values}) == len(values)
    )


def check_product(problem: Problem) -> bool:
    """Multiply."""
    first, second = matrices_of(problem.problem)
    return are_close(first @ second, matrices_of(problem.answer)[0])


def check_rank(problem: Problem) -> bool:
    """By numpy's singular values."""
    return np.linalg.matrix_rank(matrices_of(problem.problem)[0].astype(float)) == evaluate(problem.answer)


CHECKS = {
    "determinant_2": check_determinant,
    "determinant_3": check_determinant,
    "inverse_2": check_inverse,
    "inverse_3": check_inverse,
    "eigenvalues_2": check_eigenvalues,
    "eigenvalues_3": check_eigenvalues,
    "matrix_product": check_product,
    "matrix_rank": check_rank,
}
