"""Embedding methods of one loss, `cosine` aside: RKD, LEAF, similarity KL, layer reduction, the task alone."""

from typing import ClassVar

import torch
from torch import nn

from kdkit.config.methods import LayerReduction, Leaf, Rkd, SimilarityKL, TaskOnly
from kdkit.embeddings.methods.base import (
    BatchViews,
    PairFacts,
    SentenceMethod,
    Start,
    Terms,
    keeps_angles,
    make_projection,
)
from kdkit.losses.sentences import (
    mse_of_units,
    rkd_angle,
    rkd_distance,
    similarity_kl,
    unit,
)


class RkdMethod(SentenceMethod):
    """Relational distillation: distances of pairs and angles of triples, which need no projection.

    Source: Park et al. 2019, arXiv 1904.05068, eq. 5-8.
    """

    COMPARED: ClassVar[dict[str, int]] = SentenceMethod.COMPARED | {"distance": 2, "angle": 3}

    def __init__(self, settings: Rkd, facts: PairFacts):
        super().__init__(settings, {"distance": settings.distance_weight, "angle": settings.angle_weight})

    def compare(self, views: BatchViews) -> Terms:
        """Return `distance` and `angle`."""
        student, teacher = unit(views.student.pooled), unit(views.teacher.pooled)
        terms = {"distance": rkd_distance(student, teacher), "angle": rkd_angle(student, teacher)}
        return {name: value for name, value in terms.items() if name in self.weights}


class LeafMethod(SentenceMethod):
    """LEAF: squared distance of W s to the teacher's unit vector, and W stays in the student.

    Its vectors have the teacher's width and can be compared with the teacher's own: a small model for the queries, the
    large one for the documents. Between equal widths that costs 0.4 points against plain cosine (120 steps, mean of
    seven tasks and three seeds, benchmarks/embedding_methods.py).

    Source: arXiv 2509.12539.
    """

    def __init__(self, settings: Leaf, facts: PairFacts):
        super().__init__(settings, {"distance": 1.0})
        self.head = nn.Linear(facts.student_width, facts.teacher_width, bias=False)

    def starts(self, teacher: torch.Tensor, layers: list[torch.Tensor]) -> list[Start]:
        """Fit W to the teacher's vectors; see `SentenceMethod.starts`."""
        return [Start(self.head, self.settings.projection, teacher, layers[-1])]

    def compare(self, views: BatchViews) -> Terms:
        """Return `distance`: summed over the width, averaged over the batch."""
        difference = self.head(views.student.pooled).float() - views.teacher.pooled
        return {"distance": difference.square().sum(-1).mean()}

    def kept_head(self) -> nn.Linear | None:
        """Return W, unless it is thrown away."""
        return self.head if self.settings.keep_head else None


class SimilarityKLMethod(SentenceMethod):
    """KL(teacher || student) between the softmax similarities of every sentence to the others of the batch.

    It needs no projection, whatever the widths. It ranks sentence pairs better than plain cosine (STS-B +0.2) and
    classifies worse (Emotion -2): 0.3 points less on the average (120 steps, three seeds,
    benchmarks/embedding_methods.py).
    """

    COMPARED: ClassVar[dict[str, int]] = SentenceMethod.COMPARED | {"kl": 3}

    def __init__(self, settings: SimilarityKL, facts: PairFacts):
        super().__init__(settings, {"kl": 1.0})

    def compare(self, views: BatchViews) -> Terms:
        """Return `kl`."""
        settings = self.settings
        loss = similarity_kl(
            views.student.pooled,
            views.teacher.pooled,
            student_temperature=settings.student_temperature,
            teacher_temperature=settings.teacher_temperature,
        )
        return {"kl": loss}


class LayerReductionMethod(SentenceMethod):
    """Mean squared error between unit vectors, sentence-transformers' recipe for a student cut out of its teacher.

    It is 2 / H_teacher times 1 - cos: with Adam the same but for weight decay, clipping and the optimizer's epsilon.
    """

    def __init__(self, settings: LayerReduction, facts: PairFacts):
        super().__init__(settings, {"mse": 1.0})
        self.projection = make_projection(settings.projection, facts.student_width, facts.teacher_width)
        self.holds_projection = keeps_angles(settings.projection, facts)

    def starts(self, teacher: torch.Tensor, layers: list[torch.Tensor]) -> list[Start]:
        """Fit W to the teacher's vectors; see `SentenceMethod.starts`."""
        return [Start(self.projection, self.settings.projection, teacher, layers[-1])]

    def compare(self, views: BatchViews) -> Terms:
        """Return `mse`."""
        return {"mse": mse_of_units(self.projection(views.student.pooled), views.teacher.pooled)}


class TaskMethod(SentenceMethod):
    """The contrastive loss alone: what the sentences teach without a teacher."""

    def __init__(self, settings: TaskOnly, facts: PairFacts):
        super().__init__(settings, {})

    def compare(self, views: BatchViews) -> Terms:
        """Return nothing: there is no teacher."""
        return {}
