"""Loss of one batch with several teachers: the weighted sum of what each alone would make of it.

    L = sum_i sum_k w_k(i) L_k(i) + (1 - sum_k w_k(i)) ce(i)

over the student's tokens i and the teachers k, where `L_k` is the loss of a training with teacher k alone (its
cross-entropy included) and the weights of a token sum to 1, or to 0 where nobody teaches.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np
import torch

from kdkit.alignment.spans import Spans, chunk_sequences
from kdkit.distill.objective import Objective
from kdkit.losses.chunked.blend import weighted_cross_entropy
from kdkit.losses.chunked.engine import ChunkLoss, rows_per_chunk
from kdkit.losses.chunked.signals import DenseSignals, Signals
from kdkit.losses.cross_entropy import IGNORE_INDEX


@dataclass(frozen=True)
class Lesson:
    """What one teacher says about a batch, and how much it counts."""

    objective: Objective
    spans: Spans
    signals: Signals
    weights: torch.Tensor
    """fp32, `[student_rows]`: see the formula above; on the student's device."""
    taught: np.ndarray
    """bool, `[student_rows]`: rows in the loss at which the weight is above 0."""


def committee_loss(
    lessons: Sequence[Lesson], targets: torch.Tensor, tokens: torch.Tensor, num_items: torch.Tensor
) -> tuple[ChunkLoss, list[slice]]:
    """Make the loss of a batch; see `Objective.loss_of`.

    Args:
        lessons: of the teachers that teach something of it, at least one.
        targets: int64, `[student_rows]`: what each row predicts; `IGNORE_INDEX` for rows in no loss.
        tokens: int64, `[student_rows]`: what the text goes on with, also at rows in no loss.
        num_items: tokens of the whole optimizer step.

    Returns:
        The chunk loss, whose terms are the loss, the raw cross-entropy, and the raw value of each teacher's loss where
        it teaches; and the chunks of student rows.
    """
    parts: list[ChunkLoss] = []
    is_logged = np.zeros(len(targets), bool)
    for lesson in lessons:
        own = torch.from_numpy(lesson.taught).to(targets.device)
        first = torch.from_numpy(lesson.taught & ~is_logged).to(targets.device)
        is_logged |= lesson.taught
        objective = replace(lesson.objective, row_weights=lesson.weights, logged_rows=first.float())
        counted = torch.from_numpy(lesson.taught)
        part, _ = objective.loss_of(
            lesson.spans, targets.masked_fill(~own, IGNORE_INDEX), lesson.signals, num_items, tokens, None, counted
        )
        parts.append(part)
    counted = targets != IGNORE_INDEX
    untaught = (counted & ~torch.from_numpy(is_logged).to(targets.device)).float() / num_items
    ce = weighted_cross_entropy(targets.clamp(min=0), untaught, untaught)
    rows_without = (counted.cpu().numpy() & ~is_logged) if not is_logged.all() else np.zeros(len(is_logged), bool)
    total = _add_up(parts, ce, [lesson.taught for lesson in lessons], rows_without)
    return total, list(_chunks(lessons, targets.device))


def _add_up(parts: list[ChunkLoss], ce: ChunkLoss, taught: list[np.ndarray], untaught: np.ndarray) -> ChunkLoss:
    """Add the losses of all teachers, and cross-entropy where nobody teaches.

    Args:
        taught: rows that each teacher has a part in; a chunk without any is not asked about.
        untaught: rows in the loss that nobody teaches.
    """

    def chunk_loss(logits: torch.Tensor, rows: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Sum the teachers' losses of some rows, and their gradients."""
        here = [number for number, of_one in enumerate(taught) if of_one[rows].any()]
        terms, total = logits.new_zeros(2 + len(parts)), None
        if untaught[rows].any() or not here:
            of_ce, total = ce(logits.clone() if here else logits, rows)
            terms[:2] += of_ce[:2]
        for number in here:
            # each may overwrite what it is given, so that the last one gets the logits themselves
            found, gradient = parts[number](logits if number == here[-1] else logits.clone(), rows)
            total = gradient if total is None else total.add_(gradient)
            terms[:2] += found[:2]
            terms[2 + number] += found[2]
        return terms, total

    return chunk_loss


def _chunks(lessons: Sequence[Lesson], device: torch.device) -> Iterator[slice]:
    """Cut the student's rows where spans of all teachers end, into chunks of at most as many rows as fit."""
    if any(lesson.objective.span_loss is not None and lesson.objective.span_loss.by_sequence for lesson in lessons):
        yield from chunk_sequences(lessons[0].spans)
        return
    widths = [lesson.signals.head.vocab_size for lesson in lessons if isinstance(lesson.signals, DenseSignals)]
    size = rows_per_chunk(max([lessons[0].objective.student_size, *widths]), device)
    starts = [lesson.spans.student_starts.numpy() for lesson in lessons]
    edges = reduce(np.intersect1d, starts)
    sides = [edges] + [
        lesson.spans.teacher_starts.numpy()[np.searchsorted(each, edges)]
        for lesson, each in zip(lessons, starts, strict=True)
    ]
    start, stop = 0, len(edges) - 1
    while start < stop:
        reach = min(int(np.searchsorted(side, side[start] + size, side="right")) - 1 for side in sides)
        end = min(max(reach, start + 1), stop)
        yield slice(int(edges[start]), int(edges[end]))
        start = end
