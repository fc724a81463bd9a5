"""Initial values of the projections between the two models' widths."""

import torch
from torch import nn

from kdkit.config.method_base import Projection
from kdkit.embeddings.methods.base import Start
from kdkit.errors import UserError
from kdkit.losses.sentences import unit

RANDOM_DEVIATION = 1e-3
"""Standard deviation of the numbers of a `random` start."""


def start_projections(starts: list[Start], seed: int) -> None:
    """Give a method's projections their first values, in place; see `start_projection`."""
    generator = torch.Generator().manual_seed(seed)
    for start in starts:
        if isinstance(start.projection, nn.Linear):
            start_projection(start.projection.weight, start.how, start.target, start.source, generator)


@torch.no_grad()
def start_projection(
    weight: torch.Tensor,
    how: Projection,
    teacher_vectors: torch.Tensor | None,
    student_vectors: torch.Tensor | None,
    generator: torch.Generator | None = None,
) -> None:
    """Fill the matrix that projects the student's vectors to the teacher's width, in place.

    For the way back, from the teacher to the student, exchange the vectors: from the same vectors comes the transpose
    of the same matrix, which has orthonormal rows or columns, so that it is also its best inverse.

    Args:
        weight: `[H_teacher, H_student]`.
        how: see `Projection`; `auto` and `fitted` without vectors are `orthogonal`.
        teacher_vectors: `[num_sentences, H_teacher]`; None: not known.
        student_vectors: `[num_sentences, H_student]`, of the same sentences; None: not known.
        generator: of random numbers, on the CPU.

    Raises:
        UserError: `identity` between different widths.
    """
    teacher_width, student_width = weight.shape
    if how == "identity" and teacher_width != student_width:
        raise UserError(
            f"method.projection: expected equal widths for 'identity', got {student_width} and {teacher_width}; "
            "choose 'fitted' or 'orthogonal'"
        )
    is_fitted = how in ("auto", "fitted") and teacher_vectors is not None and student_vectors is not None
    if how == "identity" or (how == "auto" and teacher_width == student_width):
        start = torch.eye(student_width)
    elif is_fitted:
        start = fitted_projection(teacher_vectors, student_vectors)
    elif how == "random":
        start = torch.empty(teacher_width, student_width).normal_(0.0, RANDOM_DEVIATION, generator=generator)
    else:
        start = nn.init.orthogonal_(torch.empty(teacher_width, student_width), generator=generator)
    weight.detach().copy_(start)


def fitted_projection(teacher_vectors: torch.Tensor, student_vectors: torch.Tensor) -> torch.Tensor:
    """Find a projection of the student's vectors that keeps their similarities and brings them near the teacher's.

    The wider side is cut down to as many principal directions as the other has dimensions, then one side is turned
    towards the other (orthogonal Procrustes). The directions are those of the vectors themselves, not of their
    differences from the mean: cosines are measured from the origin, and without the mean no projected vector could
    come near the teacher's.

    Args:
        teacher_vectors: `[num_sentences, H_teacher]`; lengths do not matter.
        student_vectors: `[num_sentences, H_student]`, of the same sentences.

    Returns:
        fp32, `[H_teacher, H_student]`, with orthonormal columns, or rows if H_student > H_teacher.

    Source: Eckart & Young 1936; Schoenemann 1966, A generalized solution of the orthogonal Procrustes problem.
    """
    teacher, student = (unit(vectors.cpu()).double() for vectors in (teacher_vectors, student_vectors))
    smaller = min(teacher.shape[1], student.shape[1])
    teacher_basis, student_basis = (principal_directions(vectors, smaller) for vectors in (teacher, student))
    left, _, right = torch.linalg.svd((teacher @ teacher_basis).T @ (student @ student_basis))
    return (teacher_basis @ left @ right @ student_basis.T).float()


def principal_directions(vectors: torch.Tensor, count: int) -> torch.Tensor:
    """Return the directions along which vectors are longest, as columns: `[H, count]`; all axes if count is H."""
    if count == vectors.shape[1]:
        return torch.eye(count, dtype=vectors.dtype)
    return torch.linalg.eigh(vectors.T @ vectors).eigenvectors[:, -count:]
