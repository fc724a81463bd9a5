"""CDM: token states of the student mapped to those of a teacher with another tokenizer."""

import torch

from kdkit.config.methods import Cdm
from kdkit.embeddings.methods.base import BatchViews, MethodNeeds, PairFacts, Start, make_projection
from kdkit.embeddings.methods.token_method import Terms, TokenMethod, group_states
from kdkit.losses.tokens import vector_distance


class CdmMethod(TokenMethod):
    """CDM, adapted to embedding models: mapped token states and sentence vectors are drawn to the teacher's.

        token     mean over the batch's groups of 1 - cos(P S_g, T_g)
        sentence  mean of 1 - cos(P' s, t)

    The publication is about logits: it aligns two vocabularies and compares probabilities. An embedding model has
    none, so states take their place (the seed's adaptation). `paper` differs in the alignment alone, made in the data
    step: time warping in which tokens weigh differently. The published weights come from the entropy of predictions,
    which do not exist here either. `seed` maps single tokens of equal spelling by plain time warping, compares them
    by the mean squared error, and has one projection for tokens and sentences.

    Every group counts alike: with a mean per sentence those of short sentences would count most.

    Source: Chen et al. 2025, arXiv 2502.11104 (Findings of ACL 2025); seed: its contextual dynamic mapping.
    """

    def __init__(self, settings: Cdm, facts: PairFacts):
        """Build the projections P and P'; see `start_projection` for their first values."""
        compares_tokens = settings.token_weight > 0
        super().__init__(
            settings,
            facts,
            {"token": settings.token_weight, "sentence": settings.sentence_weight},
            settings.alignment if compares_tokens else None,
            MethodNeeds(tokens=compares_tokens, second=settings.task_weight > 0),
        )
        widths = facts.student_width, facts.teacher_width
        self.projection = make_projection(settings.projection, *widths)
        self.sentence_projection = (
            self.projection if settings.share_projection else make_projection(settings.projection, *widths)
        )
        self.teacher_state = settings.teacher_state
        if settings.teacher_state == "auto":
            self.teacher_state = "last" if facts.causal_teacher else "mean"

    def starts(self, teacher: torch.Tensor, layers: list[torch.Tensor]) -> list[Start]:
        """Fit both to the teacher's vectors, the one once where they are shared; see `SentenceMethod.starts`."""
        projections = (
            [self.projection] if self.settings.share_projection else [self.projection, self.sentence_projection]
        )
        return [Start(projection, self.settings.projection, teacher, layers[-1]) for projection in projections]

    def compare_tokens(self, views: BatchViews) -> Terms:
        """Return `token` and `sentence`."""
        terms, distance = {}, self.settings.distance
        if "token" in self.weights:
            states = group_states(views, self.teacher_state)
            terms["token"] = vector_distance(self.projection(states.student), states.teacher, distance, states.mask)
        if "sentence" in self.weights:
            projected = self.sentence_projection(views.student.pooled)
            terms["sentence"] = vector_distance(projected, views.teacher.pooled, distance)
        return terms
