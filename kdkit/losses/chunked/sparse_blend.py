"""Cross-entropy and a divergence from kept tokens in one pass: at temperature 1 both need the same softmax.

It computes what `kdkit.losses.sparse` and `cross_entropy_` do one after the other, for little more than cross-entropy
alone.
"""

import torch

from kdkit.losses.chunked.blend import ChunkResult, QueriedRows, is_linear, teacher_logprobs
from kdkit.losses.chunked.engine import ChunkLoss, blocks_of, softmax
from kdkit.losses.chunked.signals import SparseSignals
from kdkit.losses.closed_forms import LOWEST, Measure


def sparse_blend(
    signals: SparseSignals,
    queried: QueriedRows,
    targets: torch.Tensor,
    weights: torch.Tensor,
    raw_weights: torch.Tensor,
    measure: Measure,
    tail: str,
    num_tokens: int,
) -> ChunkLoss:
    """Make the chunk loss of a blend at temperature 1.

    Args:
        signals: one row per queried row.
        targets: int64, `[student_rows]`: the token that each student row predicts.
        weights: fp32, `[student_rows]`: weight of each student row's cross-entropy in the loss.
        raw_weights: fp32, `[student_rows]`: in the logged term.
        measure: the divergence.
        tail: `ghost`, `keep_mass`, `renormalise`; see `CacheConfig.tail`.
        num_tokens: V.
    """

    def block_loss(logits: torch.Tensor, rows: slice) -> torch.Tensor:
        """Compute the terms of rows that fit into the buffers."""
        inside, local = queried.local(rows)
        kept, rest = teacher_logprobs(signals, inside, tail, 1.0, num_tokens)
        weight, chosen, kd_weight = weights[rows], targets[rows, None], queried.weights[inside]
        q, normalisers = softmax(logits)
        ce = normalisers - logits.gather(1, chosen).squeeze(1)
        # the kept tokens' entries in a line: on a CPU one index is twice as fast as two
        starts = torch.arange(0, logits.numel(), logits.shape[1], device=logits.device)
        starts, at_row, mine = (part if local is None else part[local] for part in (starts, normalisers, weight))
        places = torch.add(starts[:, None], signals.ids[inside]).view(-1)
        student = logits.view(-1).index_select(0, places).view_as(kept).sub_(at_row[:, None])
        kd, factor, at_kept = _divergence_(q, places, student, kept, rest, mine, kd_weight, measure, tail)
        total = weight + kd_weight * factor if local is None else weight.index_add(0, local, kd_weight * factor)
        torch.mul(q, total[:, None], out=logits)
        logits.view(-1).scatter_add_(0, places, at_kept.view(-1))
        logits.scatter_add_(1, chosen, -weight[:, None])
        loss = (ce * weight).sum() + (kd * kd_weight).sum()
        return torch.stack([loss, (ce * raw_weights[rows]).sum(), kd.sum() * queried.raw_weight])

    def chunk_loss(logits: torch.Tensor, rows: slice) -> ChunkResult:
        """Go through a chunk block by block; its logits become the gradient."""
        terms = logits.new_zeros(3)
        for block in blocks_of(logits):
            terms += block_loss(logits[block], slice(rows.start + block.start, rows.start + block.stop))
        return terms, logits

    return chunk_loss


def _divergence_(
    q: torch.Tensor,
    places: torch.Tensor,
    student: torch.Tensor,
    kept: torch.Tensor,
    rest: torch.Tensor,
    weight: torch.Tensor,
    kd_weight: torch.Tensor,
    measure: Measure,
    tail: str,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return D, `[rows]`, and its gradient dD/dz as q times a factor, `[rows]`, and something more at the kept tokens.

    Args:
        q: `[block_rows, V]`; entries that are wholly written anew at the kept tokens become 0.
        places: int64, `[rows * K]`: the kept tokens in the flattened q.
        student: `[rows, K]`: log q of the kept tokens.
        weight: of cross-entropy, `[rows]`; at entries that become 0 its w q is returned with the rest.

    Returns:
        D, the factor, and what is to be added at `places`, `[rows, K]`, weighed.
    """
    if is_linear(measure, tail):
        # sum_S p (log p - log q) and M q - p: see `sparse_forward_kl_`
        p = kept.exp()
        return (p * (kept.clamp(min=LOWEST) - student)).sum(dim=-1), p.sum(dim=-1), p.mul_(-kd_weight[:, None])
    # D over kept tokens and the rest: see `sparse_with_rest_`; the rest is summed, as 1 less the kept is noise
    q.view(-1).scatter_(0, places, 0.0)
    rows = places[:: kept.shape[1]] // q.shape[1]
    others = q.sum(dim=-1)[rows, None].clamp(min=torch.finfo(q.dtype).tiny)
    values, derivative = measure(torch.cat([student, others.log()], dim=-1), torch.cat([kept, rest], dim=-1))
    total = derivative.sum(dim=-1, keepdim=True)
    factor = (derivative[:, -1:] / others - total).squeeze(1)
    share = student.exp_()
    return (
        values,
        factor,
        share * (weight[:, None] - kd_weight[:, None] * total) + kd_weight[:, None] * derivative[:, :-1],
    )
