"""Chunk losses of distillation: cross-entropy and the teacher's part, each with its gradient.

Every chunk loss returns the terms `[loss, ce, kd]` of its rows: the weighted sum, and the raw sums of both.
See `kdkit.losses.chunked.engine`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from kdkit.losses.chunked.engine import ChunkLoss, Room, blocks_of, cross_entropy_, softmax_, to_device
from kdkit.losses.chunked.events import Events, TokenEvents
from kdkit.losses.chunked.signals import DenseSignals, SparseSignals
from kdkit.losses.closed_forms import Measure, forward_kl_with_gradient, value_and_derivative
from kdkit.losses.sparse import at_temperature, renormalise, sparse_forward_kl_, sparse_with_rest_

ChunkResult = tuple[torch.Tensor, torch.Tensor]
TeacherLoss = Callable[[torch.Tensor, slice, bool], tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]]
"""From a chunk's logits, its rows, and whether the logits may be overwritten, to terms, the rows of the chunk at
which the teacher is queried (None: all) and the gradient by their logits."""

Gate = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""From the values of the teacher's loss at some places and their weights to other weights, `[places]` each."""


BUFFERS = 4
"""Rows of log-probabilities and probabilities of both models, which a divergence reads at once."""


@dataclass(frozen=True)
class QueriedRows:
    """The student rows at which the teacher is queried, in order, and how much each one counts."""

    rows: torch.Tensor
    """int64, `[queried_rows]`: student rows, increasing; on the CPU, where chunks are cut."""
    teacher_rows: torch.Tensor
    """int64, `[queried_rows]`: the teacher row that has read the same text."""
    weights: torch.Tensor
    """fp32, `[queried_rows]`: weight of each value in the loss."""
    raw_weight: torch.Tensor | float
    """Weight of each value in the logged term."""
    gate: Gate | None = None
    """What the weights become once the values are known; None: they stay. Dense signals only."""

    def weigh(self, inside: slice, values: torch.Tensor) -> torch.Tensor:
        """Return the weights of some queried rows whose values are known, `[rows]`."""
        weights = self.weights[inside]
        return weights if self.gate is None else self.gate(values, weights)

    def inside(self, rows: slice) -> slice:
        """Return which queried rows lie in a chunk."""
        return slice(*torch.searchsorted(self.rows, torch.tensor([rows.start, rows.stop])).tolist())

    def local(self, rows: slice) -> tuple[slice, torch.Tensor | None]:
        """Return which queried rows lie in a chunk, and where in it: None for everywhere."""
        inside = self.inside(rows)
        if inside.stop - inside.start == rows.stop - rows.start:
            return inside, None
        return inside, to_device(self.rows[inside] - rows.start, self.weights.device)


def weighted_cross_entropy(targets: torch.Tensor, weights: torch.Tensor, raw_weights: torch.Tensor) -> ChunkLoss:
    """Make the chunk loss of weighted cross-entropy.

    Args:
        targets: int64, `[student_rows]`: the token that each row predicts.
        weights: fp32, `[student_rows]`: weight of each row in the loss.
        raw_weights: fp32, `[student_rows]`: in the logged term.
    """

    def chunk_loss(logits: torch.Tensor, rows: slice) -> ChunkResult:
        """Compute a chunk's cross-entropy; its gradient replaces the logits."""
        weight = weights[rows].to(logits.dtype)
        values = cross_entropy_(logits, targets[rows], weight)
        terms = torch.stack([(values * weight).sum(), (values * raw_weights[rows]).sum(), values.new_zeros(())])
        return terms, logits

    return chunk_loss


def with_open_part(ce: ChunkLoss, groups: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> ChunkLoss:
    """Add to cross-entropy what an event leaves open: which of its tokens comes, given that one of them does.

    Args:
        ce: from `weighted_cross_entropy`.
        groups: int64, `[V]`: the event of each token.
        targets: int64, `[student_rows]`: the token that each row predicts.
        weights: fp32, `[student_rows]`: weight of each row's open part in the loss.
    """

    def chunk_loss(logits: torch.Tensor, rows: slice) -> ChunkResult:
        """Compute a chunk's cross-entropy among all tokens and, beside it, among those of each target's event."""
        here, group = targets[rows], groups[targets[rows], None]
        within = logits.masked_fill(groups != group, -torch.inf)
        weight = weights[rows].to(logits.dtype)
        loss = (cross_entropy_(within, here, weight) * weight).sum()
        terms, gradient = ce(logits, rows)
        return terms + torch.nn.functional.pad(loss[None], (0, 2)), gradient.add_(within)

    return chunk_loss


def dense_divergence(
    signals: DenseSignals,
    queried: QueriedRows,
    student_events: Events,
    teacher_events: Events,
    measure: Measure,
    temperature: float,
) -> TeacherLoss:
    """Make a divergence from the teacher's whole rows, times temperature squared."""
    room = Room()

    def divergence_(events: torch.Tensor, inside: slice) -> torch.Tensor:
        """Compare the events' logits, which the gradient replaces, with the teacher's whole rows."""
        columns = signals.columns(queried.teacher_rows[inside], teacher_events, room)
        values = events.new_empty(len(events))
        for block in blocks_of(columns, BUFFERS):
            student = events[block], softmax_(events[block])
            values[block], derivative, total = compare(student, columns[block], teacher_events, measure, temperature)
            torch.addcmul(derivative, student[1], total, value=-1.0, out=events[block])
        return values

    return _divergence(queried, student_events, temperature, divergence_)


def compare(
    student: tuple[torch.Tensor, torch.Tensor],
    columns: torch.Tensor,
    teacher_events: Events,
    measure: Measure,
    temperature: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Compare some rows of both models.

    Args:
        student: the events' log-probabilities and probabilities, `[rows, num_events]` each.
        columns: the teacher's, see `DenseSignals.columns`; overwritten.

    Returns:
        Values, `[rows]`; the derivative by the student's log-probabilities, `[rows, num_events]`, and its sum,
        `[rows, 1]`: by the logits it is the derivative less probability times sum.
    """
    logprobs, probabilities = teacher_events.softmax_(columns, temperature)
    values, derivative = value_and_derivative(measure, student[0], logprobs, (student[1], probabilities))
    return values, derivative, derivative.sum(dim=-1, keepdim=True)


def sparse_divergence(
    signals: SparseSignals,
    queried: QueriedRows,
    student_events: Events,
    measure: Measure,
    temperature: float,
    *,
    num_events: int,
    tail: str,
) -> TeacherLoss:
    """Make a divergence from a cache's kept events, times temperature squared.

    Args:
        signals: one row per queried row.
        num_events: kept and not kept.
        tail: `ghost`, `keep_mass`, `renormalise`; see `CacheConfig.tail`.
    """

    def divergence_(events: torch.Tensor, inside: slice) -> torch.Tensor:
        """Compare the events' logits, which the gradient replaces, with the events that the cache kept."""
        ids, (kept, rest) = signals.ids[inside].long(), teacher_logprobs(signals, inside, tail, temperature, num_events)
        values = events.new_empty(len(events))
        for block in blocks_of(events):
            part = events[block], ids[block], kept[block]
            if is_linear(measure, tail):
                values[block] = sparse_forward_kl_(*part)
            else:
                values[block] = sparse_with_rest_(*part, rest[block], measure)
        return values

    return _divergence(queried, student_events, temperature, divergence_)


def teacher_logprobs(
    signals: SparseSignals, inside: slice, tail: str, temperature: float, num_events: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a cache's log-probabilities at some queried rows, at a temperature and with a tail.

    Returns:
        fp32: of the kept events, `[queried_rows, K]`, and of the rest, `[queried_rows, 1]`.
    """
    kept, rest = signals.logprobs[inside], signals.rest[inside]
    if tail == "renormalise":
        kept, rest = renormalise(kept)
    return at_temperature(kept, rest, signals.temperature / temperature, num_events)


def is_linear(measure: Measure, tail: str) -> bool:
    """Return whether a divergence is a sum over the kept events alone, linear in the student's log-probabilities."""
    return measure is forward_kl_with_gradient and tail != "ghost"


def _divergence(
    queried: QueriedRows,
    student_events: Events,
    temperature: float,
    divergence_: Callable[[torch.Tensor, slice], torch.Tensor],
) -> TeacherLoss:
    """Choose the queried rows, push them to events at the temperature, and pull the gradient back.

    Args:
        divergence_: from the events' tempered logits, which it replaces by its gradient, to values per row.
    """

    def teacher_loss(
        logits: torch.Tensor, rows: slice, may_overwrite: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """Compare a chunk's queried rows at the temperature; the logits stay as they are unless they may go."""
        inside, local = queried.local(rows)
        chosen = logits.index_select(0, local) if local is not None else logits if may_overwrite else logits.clone()
        gradient = student_events.push(chosen, temperature)
        events = gradient if isinstance(student_events, TokenEvents) else gradient.clone()
        values = divergence_(gradient, inside) * temperature**2
        weights = queried.weigh(inside, values)
        # T^2 for the value, 1 / T from the chain rule
        gradient.mul_((weights[:, None] * temperature).to(gradient.dtype))
        gradient = student_events.pull(gradient, chosen, events, temperature)
        raw = (values * queried.raw_weight).sum()
        terms = torch.stack([(values * weights).sum(), torch.zeros_like(raw), raw])
        return terms, local, gradient

    return teacher_loss


def span_loss(
    values_of: Callable[[torch.Tensor, slice, slice], torch.Tensor],
    student_starts: torch.Tensor,
    counted: torch.Tensor,
    weights: torch.Tensor,
    raw_weights: torch.Tensor,
    gate: Gate | None = None,
) -> TeacherLoss:
    """Make a loss over whole spans, differentiated by autograd inside the chunk.

    Args:
        values_of: from logits (`[chunk_rows, V]`, with a graph), their rows and their spans to a value per span.
        student_starts: int64, `[N + 1]`: first row of each span; chunks consist of whole spans.
        counted: bool, `[student_rows]`: rows in the loss; the others get no gradient, whatever they are averaged with.
        weights: fp32, `[N]`: weight of each span in the loss.
        raw_weights: fp32, `[N]`: in the logged term.
        gate: see `QueriedRows.gate`.
    """
    bounds = student_starts.cpu()

    def teacher_loss(logits: torch.Tensor, rows: slice, _: bool) -> tuple[torch.Tensor, None, torch.Tensor]:
        """Compute the values of a chunk's spans on a copy of its logits, and their gradient."""
        first, last = torch.searchsorted(bounds, torch.tensor([rows.start, rows.stop])).tolist()
        spans = slice(first, last)
        with torch.enable_grad():
            leaf = logits.detach().clone().requires_grad_()
            values = values_of(leaf, rows, spans)
            weight = weights[spans]
            if gate is not None:
                queried = weight.nonzero().squeeze(1)
                weight = weight.index_copy(0, queried, gate(values.detach()[queried], weight[queried]))
            loss = (values * weight).sum()
            (gradient,) = torch.autograd.grad(loss, leaf)
        gradient.masked_fill_(~counted[rows, None], 0.0)
        raw = (values.detach() * raw_weights[spans]).sum()
        return torch.stack([loss.detach(), torch.zeros_like(raw), raw]), None, gradient

    return teacher_loss


def average(losses: list[TeacherLoss]) -> TeacherLoss:
    """Average the losses of several passes of a teacher over the same rows."""
    if len(losses) == 1:
        return losses[0]

    def teacher_loss(
        logits: torch.Tensor, rows: slice, _: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """Average terms and gradients of every pass, whose queried rows are the same."""
        terms, local, gradient = losses[0](logits, rows, False)
        for loss in losses[1:]:
            more_terms, _same_rows, more = loss(logits, rows, False)
            terms, gradient = terms + more_terms, gradient.add_(more)
        return terms / len(losses), local, gradient.div_(len(losses))

    return teacher_loss


def blend(teacher: TeacherLoss, ce: ChunkLoss) -> ChunkLoss:
    """Add the teacher's loss to cross-entropy."""

    def chunk_loss(logits: torch.Tensor, rows: slice) -> ChunkResult:
        """Compute both on the same chunk: the teacher's part first, since cross-entropy overwrites the logits."""
        terms, local, gradient = teacher(logits, rows, False)
        ce_terms, total = ce(logits, rows)
        return terms + ce_terms, total.add_(gradient) if local is None else total.index_add_(0, local, gradient)

    return chunk_loss


def alone(teacher: TeacherLoss) -> ChunkLoss:
    """Take the teacher's loss for the whole loss."""

    def chunk_loss(logits: torch.Tensor, rows: slice) -> ChunkResult:
        """Compute a chunk's terms; rows at which the teacher is not queried have no gradient."""
        terms, local, gradient = teacher(logits, rows, True)
        return terms, gradient if local is None else torch.zeros_like(logits).index_copy_(0, local, gradient)

    return chunk_loss
