"""Distillation loss of one batch: cross-entropy blended with the teacher's term at the rows where it is queried."""

from dataclasses import dataclass

import torch

from kdkit.alignment.spans import Spans, chunk_sequences, chunk_spans
from kdkit.config.losses import LossSettings, OverlapKL
from kdkit.config.teacher import CacheConfig
from kdkit.data.prepare import PreparedData
from kdkit.distill.choose_loss import compares_events, divergence_of, make_events
from kdkit.distill.span_objective import SpanLoss, make_span_loss
from kdkit.losses.chunked.blend import (
    QueriedRows,
    TeacherLoss,
    average,
    blend,
    dense_divergence,
    span_loss,
    sparse_divergence,
    weighted_cross_entropy,
    with_open_part,
)
from kdkit.losses.chunked.dense_blend import dense_blend
from kdkit.losses.chunked.engine import ChunkLoss, rows_per_chunk, to_device
from kdkit.losses.chunked.events import EventPair, PrefixEvents, TokenEvents
from kdkit.losses.chunked.signals import DenseSignals, Signals
from kdkit.losses.chunked.sparse_blend import sparse_blend
from kdkit.losses.closed_forms import Measure
from kdkit.losses.cross_entropy import IGNORE_INDEX
from kdkit.losses.measures import make_measure
from kdkit.teachers.router.emphasis import Emphasis


@dataclass(frozen=True)
class Objective:
    """Distillation loss with all that it needs, ready for batches."""

    temperature: float
    kd_ratio: float
    student_size: int
    """Tokens of the student's vocabulary."""
    events: EventPair | None = None
    """For divergences of distributions over events; None for losses over spans."""
    measure: Measure | None = None
    """The divergence, where there are events."""
    same_tokens_only: bool = False
    """Whether the teacher is queried only where both models predict one and the same token."""
    span_loss: SpanLoss | None = None
    logits_weight: float = 1.0
    """Weight of the teacher's predictions in its signal; see `TermWeights`. At 0 they are not computed."""
    ce_elsewhere: bool = True
    """Rows at which the teacher is not queried keep their cross-entropy; False: they are in no loss."""
    row_weights: torch.Tensor | None = None
    """fp32, `[student_rows]` of one batch: how much each row counts in the loss, not in the logged terms; None: 1."""
    extra_ce: torch.Tensor | None = None
    """fp32, `[student_rows]` of one batch: added to the weight of a row's cross-entropy in the loss, not in the logged
    term; below 0 a token becomes less likely. None: 0."""
    logged_rows: torch.Tensor | None = None
    """fp32, `[student_rows]` of one batch: how much each row's cross-entropy counts in the logged term; None: 1."""
    tail: str = "ghost"
    """What a sparse teacher's unknown part is taken for; see `CacheConfig.tail`."""

    @property
    def asks_teacher(self) -> bool:
        """Whether the teacher's term has a weight."""
        return self.kd_ratio > 0.0

    @property
    def kd_weight(self) -> float:
        """Weight of the teacher's predictions in the loss."""
        return self.kd_ratio * self.logits_weight

    def loss_of(
        self,
        spans: Spans,
        targets: torch.Tensor,
        signals: Signals | tuple[Signals, ...] | None,
        num_items: torch.Tensor | float,
        tokens: torch.Tensor | None = None,
        emphasis: Emphasis | None = None,
        counted_here: torch.Tensor | None = None,
    ) -> tuple[ChunkLoss, list[slice]]:
        """Make the loss of a batch: token by token, cross-entropy and the teacher's term are blended.

        A row at which the teacher is queried gets `(1 - kd_ratio) * ce + kd_ratio * logits_weight * kd`. The
        others keep their whole cross-entropy: weighing it down would teach less about them, not more about the
        teacher. So does the choice among tokens that are one event to the teacher. The value of a loss over spans
        counts once for each of the span's student rows.

        Args:
            targets: int64, `[student_rows]`: what each row predicts; `IGNORE_INDEX` for rows in no loss.
            signals: the teacher's, or one per pass, whose losses are averaged; None where it is not queried.
            num_items: tokens of the whole optimizer step.
            tokens: int64, `[student_rows]`: what the text goes on with, also at rows in no loss; None: `targets`
                without them.
            emphasis: how much each place counts, of a batch that it has looked at; None: all alike.
            counted_here: bool, `[student_rows]`, on the CPU: rows in the loss; None: read from `targets`.

        Returns:
            The chunk loss, and the chunks of student rows that it is to be called with.
        """
        counted = targets != IGNORE_INDEX
        targets = targets.clamp(min=0)
        num_items = torch.as_tensor(num_items, dtype=torch.float32, device=targets.device)
        share = counted.float() / num_items
        raw = share if self.logged_rows is None else share * self.logged_rows
        passes = signals if isinstance(signals, tuple) else () if signals is None else (signals,)
        width = max([self.student_size, *(part.head.vocab_size for part in passes if isinstance(part, DenseSignals))])
        chunks = list(chunk_spans(spans, rows_per_chunk(width, targets.device)))
        if not passes:
            return weighted_cross_entropy(targets, share, raw), chunks
        queried = self.asked_spans(spans, counted.cpu() if counted_here is None else counted_here)
        rows = _rows_of(spans, queried) if self.span_loss else spans.student_starts[queried]
        rows = to_device(rows, raw.device)
        weights = self._ce_weights(share, rows)
        if self.logits_weight == 0.0:
            return weighted_cross_entropy(targets, weights, raw), chunks
        if self.span_loss is None:
            return self._blend_divergence(spans, queried, passes, num_items, (targets, weights, raw), emphasis), chunks
        if self.span_loss.by_sequence:
            chunks = list(chunk_sequences(spans))
        raw_spans = to_device(_lengths_of(spans, queried), raw.device) / num_items
        tokens = targets if tokens is None else tokens
        shares, gate = self.kd_weight * self._weigh(raw_spans, spans.student_starts[:-1]), None
        if emphasis is not None:
            shares[queried], gate = emphasis.weigh(shares[queried], queried), emphasis.gate
        teacher = [
            span_loss(self.span_loss.bind(spans, tokens, part), spans.student_starts, counted, shares, raw_spans, gate)
            for part in passes
        ]
        return blend(average(teacher), weighted_cross_entropy(targets, weights, raw)), chunks

    def _ce_weights(self, share: torch.Tensor, queried: torch.Tensor) -> torch.Tensor:
        """Return the weight of cross-entropy of each row, given that of a row in no other loss and the queried rows."""
        share = share if self.row_weights is None else share * self.row_weights
        weights = share.clone() if self.ce_elsewhere else torch.zeros_like(share)
        weights[queried] = share[queried] * (1.0 - self.kd_ratio)
        return weights if self.extra_ce is None else weights + self.extra_ce

    def _weigh(self, values: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Multiply values by the weights of their rows."""
        weights = self.row_weights
        return values if weights is None else values * weights[rows.to(weights.device)].to(values.device)

    def asked_spans(self, spans: Spans, counted: torch.Tensor) -> torch.Tensor:
        """Return the spans at which the teacher is queried, as indices.

        A divergence compares a span's first row, another loss all its rows: these must be in the loss.
        """
        if self.span_loss is None:
            queried = counted[spans.student_starts[:-1]]
        else:
            left_out = torch.zeros(len(spans.student_starts) - 1, dtype=torch.int64)
            queried = left_out.index_add_(0, spans.span_of_student_rows(), (~counted).long()) == 0
        return (queried & spans.same_token if self.same_tokens_only else queried).nonzero().squeeze(1)

    def _blend_divergence(
        self,
        spans: Spans,
        queried_spans: torch.Tensor,
        passes: tuple[Signals, ...],
        num_items: torch.Tensor,
        ce: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        emphasis: Emphasis | None,
    ) -> ChunkLoss:
        """Blend the divergence at the first rows of the queried spans with cross-entropy.

        Args:
            ce: arguments of `weighted_cross_entropy`.
            emphasis: see `loss_of`.
        """
        assert self.events is not None and self.measure is not None
        device = passes[0].device
        rows = to_device(spans.student_starts[queried_spans], device)
        weights = self._weigh((self.kd_weight / num_items).expand(len(queried_spans)), rows)
        queried = QueriedRows(
            rows=spans.student_starts[queried_spans],
            teacher_rows=to_device(spans.teacher_starts[queried_spans], device),
            weights=weights if emphasis is None else emphasis.weigh(weights, queried_spans),
            raw_weight=1.0 / num_items,
            gate=None if emphasis is None else emphasis.gate,
        )
        events, measure, temperature = self.events, self.measure, self.temperature
        same_softmax = temperature == 1.0 and isinstance(events.student, TokenEvents)
        if same_softmax and emphasis is None and all(isinstance(signals, DenseSignals) for signals in passes):
            return dense_blend(list(passes), queried, *ce, events.teacher, measure)
        teacher: list[TeacherLoss] = []
        for signals in passes:
            if isinstance(signals, DenseSignals):
                pair = events.student, events.teacher
                teacher.append(dense_divergence(signals, queried, *pair, measure, temperature))
                continue
            kept = signals.at(queried_spans)
            if same_softmax:
                return sparse_blend(kept, queried, *ce, measure, self.tail, events.size)
            options = {"num_events": events.size, "tail": self.tail}
            teacher.append(sparse_divergence(kept, queried, events.student, measure, temperature, **options))
        return blend(average(teacher), self._cross_entropy(ce, rows, num_items))

    def _cross_entropy(
        self, ce: tuple[torch.Tensor, torch.Tensor, torch.Tensor], rows: torch.Tensor, num_items: torch.Tensor
    ) -> ChunkLoss:
        """Make the cross-entropy of a blend; which token of an event comes is the text's to say, with its whole weight.

        Args:
            ce: arguments of `weighted_cross_entropy`.
            rows: at which the teacher is asked.
        """
        assert self.events is not None
        if not isinstance(self.events.student, PrefixEvents) or not self.ce_elsewhere:
            return weighted_cross_entropy(*ce)
        shares = self._weigh((self.kd_ratio / num_items).expand(len(rows)), rows)
        weights = torch.zeros_like(ce[1]).index_copy_(0, rows, shares)
        return with_open_part(weighted_cross_entropy(*ce), self.events.student.groups, ce[0], weights)


def make_objective(
    settings: LossSettings,
    data: PreparedData,
    *,
    kd_ratio: float,
    temperature: float,
    device: torch.device,
    cache: CacheConfig | None = None,
    logits_weight: float = 1.0,
) -> Objective:
    """Prepare a loss for a pair of vocabularies.

    Args:
        settings: the loss; not `auto`, see `choose_loss`. That it fits the pair, the temperature and the cache is
            checked by `plan_stages`.
        cache: how the signals were kept; None for an online teacher.
        logits_weight: weight of the teacher's predictions among the parts of its signal.
    """
    shared = {
        "temperature": temperature,
        "kd_ratio": kd_ratio,
        "logits_weight": logits_weight,
    }
    size = data.overlap.student_size
    if not compares_events(settings):
        return Objective(**shared, student_size=size, span_loss=make_span_loss(settings, data, temperature, device))
    tail = "ghost" if cache is None else "renormalise" if cache.mode == "sampled" else cache.tail
    return Objective(
        **shared,
        student_size=size,
        events=make_events(settings, data, device),
        measure=make_measure(divergence_of(settings)),
        same_tokens_only=isinstance(settings, OverlapKL),
        tail=tail,
    )


def _lengths_of(spans: Spans, which: torch.Tensor) -> torch.Tensor:
    """Return the student rows of some spans, fp32, `[N]`; 0 for the others."""
    lengths = torch.zeros(len(spans.student_starts) - 1)
    lengths[which] = spans.student_lengths[which].float()
    return lengths


def _rows_of(spans: Spans, which: torch.Tensor) -> torch.Tensor:
    """Return all student rows of some spans."""
    chosen = torch.zeros(len(spans.student_starts) - 1, dtype=torch.bool)
    chosen[which] = True
    return chosen[spans.span_of_student_rows()].nonzero().squeeze(1)
