"""Stella: vectors, similarities and their order, also for the first numbers of a vector."""

import re
from typing import ClassVar

import torch
from torch import nn

from kdkit.config.embeddings import EmbeddingStage
from kdkit.config.methods import Stella
from kdkit.config.training import ParameterRule
from kdkit.embeddings.methods.base import BatchViews, PairFacts, SentenceMethod, Start, Terms
from kdkit.embeddings.models.embedder import EmbeddingModel
from kdkit.errors import UserError
from kdkit.losses.sentences import (
    cosine_distance,
    ranking_loss,
    similarity_mse,
    unit,
)
from kdkit.models.taps import decoder_layers

SHARES = (4000 / 13200, 7000 / 13200, 2200 / 13200)
"""Steps of the paper's first three stages (arXiv 2412.19048, 4.2)."""
RATES = (1.0, 0.8, 0.7)
"""Their peak learning rates as shares of the first one's, 1e-4."""
LAST_LAYERS = 3
"""Encoder layers that the paper's second stage trains."""


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

    COMPARED: ClassVar[dict[str, int]] = SentenceMethod.COMPARED | {
        "similarity": 2,
        "ranking": 3,
        "small_similarity": 2,
        "small_ranking": 3,
    }

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

    def starts(self, teacher: torch.Tensor, layers: list[torch.Tensor]) -> list[Start]:
        """Fit heads of the teacher's width to its vectors; those of smaller ones are random directions."""
        fitted = self.settings.projection, teacher, layers[-1]
        width = self.head.out_features
        heads = [self.head, *self.small_heads]
        return [Start(head, *fitted) if head.out_features == width else Start(head, "orthogonal") for head in heads]

    def default_stages(self, student: EmbeddingModel, learning_rate: float) -> list[EmbeddingStage]:
        """Return the stages of the paper or of the seed; see `SentenceMethod.default_stages`."""
        form, rates = self.settings.form, [learning_rate * rate for rate in RATES]
        if form == "recommended":
            return []
        if form == "seed":  # its second stage trains everything
            return [_stage("head", 0.4, ["^student\\."], small_widths=False), _stage("all", 0.6, [])]
        return [
            _stage("head", SHARES[0], ["^student\\."], rates[0], small_widths=False),
            _stage("last-layers", SHARES[1], [_below_last_layers(student)], rates[1], small_widths=False),
            _stage("all", SHARES[2], [], rates[2]),
        ]

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


def _below_last_layers(student: EmbeddingModel) -> str:
    """Return a pattern of the parameters that the paper's second stage freezes: embeddings and lower layers."""
    names = {id(module): name for name, module in student.named_modules()}
    frozen = [f"student.{names[id(layer)]}." for layer in decoder_layers(student.backbone)[:-LAST_LAYERS]]
    frozen.append(f"student.{_embedding_prefix(student)}")
    return "^(" + "|".join(map(re.escape, frozen)) + ")"


def _stage(
    name: str, share: float, frozen: list[str], learning_rate: float | None = None, small_widths: bool = True
) -> EmbeddingStage:
    rules = [ParameterRule(pattern=pattern, lr_multiplier=0.0) for pattern in frozen]
    return EmbeddingStage(
        name=name,
        share=share,
        learning_rate=learning_rate,
        parameter_lr_multipliers=rules,
        small_widths=small_widths,
    )


def _embedding_prefix(student: EmbeddingModel) -> str:
    """Return the module name that word, position and type embeddings share, such as `backbone.embeddings.`."""
    table = student.backbone.get_input_embeddings()
    name = next(name for name, module in student.named_modules() if module is table)
    return name.rpartition(".")[0] + "." if "embeddings" in name else name
