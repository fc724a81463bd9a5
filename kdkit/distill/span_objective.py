"""Cross-tokenizer losses over spans, bound to a pair of vocabularies and to one batch.

See `kdkit.losses.cross_tokenizer`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from kdkit.alignment.projection import Projection, build_projection
from kdkit.alignment.spans import Spans
from kdkit.alignment.tokenizers import end_token_id, token_bytes
from kdkit.config.losses import ALM, CDM, ULD, Gold, LossSettings, XTokenHKL, XTokenPKL
from kdkit.data.prepare import PreparedData
from kdkit.losses.chunked.signals import Signals, TokenSignals
from kdkit.losses.cross_tokenizer import (
    alm,
    gold,
    uld,
    xtoken_h_kl,
    xtoken_p_kl,
)
from kdkit.losses.dynamic_mapping import TokenMatcher, cdm

ValuesOf = Callable[[torch.Tensor, slice, slice], torch.Tensor]
"""From the logits of whole spans (`[rows, V_student]`), their rows and their spans to a value per span."""


@dataclass(frozen=True)
class SpanLoss:
    """Cross-tokenizer loss over spans with the tables of its pair of vocabularies, on the student's device."""

    settings: LossSettings
    temperature: float
    student_ids: torch.Tensor
    """int64: tokens with a partner (X-Token H-KL, GOLD); empty for the others."""
    teacher_ids: torch.Tensor
    """int64: their partners."""
    projection: Projection | None = None
    """X-Token's matrix."""
    matcher: TokenMatcher | None = None
    """How both vocabularies spell their tokens (CDM)."""

    @property
    def by_sequence(self) -> bool:
        """Whether the loss needs whole sequences at once."""
        return isinstance(self.settings, CDM)

    def bind(self, spans: Spans, targets: torch.Tensor, signals: Signals) -> ValuesOf:
        """Return the loss of one batch.

        Args:
            spans: of the batch.
            targets: int64, `[student_rows]`: the token that each row predicts.
            signals: the teacher's for the batch.
        """
        rows = _Rows(spans, targets, signals)
        settings, temperature = self.settings, self.temperature
        match settings:
            case ALM():
                return lambda logits, at, which: alm(
                    rows.student_logprobs(logits, at),
                    rows.teacher_logprobs(which),
                    *rows.numbers(which),
                    settings.likelihood_temperature,
                )
            case ULD():
                return lambda logits, _, which: uld(
                    logits, rows.teacher_logits(which), *rows.numbers(which), temperature
                )
            case Gold():
                return lambda logits, at, which: gold(
                    logits,
                    rows.teacher_logits(which),
                    *rows.numbers(which),
                    targets[at],
                    rows.teacher_targets(which),
                    self.student_ids,
                    self.teacher_ids,
                    temperature,
                    settings.teacher_weight,
                )
            case XTokenHKL():
                return lambda logits, _, which: xtoken_h_kl(
                    logits,
                    rows.teacher_logits(which),
                    *rows.numbers(which),
                    self.student_ids,
                    self.teacher_ids,
                    temperature,
                    settings.kept_uncommon,
                )
            case CDM():
                return lambda logits, at, which: self._warped(rows, logits, at, which, settings.top_k)
            case XTokenPKL():
                assert self.projection is not None
                ids, weights = (
                    torch.from_numpy(table).to(rows.device) for table in (self.projection.ids, self.projection.weights)
                )
                return lambda logits, _, which: xtoken_p_kl(
                    logits,
                    rows.teacher_logits(which),
                    *rows.numbers(which),
                    ids,
                    weights,
                    temperature,
                    settings.kept_teacher_ids,
                )
        raise AssertionError(settings.name)

    def _warped(self, rows: "_Rows", logits: torch.Tensor, at: slice, which: slice, top_k: int) -> torch.Tensor:
        """Return the value of each span of one sequence: the mean over its rows of the groups they fall into."""
        assert self.matcher is not None
        values, groups = cdm(
            logits,
            rows.teacher_logits(which),
            rows.targets[at],
            rows.teacher_targets(which),
            self.matcher,
            top_k,
            temperature=self.temperature,
        )
        numbers, _ = rows.numbers(which)
        sums = values.new_zeros(which.stop - which.start).index_add(0, numbers, values[groups])
        return sums / torch.bincount(numbers).to(values.dtype)


def make_span_loss(settings: LossSettings, data: PreparedData, temperature: float, device: torch.device) -> SpanLoss:
    """Prepare a loss over spans for a pair of vocabularies."""
    projection = matcher = None
    pairs = data.overlap.student_ids, data.overlap.teacher_ids
    if isinstance(settings, XTokenPKL | XTokenHKL):
        projection = build_projection(data.student_tokenizer, data.teacher_tokenizer)
    if isinstance(settings, XTokenHKL):
        pairs = projection.partners(settings.min_weight)
    if isinstance(settings, CDM):
        pair = data.student_tokenizer, data.teacher_tokenizer
        matcher = TokenMatcher(*map(token_bytes, pair), tuple(map(end_token_id, pair)))
    student_ids, teacher_ids = (torch.from_numpy(ids).to(device) for ids in pairs)
    return SpanLoss(settings, temperature, student_ids, teacher_ids, projection, matcher)


class _Rows:
    """The rows of one batch, looked up by the spans of a chunk."""

    def __init__(self, spans: Spans, targets: torch.Tensor, signals: Signals):
        self.device = targets.device
        self.signals = signals
        self.targets = targets
        self._starts = spans.student_starts, spans.teacher_starts
        self._spans = spans.span_of_student_rows(), spans.span_of_teacher_rows()

    def numbers(self, which: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the span of every student and every teacher row of some spans, counted from 0."""
        return tuple(
            (spans[starts[which.start] : starts[which.stop]] - which.start).to(self.device)
            for spans, starts in zip(self._spans, self._starts, strict=True)
        )

    def teacher_rows(self, which: slice) -> torch.Tensor:
        """Return the teacher rows of some spans."""
        starts = self._starts[1]
        return torch.arange(int(starts[which.start]), int(starts[which.stop]))

    def teacher_logits(self, which: slice) -> torch.Tensor:
        """Return the teacher's logits for some spans."""
        return self.signals.logits(self.teacher_rows(which))

    def teacher_targets(self, which: slice) -> torch.Tensor:
        """Return the tokens that the teacher's rows of some spans predict."""
        return self.signals.targets[self.teacher_rows(which).to(self.device)]

    def student_logprobs(self, logits: torch.Tensor, rows: slice) -> torch.Tensor:
        """Return the student's log-probability of the text's own tokens."""
        return torch.log_softmax(logits, dim=-1).gather(1, self.targets[rows, None]).squeeze(1)

    def teacher_logprobs(self, which: slice) -> torch.Tensor:
        """Return the teacher's."""
        rows = self.teacher_rows(which)
        if isinstance(self.signals, TokenSignals):
            return self.signals.logprobs[rows.to(self.device)]
        logits = self.signals.logits(rows)
        return torch.log_softmax(logits, dim=-1).gather(1, self.teacher_targets(which)[:, None]).squeeze(1)
