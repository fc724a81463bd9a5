"""Late interaction: a student with a vector for every token learns the teacher's scores of a batch's documents."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from kdkit.config.methods import LateInteraction
from kdkit.embeddings.methods.base import MethodNeeds, PairFacts, SentenceMethod, Start, Terms, make_projection
from kdkit.embeddings.methods.projections import principal_directions
from kdkit.embeddings.models.late import PUNCTUATION, LateReading
from kdkit.embeddings.models.pooling import pool
from kdkit.losses.ranking.late_interaction import contrast_scores, maxsim
from kdkit.losses.sentences import cosine_distance, list_kl, unit


@dataclass
class LateViews:
    """What the method sees of one batch: B queries and the D distinct documents of all of them, on one device."""

    queries: torch.Tensor
    """`[B, Tq, H_student]`, with gradient: token states of the queries."""
    query_counts: torch.Tensor
    """bool, `[B, Tq]`: tokens that are scored."""
    documents: torch.Tensor
    """`[D, Td, H_student]`, with gradient: token states of the documents."""
    document_counts: torch.Tensor
    """bool, `[D, Td]`."""
    query_mask: torch.Tensor
    """int64, `[B, Tq]`: 1 at real tokens."""
    document_mask: torch.Tensor
    """int64, `[D, Td]`."""
    partner: torch.Tensor
    """int64, `[B]`: each query's own document."""
    left_out: torch.Tensor
    """bool, `[B, D]`: documents that are no negatives of a query: its own text, or a partner of the same query."""
    teacher_scores: torch.Tensor
    """fp32, `[B, D]`; NaN where the teacher was not asked."""
    teacher_vectors: torch.Tensor
    """fp32, `[B + D, H_teacher]`: the teacher's vectors of queries and documents."""


class LateInteractionMethod(SentenceMethod):
    """KL(teacher || student) of the softmax over the documents of a batch, the student's scores being MaxSim.

    Beside it the mean of a text's token states learns the teacher's vector, as in `cosine`: few documents of a batch
    are near a query, and their scores alone teach slowly.

    A linear map of every token's state, at length 1, makes its vector. Scores are divided by the number of the query's
    tokens (`score: mean`), so that they have the range of a teacher's cosines and one temperature serves both sides:
    sentence-transformers' MeanMaxSim. Its own default is the sum.

    Source: Khattab & Zaharia 2020, arXiv 2004.12832; distilled as in ColBERTv2, arXiv 2112.01488.
    """

    COMPARED: ClassVar[dict[str, int]] = SentenceMethod.COMPARED | {"score": 2}

    def __init__(self, settings: LateInteraction, facts: PairFacts):
        super().__init__(settings, {"score": settings.score_weight, "cosine": settings.cosine_weight})
        self.needs = MethodNeeds(late=True, lists=settings.hard_negatives)
        self.head = nn.Linear(facts.student_width, settings.width, bias=False)
        self.projection = nn.Identity()
        if settings.cosine_weight:
            self.projection = make_projection(settings.projection, facts.student_width, facts.teacher_width)
        self.late = LateReading(
            query_length=settings.query_length,
            document_length=settings.document_length or facts.max_length,
            query_prompt=settings.query_prompt,
            document_prompt=settings.document_prompt,
            expansion=settings.query_length if settings.query_expansion else 0,
            skipped=tuple(PUNCTUATION) if settings.skip_punctuation else (),
            mean=settings.score == "mean",
        )

    def starts(self, teacher: torch.Tensor, layers: list[torch.Tensor]) -> list[Start]:
        """Start at the directions along which the student's vectors are longest; see `SentenceMethod.starts`."""
        vectors, width = unit(layers[-1]), self.head.out_features
        target = vectors @ principal_directions(vectors, width) if width < vectors.shape[1] else None
        how = self.settings.projection
        return [Start(self.head, how, target, vectors), Start(self.projection, how, teacher, layers[-1])]

    @torch.no_grad()
    def start_from(self, own: nn.Linear) -> None:
        """Start at the map of a model that has token vectors already, where its width is the wanted one."""
        if own.weight.shape == self.head.weight.shape:
            self.head.weight.copy_(own.weight)

    def forward(self, views: LateViews) -> Terms:
        """Return `score`, `cosine` and `task`, those that count; a document without a token to score has no part."""
        with torch.autocast(views.queries.device.type, enabled=False):
            queries, documents = (unit(self.head(states.float())) for states in (views.queries, views.documents))
        scores = maxsim(queries, documents, views.query_counts, views.document_counts, mean=self.late.mean)
        terms, is_there = {}, views.document_counts.any(dim=1)
        if "score" in self.weights:
            teacher = views.teacher_scores.masked_fill(~is_there, float("nan"))
            terms["score"] = list_kl(scores, teacher, self.settings.temperature)
        if "task" in self.weights:
            has_partner = is_there[views.partner]
            parts = (scores, views.partner, views.left_out | ~is_there)
            temperature = self.settings.task_temperature
            terms["task"] = contrast_scores(*(part[has_partner] for part in parts), temperature)
        if "cosine" in self.weights:
            parts = (views.queries, views.query_mask), (views.documents, views.document_mask)
            means = torch.cat([pool(states, mask, "mean") for states, mask in parts])
            terms["cosine"] = cosine_distance(self.projection(means), views.teacher_vectors)
        return terms

    def kept_head(self) -> nn.Linear:
        """Return the map of token states."""
        return self.head
