"""Which loss a pair of models is trained on, and why; and that loss for one batch.

Letters: a student rows, m teacher rows, n spans, k asked rows.
"""

from dataclasses import dataclass

import torch

from kdkit.config import Config
from kdkit.data.grouping import group_tokens
from kdkit.data.prepare import PreparedData
from kdkit.distill.chunk_losses import (
    Asked,
    TeacherLoss,
    average,
    blend,
    cross_entropy,
    dense_divergence,
    span_loss,
    sparse_divergence,
)
from kdkit.distill.divergences import make_measure
from kdkit.distill.span_losses import SpanLoss, make_span_loss
from kdkit.distill.sparse import check_sparse
from kdkit.distill.sparse_blend import sparse_blend
from kdkit.errors import UserError
from kdkit.settings import (
    ALM,
    Auto,
    CacheConfig,
    DivergenceSettings,
    ForwardKL,
    LossSettings,
    OverlapKL,
    ProjectedKL,
    XTokenPKL,
)
from kdkit.teacher.answers import Answers, DenseAnswers
from kdkit.teacher.batches import IGNORE_INDEX
from kdkit.teacher.chunked import ChunkLoss, rows_per_chunk
from kdkit.teacher.events import Common, Events, Grouped, Tokens
from kdkit.teacher.spans import Spans, chunk_sequences, chunk_spans

SAME_TOKENIZER = ("forward_kl", "reverse_kl", "jsd", "skewed_forward_kl", "skewed_reverse_kl", "tvd", "adaptive_kl")
"""Losses that compare token ids, which mean the same only under one tokenizer."""

FEW_SHARED_PREFIXES = 0.3
"""Share of the student's tokens below which `auto` compares whole spans instead."""


@dataclass(frozen=True)
class EventPair:
    """The same outcomes, seen from both vocabularies."""

    student: Events
    teacher: Events
    size: int
    """Number of events."""
    name: str
    """What the ids of a cache mean."""


@dataclass(frozen=True)
class Objective:
    """A loss with all that it needs, ready for batches."""

    settings: LossSettings
    temperature: float
    kd_ratio: float
    student_size: int
    """Tokens of the student's vocabulary."""
    events: EventPair | None = None
    """For divergences of distributions over events; None for losses over spans."""
    span_loss: SpanLoss | None = None
    logits_weight: float = 1.0
    """Weight of the teacher's predictions in its signal; see `TermWeights`. At 0 they are not computed."""
    ce_elsewhere: bool = True
    """Rows at which the teacher is not asked keep their cross-entropy; False: they are in no loss."""
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
        answers: Answers | tuple[Answers, ...] | None,
        num_items: float,
        tokens: torch.Tensor | None = None,
    ) -> tuple[ChunkLoss, list[slice]]:
        """Make the loss of a batch: token by token, cross-entropy and the teacher's term are blended.

        A row at which the teacher is asked gets `(1 - kd_ratio) * ce + kd_ratio * logits_weight * kd`. The
        others keep their whole cross-entropy: weighing it down would teach less about them, not more about the
        teacher. The value of a loss over spans counts once for each of the span's student rows.

        Args:
            targets: int64, a: what each student row predicts; `IGNORE_INDEX` for rows in no loss.
            answers: what the teacher says, or its passes, whose losses are averaged; None where it is not asked.
            num_items: tokens of the whole optimizer step.
            tokens: int64, a: what the text goes on with, also at rows in no loss; None: `targets` without them.

        Returns:
            The chunk loss, and the chunks of student rows that it is to be called with.
        """
        counted = targets != IGNORE_INDEX
        targets = targets.clamp(min=0)
        raw = counted.float() / num_items
        passes = answers if isinstance(answers, tuple) else () if answers is None else (answers,)
        width = max([self.student_size, *(part.head.vocab_size for part in passes if isinstance(part, DenseAnswers))])
        chunks = list(chunk_spans(spans, rows_per_chunk(width, targets.device)))
        if not passes:
            return cross_entropy(targets, raw, raw), chunks
        asked = self._asked_spans(spans, counted.cpu())
        rows = _rows_of(spans, asked) if self.span_loss else spans.student_starts[asked]
        rows = rows.to(raw.device)
        weights = raw.clone() if self.ce_elsewhere else torch.zeros_like(raw)
        weights[rows] = raw[rows] * (1.0 - self.kd_ratio)
        if self.logits_weight == 0.0:
            return cross_entropy(targets, weights, raw), chunks
        if self.span_loss is None:
            return self._blend_divergence(spans, asked, passes, num_items, (targets, weights, raw)), chunks
        if self.span_loss.by_sequence:
            chunks = list(chunk_sequences(spans))
        raw_spans = torch.zeros(len(spans.student_starts) - 1)
        raw_spans[asked] = spans.student_lengths[asked].float() / num_items
        raw_spans = raw_spans.to(raw.device)
        tokens = targets if tokens is None else tokens
        shares = self.kd_weight * raw_spans, raw_spans
        teacher = [
            span_loss(self.span_loss.bind(spans, tokens, part), spans.student_starts, counted, *shares)
            for part in passes
        ]
        return blend(average(teacher), cross_entropy(targets, weights, raw)), chunks

    def _asked_spans(self, spans: Spans, counted: torch.Tensor) -> torch.Tensor:
        """Return the spans at which the teacher is asked, as indices.

        A divergence looks at a span's first row, another loss at all its rows: these must be in the loss.
        """
        if self.span_loss is None:
            asked = counted[spans.student_starts[:-1]]
        else:
            left_out = torch.zeros(len(spans.student_starts) - 1, dtype=torch.int64)
            asked = left_out.index_add_(0, spans.span_of_student_rows(), (~counted).long()) == 0
        return (asked & spans.same_token if isinstance(self.settings, OverlapKL) else asked).nonzero().squeeze(1)

    def _blend_divergence(
        self,
        spans: Spans,
        asked_spans: torch.Tensor,
        passes: tuple[Answers, ...],
        num_items: float,
        ce: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    ) -> ChunkLoss:
        """Blend the divergence at the first rows of the asked spans with cross-entropy.

        Args:
            ce: arguments of `cross_entropy`.
        """
        assert self.events is not None
        device = passes[0].device
        asked = Asked(
            rows=spans.student_starts[asked_spans].to(device),
            teacher_rows=spans.teacher_starts[asked_spans],
            weights=torch.full((len(asked_spans),), self.kd_weight / num_items, device=device),
            raw_weight=1.0 / num_items,
        )
        measure = make_measure(divergence_of(self.settings))
        events, temperature = self.events, self.temperature
        teacher: list[TeacherLoss] = []
        for answers in passes:
            if isinstance(answers, DenseAnswers):
                pair = events.student, events.teacher
                teacher.append(dense_divergence(answers, asked, *pair, measure, temperature))
                continue
            kept = answers.at(asked_spans)
            if temperature == 1.0 and isinstance(events.student, Tokens):
                return sparse_blend(kept, asked, *ce, measure, self.tail, events.size)
            options = {"num_events": events.size, "tail": self.tail}
            teacher.append(sparse_divergence(kept, asked, events.student, measure, temperature, **options))
        return blend(average(teacher), cross_entropy(*ce))


def choose_loss(config: Config, data: PreparedData) -> tuple[LossSettings, str]:
    """Return the loss and the reason for it; `auto` decides by the tokenizers and what they share.

    Raises:
        UserError: a loss that compares ids, and two tokenizers.
    """
    settings = config.distill.loss
    if not isinstance(settings, Auto):
        check_tokenizers(settings, data)
        return settings, "asked for by distill.loss"
    if config.cache.enabled and config.cache.mode == "true_token":
        return ALM(), "the cache holds the log-probabilities of the text's own tokens only"
    if data.same_tokenizer:
        return ForwardKL(), "teacher and student share a tokenizer"
    facts = data.manifest["train"]
    share = f"{facts['same_prefix_share']:.0%} of the student's tokens start where a teacher token starts"
    if facts["same_prefix_share"] < FEW_SHARED_PREFIXES:
        return XTokenPKL(), f"the tokenizers differ, and only {share}, so whole spans are compared"
    finer = "student" if student_is_finer(data) else "teacher"
    return ProjectedKL(), f"the tokenizers differ, {share}, and the {finer}'s is the finer one, which gives the events"


def check_tokenizers(settings: LossSettings, data: PreparedData) -> None:
    """Refuse a loss that compares ids of different tokenizers.

    Raises:
        UserError: it does.
    """
    if settings.name in SAME_TOKENIZER and not data.same_tokenizer:
        sizes = data.overlap.student_size, data.overlap.teacher_size
        raise UserError(
            f"distill.loss: expected one tokenizer for {settings.name!r}, got a student with {sizes[0]} entries and a "
            f"teacher with {sizes[1]}, whose ids mean different tokens; set distill.loss=projected_kl (it takes a "
            f"divergence: {{name: projected_kl, divergence: {settings.name}}}), overlap_kl, alm, ..."
        )


def divergence_of(settings: LossSettings) -> DivergenceSettings:
    """Return the divergence that a loss over events uses."""
    return settings.divergence if isinstance(settings, OverlapKL | ProjectedKL) else settings


def student_is_finer(data: PreparedData) -> bool:
    """Say whether the student cuts the training text into at least as many tokens as the teacher."""
    return data.manifest["train"]["student_tokens"] >= data.manifest["train"]["teacher_tokens"]


def make_events(settings: LossSettings, data: PreparedData, device: torch.device) -> EventPair:
    """Prepare the outcomes that a divergence compares, with their tables on the student's device."""
    student_size, teacher_size = data.overlap.student_size, data.overlap.teacher_size
    if isinstance(settings, OverlapKL):
        student_ids, teacher_ids = (
            torch.from_numpy(ids).to(device) for ids in (data.overlap.student_ids, data.overlap.teacher_ids)
        )
        return EventPair(Common(student_ids), Common(teacher_ids), len(student_ids), "common tokens")
    if isinstance(settings, ProjectedKL) and not data.same_tokenizer:
        pair = data.student_tokenizer, data.teacher_tokenizer
        if student_is_finer(data):
            groups = torch.from_numpy(group_tokens(*pair)).to(device)
            return EventPair(Tokens(), Grouped(groups, student_size), student_size, "student tokens")
        groups = torch.from_numpy(group_tokens(*pair[::-1])).to(device)
        return EventPair(Grouped(groups, teacher_size), Tokens(), teacher_size, "teacher tokens")
    return EventPair(Tokens(), Tokens(), student_size, "tokens")


def compares_events(settings: LossSettings) -> bool:
    """Say whether a loss is a divergence over events, which a cache of events can serve."""
    return settings.name in SAME_TOKENIZER or isinstance(settings, OverlapKL | ProjectedKL)


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
        settings: the loss; not `auto`, see `choose_loss`.
        cache: how the answers were kept; None for an online teacher.
        logits_weight: weight of what the teacher predicts among the parts of its signal.

    Raises:
        UserError: a temperature that the loss does not take; a loss that the cache cannot serve.
    """
    check_temperature_is_taken(settings, temperature)
    if cache is not None:
        check_cached_loss(settings, cache)
    shared = {
        "settings": settings,
        "temperature": temperature,
        "kd_ratio": kd_ratio,
        "logits_weight": logits_weight,
    }
    size = data.overlap.student_size
    if not compares_events(settings):
        return Objective(**shared, student_size=size, span_loss=make_span_loss(settings, data, temperature, device))
    tail = "ghost" if cache is None else "renormalise" if cache.mode == "sampled" else cache.tail
    return Objective(**shared, student_size=size, events=make_events(settings, data, device), tail=tail)


def check_temperature_is_taken(settings: LossSettings, temperature: float) -> None:
    """Refuse a softmax temperature for a loss that has no softmax.

    Raises:
        UserError: naming the temperature that the loss does take.
    """
    if isinstance(settings, ALM) and temperature != 1.0:
        raise UserError(
            f"distill.temperature: expected 1 for 'alm', which compares likelihoods of text, got {temperature}; "
            "set distill.loss={name: alm, likelihood_temperature: ...}"
        )


def check_cached_loss(settings: LossSettings, cache: CacheConfig) -> None:
    """Refuse a loss that needs more than a cache of this mode holds.

    Raises:
        UserError: naming what would work.
    """
    if isinstance(settings, ALM):
        if cache.mode != "true_token":
            raise UserError(f"cache.mode: expected true_token for 'alm', got {cache.mode!r}; set cache.mode=true_token")
        return
    if cache.mode == "true_token" or not compares_events(settings):
        needs = "distributions, not true tokens" if compares_events(settings) else "the teacher's whole row"
        raise UserError(
            f"distill.loss: expected a loss that a cache of mode {cache.mode!r} can serve, got {settings.name!r}, "
            f"which needs {needs}; set cache.enabled=false, or distill.loss=auto"
        )
    check_sparse(divergence_of(settings), cache)


def _rows_of(spans: Spans, which: torch.Tensor) -> torch.Tensor:
    """Return all student rows of some spans."""
    chosen = torch.zeros(len(spans.student_starts) - 1, dtype=torch.bool)
    chosen[which] = True
    return chosen[spans.span_of_student_rows()].nonzero().squeeze(1)
