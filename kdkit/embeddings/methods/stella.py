"""Stella: vectors, similarities and their order, also for the first numbers of a vector."""

import torch
from torch import nn

from kdkit.config.methods import Stella
from kdkit.embeddings.methods.base import BatchViews, PairFacts, SentenceMethod, Start, Terms
from kdkit.errors import UserError
from kdkit.losses.sentences import (
    cosine_distance,
    ranking_loss,
    similarity_mse,
    unit,
)


class StellaMethod(SentenceMethod):
    """Stella: the teacher's vector, its similarities, and their order, also for the first numbers of the vector.

        cosine      1 - cos(h, t),  h = W s
        similarity  mean over pairs of (h_i . h_j - t_i . t_j)^2
        ranking     mean of max(0, h_m . h_n - h_i . h_j + margin) where t_i . t_j > t_m . t_n

    Smaller widths learn similarity and ranking only.

    Source: Zhang et al. 2024, arXiv 2412.19048, eq. 1-4.

    Raises:
        UserError: a smaller width beyond the teacher's, where it is a part of the same vector.
    """

    def __init__(self, settings: Stella, facts: PairFacts):
        weights = {
            "cosine": settings.cosine_weight,
            "similarity": settings.similarity_weight,
            "ranking": settings.ranking_weight,
        }
        if settings.dimensions:
            weights |= {f"small_{name}": settings.small_weight * weights[name] for name in ("similarity", "ranking")}
        super().__init__(settings, weights)
        too_wide = [width for width in settings.dimensions if width > facts.teacher_width]
        if too_wide and not settings.separate_heads:
            raise UserError(
                f"method.dimensions: expected widths up to the teacher's {facts.teacher_width}, got {too_wide[0]}; "
                "set others, or separate_heads"
            )
        self.head = nn.Linear(facts.student_width, facts.teacher_width, bias=False)
        widths = settings.dimensions if settings.separate_heads else []
        self.small_heads = nn.ModuleList(nn.Linear(facts.student_width, width, bias=False) for width in widths)
        self.trains_small_widths = True

    def starts(self, teacher: torch.Tensor, layers: list[torch.Tensor]) -> list[Start]:
        """Fit heads of the teacher's width to its vectors; those of smaller ones are random directions."""
        fitted = {self.head.out_features: (self.settings.projection, teacher, layers[-1])}
        heads = [self.head, *self.small_heads]
        return [Start(head, *fitted.get(head.out_features, ("orthogonal",))) for head in heads]

    def compare(self, views: BatchViews) -> Terms:
        """Return `cosine`, `similarity`, `ranking`, and the means of the last two over the smaller widths."""
        pooled, teacher = views.student.pooled, views.teacher.pooled
        large = self.head(pooled)
        terms = {"cosine": cosine_distance(large, teacher)}
        terms |= self._relations(large, teacher, views.text_ids)
        widths = self.settings.dimensions if self.trains_small_widths else []
        small = [head(pooled) for head in self.small_heads] or [large[:, :width] for width in widths]
        if widths:
            reference = large if self.settings.small_reference == "head" else teacher
            relations = [self._relations(vectors, reference, views.text_ids) for vectors in small]
            terms |= {f"small_{k}": torch.stack([terms_[k] for terms_ in relations]).mean() for k in relations[0]}
        return {name: value for name, value in terms.items() if name in self.weights}

    def _relations(self, vectors: torch.Tensor, reference: torch.Tensor, text_ids: torch.Tensor) -> Terms:
        """Compare similarities and their order with those of a reference."""
        student, teacher = unit(vectors), unit(reference)
        settings = self.settings
        ranking = ranking_loss(student, teacher, settings.margin, settings.max_comparisons, text_ids)
        return {"similarity": similarity_mse(student, teacher), "ranking": ranking}

    def kept_head(self) -> nn.Linear | None:
        """Return the large head, unless it is thrown away."""
        return self.head if self.settings.keep_head else None

    def other_heads(self) -> list[nn.Linear]:
        """Return the heads of the smaller widths, unless they are thrown away."""
        return list(self.small_heads) if self.settings.keep_head else []
