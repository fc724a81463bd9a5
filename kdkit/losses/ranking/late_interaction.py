"""MaxSim, the score of late interaction, and the contrast of a batch's documents by such scores.

Q queries of Tq tokens and D documents of Td tokens, each token a vector of width H. All is computed in fp32, also under
autocast (fp64 stays).
"""

import torch

from kdkit.losses.precision import at_least_fp32, full_precision

BLOCK_NUMBERS = 2**24
"""Similarities of tokens that are held at once: 67 MB."""
NO_TOKENS = -1.0e9
"""Score of a document without a token that counts, below that of any other; sentence-transformers' too."""


@full_precision
def maxsim(
    queries: torch.Tensor,
    documents: torch.Tensor,
    query_mask: torch.Tensor,
    document_mask: torch.Tensor,
    *,
    mean: bool = False,
    block_numbers: int = BLOCK_NUMBERS,
) -> torch.Tensor:
    """Compute for each query and document the sum, over the query's tokens, of the largest dot product with a token.

    Documents are taken a block at a time, so that the similarities of all tokens never stand in memory together; what
    is kept for the gradient is which token was the largest.

    Args:
        queries: float, `[Q, Tq, H]`.
        documents: float, `[D, Td, H]`, Td at least 1.
        query_mask: bool, `[Q, Tq]`: tokens that are summed over.
        document_mask: bool, `[D, Td]`: tokens among which the largest is sought.
        mean: divide by the number of the query's tokens: MeanMaxSim.
        block_numbers: similarities of tokens to hold at once, at least those of one document.

    Returns:
        `[Q, D]`; for a document without a token that counts `NO_TOKENS`, without gradient.

    Source: Khattab & Zaharia 2020, arXiv:2004.12832, equation 3.

    Example:
        >>> mask = torch.ones(1, 2, dtype=torch.bool)
        >>> float(maxsim(torch.eye(2)[None], torch.eye(2)[None], mask, mask))
        2.0
    """
    queries, documents = at_least_fp32(queries), at_least_fp32(documents)
    num_queries, query_tokens, _ = queries.shape
    size = max(1, block_numbers // max(1, num_queries * query_tokens * documents.shape[1]))
    rows, parts = queries.flatten(0, 1), []
    for start in range(0, len(documents), size):
        block, is_there = documents[start : start + size], document_mask[start : start + size]
        similar = (rows @ block.flatten(0, 1).mT).view(num_queries, query_tokens, *is_there.shape)
        best = similar.masked_fill_(~is_there, torch.finfo(similar.dtype).min).max(dim=-1).values
        counted = query_mask[..., None] & is_there.any(dim=-1)
        scores = torch.where(counted, best, 0.0).sum(dim=1)
        if mean:
            scores = scores / query_mask.sum(dim=1, keepdim=True).clamp(min=1)
        parts.append(scores.masked_fill(~is_there.any(dim=-1), NO_TOKENS))
    return torch.cat(parts, dim=1) if parts else queries.new_zeros(num_queries, 0)


@full_precision
def contrast_scores(
    scores: torch.Tensor, partner: torch.Tensor, left_out: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Compute how well each query's scores tell its partner from the other documents, in nats: InfoNCE of scores.

    Args:
        scores: float, `[Q, D]`.
        partner: int64, `[Q]`: place of each query's partner among the documents.
        left_out: bool, `[Q, D]`: documents that are no negatives of a query; the partner counts in any case.
        temperature: of the softmax.

    Source: van den Oord et al. 2018, arXiv:1807.03748, equation 4, with any scores.

    Example:
        >>> no = torch.zeros(1, 1, dtype=torch.bool)
        >>> float(contrast_scores(torch.ones(1, 1), torch.zeros(1, dtype=torch.long), no, 0.05))
        0.0
    """
    logits = at_least_fp32(scores) / temperature
    is_partner = torch.zeros_like(left_out).scatter(1, partner[:, None], value=True)
    others = logits.masked_fill(left_out & ~is_partner, torch.finfo(logits.dtype).min)
    return (others.logsumexp(dim=1) - logits.gather(1, partner[:, None])[:, 0]).sum() / max(len(logits), 1)
