"""Cross-entropy and a divergence from kept tokens in one pass: at temperature 1 both need the same softmax.

It computes what `kdkit.losses.sparse` and `cross_entropy_` do one after the other, for little more than cross-entropy
alone.
"""

import torch

from kdkit.losses.chunked.blend import ChunkResult, QueriedRows, is_linear, teacher_logprobs
from kdkit.losses.chunked.engine import ChunkLoss, blocks_of, log_softmax_
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
        inside = queried.inside(rows)
        kept, rest = teacher_logprobs(signals, inside, tail, 1.0, num_tokens)
        local, ids = queried.rows[inside] - rows.start, signals.ids[inside].long()
        weight, chosen = weights[rows], targets[rows, None]
        log_softmax_(logits)
        ce = -logits.gather(1, chosen).squeeze(1)
        kd = _add_divergence_(logits, local, ids, kept, rest, weight, queried.weights[inside], measure, tail)
        logits.scatter_add_(1, chosen, -weight[:, None])
        loss = (ce * weight).sum() + (kd * queried.weights[inside]).sum()
        return torch.stack([loss, (ce * raw_weights[rows]).sum(), kd.sum() * queried.raw_weight])

    def chunk_loss(logits: torch.Tensor, rows: slice) -> ChunkResult:
        terms = logits.new_zeros(3)
        for block in blocks_of(logits):
            terms += block_loss(logits[block], slice(rows.start + block.start, rows.start + block.stop))
        return terms, logits

    return chunk_loss


def _add_divergence_(
    logprobs: torch.Tensor,
    local: torch.Tensor,
    ids: torch.Tensor,
    kept: torch.Tensor,
    rest: torch.Tensor,
    weight: torch.Tensor,
    kd_weight: torch.Tensor,
    measure: Measure,
    tail: str,
) -> torch.Tensor:
    """Replace log q, `[block_rows, V]`, by the gradient w q + w_kd dD/dz, and return D, `[queried_rows]`.

    Both are q times a factor per row, and something more at the kept tokens.
    """
    # the kept tokens' entries of log q in a line: on a CPU one index is twice as fast as two
    entries, places = logprobs.view(-1), (local[:, None] * logprobs.shape[1] + ids).view(-1)
    student = entries.index_select(0, places).view_as(kept)
    q = logprobs.exp_()
    if is_linear(measure, tail):
        # sum_S p (log p - log q) and M q - p: see `sparse_forward_kl_`
        p = kept.exp()
        values = (p * (kept.clamp(min=LOWEST) - student)).sum(dim=-1)
        factor, at_kept = p.sum(dim=-1), -kd_weight[:, None] * p
    else:
        # D over kept tokens and the rest: see `sparse_with_rest_`
        entries.index_fill_(0, places, 0.0)
        others = q.sum(dim=-1)[local, None].clamp(min=torch.finfo(q.dtype).tiny)
        values, derivative = measure(torch.cat([student, others.log()], dim=-1), torch.cat([kept, rest], dim=-1))
        total = derivative.sum(dim=-1, keepdim=True)
        factor = (derivative[:, -1:] / others - total).squeeze(1)
        student.exp_()
        at_kept = weight[local, None] * student + kd_weight[:, None] * (derivative[:, :-1] - student * total)
    q.mul_(weight.index_add(0, local, kd_weight * factor)[:, None])
    entries.scatter_add_(0, places, at_kept.view(-1))
    return values
