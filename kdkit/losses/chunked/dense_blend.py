"""Cross-entropy and a divergence from whole rows in one pass: at temperature 1 both need the same softmax.

It computes what `dense_divergence` and `weighted_cross_entropy` do one after the other, with one softmax of the student
and one of each teacher.
"""

from dataclasses import replace

import torch

from kdkit.losses.chunked.blend import BUFFERS, ChunkResult, QueriedRows, compare
from kdkit.losses.chunked.engine import ChunkLoss, Room, blocks_of, softmax_, to_device
from kdkit.losses.chunked.events import Events
from kdkit.losses.chunked.signals import DenseSignals
from kdkit.losses.closed_forms import Measure

MOST = 0.75
"""Where the teacher is queried at more of the rows than this, it is queried at all of them, with weight 0 at the
others: to copy those that count out of a block and back takes a CPU longer."""


def dense_blend(
    passes: list[DenseSignals],
    queried: QueriedRows,
    targets: torch.Tensor,
    weights: torch.Tensor,
    raw_weights: torch.Tensor,
    teacher_events: Events,
    measure: Measure,
) -> ChunkLoss:
    """Make the chunk loss of a blend at temperature 1 whose events are the student's tokens.

    Args:
        passes: signals of one or more passes of a teacher, whose divergences are averaged.
        targets: int64, `[student_rows]`: the token that each student row predicts.
        weights: fp32, `[student_rows]`: weight of each student row's cross-entropy in the loss.
        raw_weights: fp32, `[student_rows]`: in the logged term.
        measure: the divergence.
    """
    rooms = [Room() for _ in passes]
    queried, raw = _spread(queried, len(targets))

    def block_loss(logits: torch.Tensor, rows: slice, columns: list[torch.Tensor]) -> torch.Tensor:
        """Compute the terms of rows that fit into the buffers."""
        inside, local = queried.local(rows)
        chosen, weight = targets[rows, None], weights[rows].to(logits.dtype)
        kd_weight = queried.weights[inside].to(logits.dtype) / len(passes)
        q = softmax_(logits)
        ce = -logits.gather(1, chosen).squeeze(1)
        student = (logits, q) if local is None else (logits.index_select(0, local), q.index_select(0, local))
        compared = [compare(student, part, teacher_events, measure, 1.0) for part in columns]
        kd = torch.stack([values for values, _, _ in compared]).sum(dim=0) / len(passes)
        # by the logits, D has the gradient dD/dlog q less q times its sum
        total = torch.stack([total for _, _, total in compared]).sum(dim=0).squeeze(1) * kd_weight
        weight_of_q = weight - total if local is None else weight.index_add(0, local, -total)
        gradient = torch.mul(q, weight_of_q[:, None], out=logits)
        for _, derivative, _ in compared:
            if local is None:
                gradient.addcmul_(derivative, kd_weight[:, None])
            else:
                gradient.index_add_(0, local, derivative.mul_(kd_weight[:, None]))
        gradient.scatter_add_(1, chosen, -weight[:, None])
        loss = (ce * weight).sum() + (kd * kd_weight).sum() * len(passes)
        return torch.stack([loss, (ce * raw_weights[rows]).sum(), (kd * raw[inside]).sum()])

    def chunk_loss(logits: torch.Tensor, rows: slice) -> ChunkResult:
        """Compute a chunk in blocks that fit into the buffers; the gradient replaces the logits."""
        whole = queried.inside(rows)
        columns = [
            signals.columns(queried.teacher_rows[whole], teacher_events, room).to(logits.dtype)
            for signals, room in zip(passes, rooms, strict=True)
        ]
        terms = logits.new_zeros(3)
        for block in blocks_of(logits, BUFFERS):
            here = slice(rows.start + block.start, rows.start + block.stop)
            inside = queried.inside(here)
            part = slice(inside.start - whole.start, inside.stop - whole.start)
            terms += block_loss(logits[block], here, [column[part] for column in columns])
        return terms, logits

    return chunk_loss


def _spread(queried: QueriedRows, num_rows: int) -> tuple[QueriedRows, torch.Tensor]:
    """Return the queried rows, all of them where they are most, and the weight of each value in the logged term.

    A row that was not queried compares with the row that the one before it is compared with, and both of its weights
    are 0.

    Returns:
        The rows, and fp32, `[queried_rows]`.
    """
    raw = torch.as_tensor(queried.raw_weight, device=queried.weights.device).expand(len(queried.rows))
    if len(queried.rows) <= MOST * num_rows or len(queried.rows) == num_rows:
        return queried, raw
    rows = to_device(queried.rows, raw.device)
    weights, raw = (part.new_zeros(num_rows).index_copy(0, rows, part) for part in (queried.weights, raw))
    # a teacher is read in order, so a row that was not queried looks where the one before it does
    numbers = torch.arange(len(rows), device=rows.device)
    before = numbers.new_zeros(num_rows).index_copy(0, rows, numbers).cummax(dim=0).values
    teacher_rows = queried.teacher_rows[before.to(queried.teacher_rows.device)]
    return replace(queried, rows=torch.arange(num_rows), teacher_rows=teacher_rows, weights=weights), raw
