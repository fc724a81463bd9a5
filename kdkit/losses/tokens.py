"""Losses of token states and attention maps of two models that cut the text differently.

Tokens of one group stand over the same text on both sides; -1 is in no group. S and T count padding, and `num_groups`
is the most groups of a sentence. Nothing loops over sentences. All is computed in fp32, also under autocast (fp64
stays), and a sentence without groups adds 0.
"""

from typing import Literal

import torch

from kdkit.losses.cross_entropy import masked_mean
from kdkit.losses.precision import at_least_fp32, full_precision
from kdkit.losses.sentences import unit

SMALLEST_CKA = 1e-6
"""CKA below it counts as this much under a square root, whose slope at 0 is infinite."""
FEWEST_ROWS = {"debiased": 4, "biased": 2}
"""Aligned tokens that CKA needs to mean anything; sentences with fewer are left out."""


def group_weights(group: torch.Tensor, num_groups: int, member: Literal["mean", "last"] = "mean") -> torch.Tensor:
    """Return the matrix that turns token states into group states.

    Args:
        group: int64, `[B, S]`; -1 or num_groups and above: in none.
        num_groups: rows of the matrix.
        member: `mean`: the members' average; `last`: the last member, which alone has read all of the group in a
            causal model.

    Returns:
        `[B, num_groups, S]`, fp32; rows add up to 1, those of groups without members to 0.
    """
    places = torch.arange(group.shape[1], device=group.device)
    is_member = group[:, None] == torch.arange(num_groups, device=group.device)[:, None]
    if member == "last":
        is_member = is_member & (places == (is_member * places).amax(dim=-1, keepdim=True))
    return is_member / is_member.sum(dim=-1, keepdim=True).clamp(min=1)


@full_precision
def group_means(
    states: torch.Tensor, group: torch.Tensor, num_groups: int, member: Literal["mean", "last"] = "mean"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Average token states over the members of each group.

    Args:
        states: `[B, S, H]`.
        group: int64, `[B, S]`; -1: in none.
        num_groups: the most groups of a sentence.
        member: see `group_weights`.

    Returns:
        `[B, num_groups, H]`, fp32 (fp64 stays), 0 for groups without members; and bool, `[B, num_groups]`: groups that
        have members.
    """
    states, weights = at_least_fp32(states), group_weights(group, num_groups, member)
    return weights.to(states.dtype) @ states, weights.any(dim=-1)


def vector_distance(
    student: torch.Tensor,
    teacher: torch.Tensor,
    distance: Literal["cosine", "mse"],
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Compute the mean distance of vectors that belong together; 0 if there are none.

    Args:
        student: `[B, num_groups, H]`, or any shape with vectors last.
        teacher: the same shape.
        distance: `cosine`: 1 - cos; `mse`: the mean squared difference of unit vectors, 2 / H times that.
        mask: bool, `[B, num_groups]`: vectors that count, each as much as any other of the batch; None: all.
    """
    student, teacher = unit(student), unit(teacher)
    if distance == "cosine":
        values = 1.0 - (student * teacher).sum(dim=-1)
    else:
        values = (student - teacher).square().mean(dim=-1)
    return values.mean() if mask is None else masked_mean(values, mask)


@full_precision
def importance(
    maps: torch.Tensor, mask: torch.Tensor, how: Literal["corrected", "softmax"], is_aligned: torch.Tensor
) -> torch.Tensor:
    """Return how important each token is, by the attention that it receives.

    `softmax` is the published form. A causal model sends attention that it has no use for to the first token, and
    an encoder to its special tokens; with 60 % of it there the softmax gives the first token all of the mass.
    `corrected` takes the share of the attention received, without the first token and without tokens that are in no
    group, as special ones are.

    Args:
        maps: `[B, T, T]` (query, key), averaged over heads.
        mask: `[B, T]`: 1 at real tokens.
        how: `corrected` or `softmax`.
        is_aligned: bool, `[B, T]`: tokens in a group.

    Returns:
        `[B, T]`, fp32 (fp64 stays): adds up to 1 over the real tokens, 0 elsewhere; equal shares if no token is left.

    Source: Truong et al. 2025 (EMO), EMNLP 2025 main 385.
    """
    mask = mask.bool()
    received = (at_least_fp32(maps) * mask[..., None]).sum(dim=1)
    if how == "softmax":
        return received.masked_fill(~mask, torch.finfo(received.dtype).min).softmax(dim=-1) * mask
    is_first = mask & (mask.cumsum(dim=-1) == 1)
    share = received * (mask & is_aligned & ~is_first)
    total, equal = share.sum(dim=-1, keepdim=True), mask / mask.sum(dim=-1, keepdim=True).clamp(min=1)
    return torch.where(total > 0, share / total.clamp(min=torch.finfo(total.dtype).tiny), equal)


def most_important(values: torch.Tensor, mask: torch.Tensor, limit: torch.Tensor) -> torch.Tensor:
    """Return which entries of each row are among its largest.

    Args:
        values: `[B, num_groups]`, not negative.
        mask: bool, `[B, num_groups]`: entries that may be chosen.
        limit: int64, `[B]`: how many.

    Returns:
        bool, `[B, num_groups]`.
    """
    rank = values.masked_fill(~mask, -1.0).argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    return mask & (rank < limit[:, None])


@full_precision
def linear_cka(first: torch.Tensor, second: torch.Tensor, mask: torch.Tensor, debiased: bool) -> torch.Tensor:
    """Compute linear CKA, the centred kernel alignment of two descriptions of the same rows.

    It is the cosine of the two centred Gram matrices; neither scale nor rotation matter. For random rows of 18 numbers
    the biased form gives 0.87 with 4 rows and 0.64 with 20, the debiased one 0, but that needs 4 rows.

    Args:
        first: `[..., rows, H_first]`.
        second: `[..., rows, H_second]`.
        mask: bool, `[..., rows]`: rows that count.
        debiased: without the diagonal.

    Returns:
        `[...]`, fp32 (fp64 stays): 0 to 1, or -1 to 1 if debiased; 0 where one side's rows are all equal.

    Source: Kornblith et al. 2019, arXiv:1905.00414, equation 3; debiased by the U-centring of Szekely & Rizzo 2014,
    arXiv:1310.2926, equation 3.1, which is Song et al. 2012, equation 5.
    """
    first, second = (_centred_gram(at_least_fp32(rows), mask, debiased).flatten(-2) for rows in (first, second))
    return (unit(first) * unit(second)).sum(dim=-1)


def _centred_gram(rows: torch.Tensor, mask: torch.Tensor, debiased: bool) -> torch.Tensor:
    """Return inner products of rows after centring, `[..., rows, rows]`; 0 at rows that do not count."""
    mask = mask[..., None].to(rows.dtype)
    count = mask.sum(dim=-2, keepdim=True).clamp(min=1)
    rows = (rows - (rows * mask).sum(dim=-2, keepdim=True) / count) * mask
    # attention over many tokens is small: squared, it would drown in the rounding of fp32
    rows = unit(rows.flatten(-2)).view_as(rows)
    gram = rows @ rows.mT
    if not debiased:
        return gram
    off_diagonal = mask * mask.mT * (1.0 - torch.eye(gram.shape[-1], device=gram.device))
    gram = gram * off_diagonal
    sums = gram.sum(dim=-1, keepdim=True) / (count - 2).clamp(min=1)
    total = gram.sum(dim=(-2, -1), keepdim=True) / ((count - 1) * (count - 2)).clamp(min=1)
    return (gram - sums - sums.mT + total) * off_diagonal


@full_precision
def attention_distance(
    student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor, cka: Literal["debiased", "biased"]
) -> torch.Tensor:
    """Compute how far the attention of aligned tokens is from the teacher's, 0 to 1.

    `debiased`: 1 - CKA, which is cut off at 0; `biased`: 1 - the root of CKA, as published. The mean over layers and
    sentences that have enough rows.

    Args:
        student: `[B, num_layers, num_groups, S]`: attention that the queries of each group pay to the student's tokens.
        teacher: `[B, num_layers, num_groups, T]`: the same for the teacher's.
        mask: bool, `[B, num_groups]`: groups that count.
        cka: `debiased` or `biased`.

    Source: Truong et al. 2025 (EMO), EMNLP 2025 main 385, there a sum over the batch.
    """
    mask = mask[:, None].expand(student.shape[:3])
    values = linear_cka(student, teacher, mask, cka == "debiased")
    values = values.clamp(min=0.0) if cka == "debiased" else values.clamp(min=SMALLEST_CKA).sqrt()
    return masked_mean(1.0 - values, mask.sum(dim=-1) >= FEWEST_ROWS[cka])
