"""Chunk losses of distillation: cross-entropy and what the teacher adds, each with its gradient.

Letters: a student rows of the batch, c rows of a chunk, k asked rows, v vocabulary, g events, n spans.
Every chunk loss returns the terms `[loss, ce, kd]` of its rows: the weighted sum, and the raw sums of both.
See `kdkit.teacher.chunked`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from kdkit.distill.divergences import Measure, forward_kl
from kdkit.distill.sparse import at_temperature, renormalise, sparse_forward_kl_, sparse_with_rest_
from kdkit.teacher.answers import DenseAnswers, SparseAnswers
from kdkit.teacher.chunked import ChunkLoss, log_softmax_
from kdkit.teacher.events import Events, Tokens

ChunkResult = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Asked:
    """The student rows at which the teacher is asked, in order, and how much each one counts."""

    rows: torch.Tensor
    """int64, k: student rows, increasing."""
    teacher_rows: torch.Tensor
    """int64, k: the teacher row that has read the same text."""
    weights: torch.Tensor
    """fp32, k: weight of each value in the loss."""
    raw_weight: float
    """Weight of each value in the logged term."""

    def inside(self, rows: slice) -> slice:
        """Return which asked rows lie in a chunk."""
        first, last = torch.searchsorted(self.rows, torch.tensor([rows.start, rows.stop], device=self.rows.device))
        return slice(int(first), int(last))


def cross_entropy(targets: torch.Tensor, weights: torch.Tensor, raw_weights: torch.Tensor) -> ChunkLoss:
    """Make the chunk loss of weighted cross-entropy.

    Args:
        targets: int64, a: the token that each row predicts.
        weights: fp32, a: weight of each row in the loss.
        raw_weights: fp32, a: in the logged term.
    """

    def chunk_loss(logits: torch.Tensor, rows: slice) -> ChunkResult:
        logprobs = log_softmax_(logits)
        chosen, weight = targets[rows, None], weights[rows, None].to(logits.dtype)
        values = -logprobs.gather(1, chosen)
        terms = torch.stack([(values * weight).sum(), (values[:, 0] * raw_weights[rows]).sum(), values.new_zeros(())])
        return terms, logprobs.exp_().mul_(weight).scatter_add_(1, chosen, -weight)

    return chunk_loss


def dense_divergence(
    answers: DenseAnswers,
    asked: Asked,
    student_events: Events,
    teacher_events: Events,
    measure: Measure,
    temperature: float,
) -> ChunkLoss:
    """Make the chunk loss of a divergence from the teacher's whole rows, times temperature squared."""

    def gradient_of(events: torch.Tensor, inside: slice) -> ChunkResult:
        teacher_logprobs = answers.logprobs(asked.teacher_rows[inside], teacher_events, temperature)
        student_logprobs = events - events.logsumexp(dim=-1, keepdim=True)
        values, derivative = measure(teacher_logprobs, student_logprobs)
        total = derivative.sum(dim=-1, keepdim=True)
        return values, derivative.sub_(student_logprobs.exp_().mul_(total))

    return _divergence(asked, student_events, temperature, gradient_of)


def sparse_divergence(
    answers: SparseAnswers,
    asked: Asked,
    student_events: Events,
    measure: Measure,
    temperature: float,
    *,
    num_events: int,
    tail: str,
) -> ChunkLoss:
    """Make the chunk loss of a divergence from a cache's kept events, times temperature squared.

    Args:
        answers: one row per asked row.
        num_events: g.
        tail: `ghost`, `keep_mass`, `renormalise`; see `CacheConfig.tail`.
    """

    def gradient_of(events: torch.Tensor, inside: slice) -> ChunkResult:
        ids, logprobs, rest = answers.ids[inside].long(), answers.logprobs[inside], answers.rest[inside]
        if tail == "renormalise":
            logprobs, rest = renormalise(logprobs)
        logprobs, rest = at_temperature(logprobs, rest, answers.temperature / temperature, num_events)
        if measure is forward_kl and tail != "ghost":
            return sparse_forward_kl_(events, ids, logprobs)
        return sparse_with_rest_(events, ids, logprobs, rest, measure)

    return _divergence(asked, student_events, temperature, gradient_of)


def _divergence(
    asked: Asked,
    student_events: Events,
    temperature: float,
    gradient_of: Callable[[torch.Tensor, slice], ChunkResult],
) -> ChunkLoss:
    """Choose the asked rows, divide by the temperature, push to events, and pull the gradient back."""

    def chunk_loss(logits: torch.Tensor, rows: slice) -> ChunkResult:
        inside = asked.inside(rows)
        local = asked.rows[inside] - rows.start
        everywhere = len(local) == len(logits)
        chosen = logits if everywhere else logits.index_select(0, local)
        chosen = chosen.div_(temperature) if temperature != 1.0 else chosen
        events = student_events.push(chosen)
        kept = events.clone() if not isinstance(student_events, Tokens) else events
        values, gradient = gradient_of(events, inside)
        # T^2 for the value, 1 / T from the chain rule
        gradient = gradient.mul_((asked.weights[inside, None] * temperature).to(gradient.dtype))
        gradient = student_events.pull(gradient, chosen, kept)
        values = values * temperature**2
        raw = (values * asked.raw_weight).sum()
        terms = torch.stack([(values * asked.weights[inside]).sum(), torch.zeros_like(raw), raw])
        return terms, gradient if everywhere else torch.zeros_like(logits).index_copy_(0, local, gradient)

    return chunk_loss


def span_loss(
    values_of: Callable[[torch.Tensor, slice, slice], torch.Tensor],
    student_starts: torch.Tensor,
    weights: torch.Tensor,
    raw_weights: torch.Tensor,
) -> ChunkLoss:
    """Make the chunk loss of a loss over whole spans, differentiated by autograd inside the chunk.

    Args:
        values_of: from logits (c v, with a graph), their rows and their spans to a value per span.
        student_starts: int64, n + 1: first row of each span; chunks consist of whole spans.
        weights: fp32, n: weight of each span in the loss.
        raw_weights: fp32, n: in the logged term.
    """
    bounds = student_starts.cpu()

    def chunk_loss(logits: torch.Tensor, rows: slice) -> ChunkResult:
        first, last = torch.searchsorted(bounds, torch.tensor([rows.start, rows.stop])).tolist()
        spans = slice(first, last)
        with torch.enable_grad():
            leaf = logits.detach().clone().requires_grad_()
            values = values_of(leaf, rows, spans)
            loss = (values * weights[spans]).sum()
            (gradient,) = torch.autograd.grad(loss, leaf)
        raw = (values.detach() * raw_weights[spans]).sum()
        return torch.stack([loss.detach(), torch.zeros_like(raw), raw]), gradient

    return chunk_loss


def add_losses(teacher: ChunkLoss, ce: ChunkLoss) -> ChunkLoss:
    """Add two chunk losses; both may overwrite the logits they are given."""

    def chunk_loss(logits: torch.Tensor, rows: slice) -> ChunkResult:
        terms, gradient = teacher(logits.clone(), rows)
        ce_terms, ce_gradient = ce(logits, rows)
        return terms + ce_terms, gradient.add_(ce_gradient)

    return chunk_loss
