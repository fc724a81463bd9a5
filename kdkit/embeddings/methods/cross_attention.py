"""Cross-attention between the tokens of two models (DSKD).

All in the precision of the inputs; call it outside autocast.
"""

import torch
from torch import nn

SMALLEST_DEVIATION = 1e-6
"""Least standard deviation that embeddings are divided by."""


class WordAttention(nn.Module):
    """Links of tokens by their word embeddings, which get no gradient; only the query is learned.

    Source: Zhang et al. 2024, arXiv 2406.17328, section 3.2, with two changes: an embedding model has no target
    token, so a token is described by its own embedding alone; and the student's embeddings, too, are divided by
    their deviation, so that the scores' size does not depend on the model.
    """

    def __init__(self, student_width: int, teacher_width: int):
        super().__init__()
        self.query = nn.Linear(student_width, teacher_width, bias=False)

    def forward(
        self,
        student_words: torch.Tensor,
        teacher_words: torch.Tensor,
        student_mask: torch.Tensor,
        teacher_mask: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return how much each token takes from each token of the other model.

        Args:
            student_words: `[B, S, H_student]`.
            teacher_words: `[B, T, H_teacher]`.
            student_mask: bool, `[B, S]`: tokens that count.
            teacher_mask: bool, `[B, T]`.

        Returns:
            `[B, S, T]`, of the student's tokens, and `[B, T, S]`, of the teacher's; rows add up to 1.
        """
        queries = self.query(_standardise(student_words.detach(), student_mask))
        keys = _standardise(teacher_words.detach(), teacher_mask)
        scores = queries @ keys.mT / keys.shape[-1] ** 0.5
        return masked_softmax(scores, teacher_mask), masked_softmax(scores.mT, student_mask)


class StateAttention(nn.Module):
    """Attention of one model's tokens to the states of the other, with queries, keys and values of its own.

    Its matrices are no `nn.Linear`: they start as the seed's do (Glorot), whatever start the projections have.
    """

    def __init__(self, in_width: int, out_width: int):
        """Build the matrices.

        Args:
            in_width: of the states that are attended to.
            out_width: of those that attend, and of the result.
        """
        super().__init__()
        width = min(in_width, out_width)
        self.query, self.key, self.value = (
            nn.Parameter(nn.init.xavier_uniform_(torch.empty(shape)))
            for shape in ((out_width, width), (in_width, width), (in_width, out_width))
        )

    def forward(self, states: torch.Tensor, others: torch.Tensor, others_mask: torch.Tensor) -> torch.Tensor:
        """Return the mix of the other model's states that each token attends to.

        Args:
            states: `[B, tokens, out_width]`.
            others: `[B, other_tokens, in_width]`.
            others_mask: bool, `[B, other_tokens]`: tokens that may be attended to.

        Returns:
            `[B, tokens, out_width]`.
        """
        scores = (states @ self.query) @ (others @ self.key).mT / self.key.shape[1] ** 0.5
        return masked_softmax(scores, others_mask) @ (others @ self.value)


def masked_softmax(scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the softmax over the last dimension's real entries; over all of them, finite, where none is real.

    Args:
        scores: `[B, tokens, other_tokens]`.
        mask: bool, `[B, other_tokens]`.
    """
    return scores.masked_fill(~mask[:, None], torch.finfo(scores.dtype).min).softmax(dim=-1)


def _standardise(words: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Divide embeddings, `[B, tokens, H]`, by the standard deviation of all numbers of the tokens that count."""
    weights = mask[..., None].to(words.dtype)
    count = (weights.sum() * words.shape[-1]).clamp(min=1)
    mean = (words * weights).sum() / count
    variance = ((words - mean).square() * weights).sum() / count
    return words / variance.sqrt().clamp(min=SMALLEST_DEVIATION)
