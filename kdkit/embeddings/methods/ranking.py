"""Methods on lists of documents: the margins, or the distribution, of a teacher's scores beside its vectors."""

import torch

from kdkit.config.methods import ListKL, MarginMse
from kdkit.embeddings.methods.base import BatchViews, MethodNeeds, PairFacts, SentenceMethod, Start, make_projection
from kdkit.losses.sentences import cosine_distance, list_kl, margin_mse, unit


class ListMethod(SentenceMethod):
    """The teacher's scores of a query's list, matched by the student's cosines, and 1 - cos to the teacher's vectors.

    The list is the row's partner and hard negatives (`data.negatives`); the scores are those of the embedding teacher
    or of a cross-encoder (`teacher.cross_encoder`).
    """

    def __init__(self, settings: MarginMse | ListKL, facts: PairFacts):
        super().__init__(settings, {"list": settings.list_weight, "cosine": settings.cosine_weight})
        self.needs = MethodNeeds(second=bool(settings.task_weight), lists=True)
        self.projection = make_projection(settings.projection, facts.student_width, facts.teacher_width)

    def starts(self, teacher: torch.Tensor, layers: list[torch.Tensor]) -> list[Start]:
        """Fit W to the teacher's vectors; see `SentenceMethod.starts`."""
        return [Start(self.projection, self.settings.projection, teacher, layers[-1])]

    def compare(self, views: BatchViews) -> dict[str, torch.Tensor]:
        """Return `list` and `cosine`, those that count."""
        terms = {}
        if "list" in self.weights:
            with torch.autocast(views.lists.device.type, enabled=False):
                scores = (unit(views.lists) * unit(views.student.pooled)[:, None]).sum(dim=-1)
            terms["list"] = self.compare_scores(scores, views.list_scores)
        if "cosine" in self.weights:
            terms["cosine"] = cosine_distance(*self.vectors_of(views))
        return terms

    def vectors_of(self, views: BatchViews) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the vectors, projected, and the teacher's: of the queries, `[B, H]`, and of all documents there."""
        student, teacher = views.student.pooled, views.teacher.pooled
        if self.settings.cosine_of == "all":
            is_there = ~views.list_scores.isnan()
            student = torch.cat([student, views.lists[is_there]])
            teacher = torch.cat([teacher, views.list_vectors[is_there]])
        return self.projection(student), teacher

    def compare_scores(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Return the loss of the scores, `[B, 1 + negatives]` on both sides."""
        raise NotImplementedError


class MarginMseMethod(ListMethod):
    """Margin MSE: Hofstatter et al. 2020, arXiv 2010.02666."""

    def compare_scores(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Return the squared difference of the margins."""
        return margin_mse(student, teacher)


class ListKLMethod(ListMethod):
    """KL(teacher || student) over each list, as in RocketQAv2, arXiv 2110.07367, with the teacher frozen."""

    def compare_scores(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Return the divergence, in nats."""
        return list_kl(student, teacher, self.settings.temperature)
