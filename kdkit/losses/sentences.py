"""Losses of sentence vectors: distance to the teacher's, similarities in a batch, their order, contrast, scored lists.

B sentences, H_student and H_teacher the widths of the two models' vectors (one width where vectors are compared
directly). A loss is a scalar, the mean over what it compares, so that
it does not grow with the batch. It is computed in fp32, also under autocast (fp64 stays), and finite, with a finite
gradient, for one sentence, for equal sentences and for vectors of 0.
"""

import torch
import torch.nn.functional as F

from kdkit.errors import UserError
from kdkit.losses.precision import at_least_fp32, full_precision

SMALLEST_NORM = 1e-6
"""Vectors shorter than this count as 0 and get no gradient; 1e-12, torch's own, is 0 in fp16."""


def unit(vectors: torch.Tensor) -> torch.Tensor:
    """Divide vectors (along the last dimension) by their length, in fp32 (fp64 stays); 0 stays 0, without gradient."""
    vectors = at_least_fp32(vectors)
    length = vectors.norm(dim=-1, keepdim=True)
    return torch.where(length > SMALLEST_NORM, vectors / length.clamp(min=SMALLEST_NORM), 0.0)


def similarities(vectors: torch.Tensor) -> torch.Tensor:
    """Return the cosine similarities of all vectors with each other.

    Args:
        vectors: float, `[B, H]`.

    Returns:
        `[B, B]`, fp32 (fp64 stays).
    """
    vectors = unit(vectors)
    with torch.autocast(vectors.device.type, enabled=False):
        return vectors @ vectors.mT


def check_vectors(function: str, student: torch.Tensor, teacher: torch.Tensor, one_width: bool = False) -> None:
    """Refuse vectors that do not belong together.

    Args:
        one_width: the vectors themselves are compared, not the relations between sentences.

    Raises:
        UserError: other sentences or widths, or a dtype that is no float; naming both.
    """
    if not (student.is_floating_point() and teacher.is_floating_point()):
        raise UserError(
            f"{function}: expected vectors of a float dtype, got {student.dtype} of the student and {teacher.dtype} of "
            "the teacher; pass embeddings, not token ids"
        )
    fits = student.shape == teacher.shape if one_width else student.shape[:-1] == teacher.shape[:-1]
    if not fits:
        wanted = "one shape; project the student's to the teacher's width" if one_width else "the same sentences"
        raise UserError(
            f"{function}: expected student and teacher vectors of {wanted}, got {tuple(student.shape)} and "
            f"{tuple(teacher.shape)}; pass one row per sentence, in one order"
        )


def cosine_distance(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Compute the mean of 1 - cos, 0 to 2.

    Args:
        student: float, `[B, H]`, or any shape with vectors last.
        teacher: the same shape.

    Source: EmbedDistill, arXiv 2301.12005, as used by sentence-transformers.

    Example:
        >>> float(cosine_distance(torch.eye(2), torch.eye(2)))
        0.0
    """
    check_vectors("cosine_distance", student, teacher, one_width=True)
    return (1.0 - (unit(student) * unit(teacher)).sum(dim=-1)).mean()


def mse_of_units(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Compute the mean squared difference of the numbers of unit vectors: 2 / H times `cosine_distance`.

    At a width of 1024 its gradient is 512 times smaller, which a weight has to make up for.

    Args:
        student: float, `[B, H]`, or any shape with vectors last.
        teacher: the same shape.
    """
    return F.mse_loss(unit(student), unit(teacher))


@full_precision
def info_nce(
    first: torch.Tensor,
    second: torch.Tensor,
    temperature: float,
    text_ids: torch.Tensor | None = None,
    second_ids: torch.Tensor | None = None,
) -> torch.Tensor:
    """Compute how well each vector tells its partner from the other sentences' partners, in nats.

    One direction, first to second. No negative is a row with the anchor's own text, and no text that is the anchor's
    or its partner's. A single sentence has no negatives, its loss is 0.

    Args:
        first: float, `[B, H]`, one view of each sentence.
        second: float, `[B, H]`, another view, or the sentence that belongs to it.
        temperature: of the softmax over cosines.
        text_ids: int64, `[B]`: equal for equal texts; None: all differ.
        second_ids: the same of the partners, in the same numbers; None: they are the same texts.

    Source: van den Oord et al. 2018, arXiv:1807.03748, equation 4; SimCSE, arXiv:2104.08821, equation 4.

    Example:
        >>> float(info_nce(torch.eye(1), torch.eye(1), temperature=0.05))
        0.0
    """
    logits = unit(first) @ unit(second).mT / temperature
    if text_ids is not None:
        same = text_ids[:, None] == text_ids
        if second_ids is not None:
            same |= (second_ids == text_ids[:, None]) | (second_ids == second_ids[:, None])
        same.fill_diagonal_(False)
        logits = logits.masked_fill(same, torch.finfo(logits.dtype).min)
    return (logits.logsumexp(dim=-1) - logits.diagonal()).mean()


def similarity_mse(student: torch.Tensor, teacher: torch.Tensor, off_diagonal: bool = False) -> torch.Tensor:
    """Compute the mean squared difference of the two models' cosines between sentences.

    Args:
        student: float, `[B, H_student]`.
        teacher: float, `[B, H_teacher]`.
        off_diagonal: divide by B (B - 1), not by B * B; the diagonal is 1 on both sides and adds nothing.

    Source: Zhang et al. 2024, arXiv:2412.19048, L_sim.
    """
    errors = (similarities(student) - similarities(teacher)).square()
    count = errors.numel() - (len(errors) if off_diagonal else 0)
    return errors.sum() / max(count, 1)


def ranking_loss(
    student: torch.Tensor,
    teacher: torch.Tensor,
    margin: float,
    max_comparisons: int,
    text_ids: torch.Tensor | None = None,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Compute by how much pairs of sentences miss the teacher's order of similarity.

    Two pairs are compared: the one with the higher cosine in the teacher should be higher by `margin` in the student
    too. The mean is over comparisons in which the teacher's cosines differ; fewer than three sentences have none, their
    loss is 0.

    Args:
        student: float, `[B, H_student]`.
        teacher: float, `[B, H_teacher]`.
        margin: in units of cosine.
        max_comparisons: if there are more, p (p - 1) / 2, so many are drawn at random, with replacement.
        text_ids: int64, `[B]`: pairs of equal texts are left out; None: all differ.
        generator: of the draw.

    Source: Zhang et al. 2024, arXiv:2412.19048, L_resim.
    """
    first, second = torch.triu_indices(len(student), len(student), offset=1, device=student.device)
    left, right = _comparisons(len(first), max_comparisons, student.device, generator)
    of_student, of_teacher = (similarities(side)[first, second] for side in (student, teacher))
    is_higher = of_teacher[left] > of_teacher[right]
    counted = of_teacher[left] != of_teacher[right]
    if text_ids is not None:
        differs = text_ids[first] != text_ids[second]
        counted = counted & differs[left] & differs[right]
    gap = of_student[left] - of_student[right]
    shortfall = F.relu(margin - torch.where(is_higher, gap, -gap))
    return (shortfall * counted).sum() / counted.sum().clamp(min=1)


def _comparisons(
    num_pairs: int, most: int, device: torch.device, generator: torch.Generator | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the two sides of all comparisons of two pairs, or of `most` drawn ones; int64, `[comparisons]` each."""
    if num_pairs * (num_pairs - 1) // 2 <= most:
        left, right = torch.triu_indices(num_pairs, num_pairs, offset=1, device=device)
        return left, right
    source = generator.device if generator is not None else device
    left = torch.randint(num_pairs, (most,), generator=generator, device=source)
    # a shift of 1 .. num_pairs - 1: no pair is compared with itself
    shift = torch.randint(1, num_pairs, (most,), generator=generator, device=source)
    return left.to(device), ((left + shift) % num_pairs).to(device)


@full_precision
def rkd_distance(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Compute the Huber loss between pairwise distances of unit vectors, each side's divided by their mean.

    Args:
        student: float, `[B, H_student]`.
        teacher: float, `[B, H_teacher]`.

    Source: Park et al. 2019, arXiv:1904.05068, equations 5 to 7; delta 1.

    Example:
        >>> float(rkd_distance(torch.eye(3), 2.0 * torch.eye(3)))
        0.0
    """
    check_vectors("rkd_distance", student, teacher)
    return F.smooth_l1_loss(_relative_distances(student), _relative_distances(teacher))


def _relative_distances(vectors: torch.Tensor) -> torch.Tensor:
    vectors = unit(vectors)
    # by matrix products, a distance near 0 would be the root of a rounding error
    distances = torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist")
    mean = distances.sum() / (distances > 0).sum().clamp(min=1)
    return torch.where(mean > SMALLEST_NORM, distances / mean.clamp(min=SMALLEST_NORM), 0.0)


@full_precision
def rkd_angle(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Compute the Huber loss between the cosines of the angles in all triples of unit vectors.

    Takes memory for B * B * H and B * B * B numbers.

    Args:
        student: float, `[B, H_student]`.
        teacher: float, `[B, H_teacher]`.

    Source: Park et al. 2019, arXiv:1904.05068, equations 8 to 9; delta 1.

    Example:
        >>> float(rkd_angle(torch.eye(3), 2.0 * torch.eye(3)))
        0.0
    """
    check_vectors("rkd_angle", student, teacher)
    return F.smooth_l1_loss(_angles(student), _angles(teacher))


def _angles(vectors: torch.Tensor) -> torch.Tensor:
    """Return the cosine of the angle at each vector between any two others: `[B, B, B]`, the corner first."""
    vectors = unit(vectors)
    directions = unit(vectors - vectors[:, None])
    return directions @ directions.mT


def similarity_kl(
    student: torch.Tensor, teacher: torch.Tensor, student_temperature: float, teacher_temperature: float
) -> torch.Tensor:
    """Compute KL(teacher || student) of the softmax over each sentence's cosines with the others, in nats.

    A sentence's cosine with itself is left out: it is 1 and would take most of the probability. With one or two
    sentences nothing is left to compare, their loss is 0.

    Args:
        student: float, `[B, H_student]`.
        teacher: float, `[B, H_teacher]`.
        student_temperature: of the student's softmax.
        teacher_temperature: of the teacher's.

    Source: DistillKLDivLoss of sentence-transformers, there over given candidates, here over the batch.

    Example:
        >>> float(similarity_kl(torch.eye(3), torch.eye(3), 0.05, 0.05))
        0.0
    """
    check_vectors("similarity_kl", student, teacher)
    sides = ((student, student_temperature), (teacher, teacher_temperature))
    own = torch.eye(len(student), dtype=torch.bool, device=student.device)
    of_student, of_teacher = (
        (similarities(vectors) / temperature).masked_fill(own, torch.finfo(torch.float32).min).log_softmax(dim=-1)
        for vectors, temperature in sides
    )
    return F.kl_div(of_student, of_teacher, log_target=True, reduction="batchmean")


def margin_mse(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Compute the mean squared difference of both models' margins between a list's first document and each other.

    Args:
        student: float, `[B, L]`, scores of each list's documents, the relevant one first.
        teacher: the same; NaN: no document.

    Returns:
        A scalar, the mean over all documents that are there, the first ones aside; 0 where there are none.

    Source: Hofstatter et al. 2020, arXiv:2010.02666; MarginMSELoss of sentence-transformers.

    Example:
        >>> float(margin_mse(torch.tensor([[1.0, 0.5]]), torch.tensor([[9.0, 8.5]])))
        0.0
    """
    student, teacher, is_there = _checked_scores("margin_mse", student, teacher)
    margins = [scores[:, :1] - scores[:, 1:] for scores in (student, teacher)]
    counted = is_there[:, 1:] & is_there[:, :1]
    errors = torch.where(counted, margins[0] - margins[1], 0.0).square()
    return errors.sum() / counted.sum().clamp(min=1)


def list_kl(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """Compute KL(teacher || student) of the softmax over each list, in nats, the mean over the lists.

    Args:
        student: float, `[B, L]`, scores of each list's documents, the relevant one first.
        teacher: the same; NaN: no document.
        temperature: that both sides' scores are divided by; the loss is not multiplied by its square.

    Source: DistillKLDivLoss of sentence-transformers, which multiplies by the square of the temperature.

    Example:
        >>> float(list_kl(torch.tensor([[1.0, 0.5]]), torch.tensor([[9.0, 8.5]]), 0.1))
        0.0
    """
    student, teacher, is_there = _checked_scores("list_kl", student, teacher)
    smallest = torch.finfo(student.dtype).min
    of_student, of_teacher = (
        (scores / temperature).masked_fill(~is_there, smallest).log_softmax(dim=-1) for scores in (student, teacher)
    )
    terms = torch.where(is_there, of_teacher.exp() * (of_teacher - of_student), 0.0)
    return terms.sum() / max(len(terms), 1)


def _checked_scores(
    function: str, student: torch.Tensor, teacher: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return both sides in fp32, and which documents are there; refuse scores of other lists."""
    if student.shape != teacher.shape or student.ndim != 2:
        raise UserError(
            f"{function}: expected scores [B, L] of the same lists, got {tuple(student.shape)} of the student and "
            f"{tuple(teacher.shape)} of the teacher; pass one row per query, in one order"
        )
    is_there = ~teacher.isnan()
    return at_least_fp32(student), at_least_fp32(teacher).nan_to_num(0.0), is_there
