"""The base class of embedding methods that compare sentence vectors.

A method is a module: its projections are its parameters, made in the constructor, and it turns the outputs of student
and teacher for a batch into terms. The loss is the sum of the terms times `weights`. Methods that compare tokens start
from `token_method`.
"""

import torch
from torch import nn

from kdkit.config.methods import Cosine, Stella, Talas
from kdkit.embeddings.methods.views import BatchViews, MethodNeeds
from kdkit.losses.sentences import info_nce

Terms = dict[str, torch.Tensor]


class SentenceMethod(nn.Module):
    """A method on sentence vectors, with the contrastive task beside its own terms.

    InfoNCE needs a second view of every sentence; with weight 0 it is not made.
    """

    alignment: str | None = None

    def __init__(self, settings: Cosine | Talas | Stella, weights: dict[str, float]):
        super().__init__()
        self.settings = settings
        self.weights = {name: value for name, value in weights.items() if value}
        if settings.task_weight:
            self.weights["task"] = settings.task_weight
        self.needs = MethodNeeds(second=bool(settings.task_weight))

    def forward(self, views: BatchViews) -> Terms:
        """Return the raw terms of a batch."""
        terms = self.compare(views)
        if "task" in self.weights:
            temperature = self.settings.task_temperature
            ids = views.text_ids, views.second_ids
            terms["task"] = info_nce(views.student.pooled, views.second, temperature, *ids)
        return terms

    def compare(self, views: BatchViews) -> Terms:
        """Return the terms that compare the student with its teacher."""
        raise NotImplementedError

    @property
    def sharpness(self) -> tuple[str, float, float] | None:
        """Kind, rho and eta of sharpness-aware steps (see `kdkit.embeddings.training.sharpness`); None: plain steps."""
        return None

    def kept_head(self) -> nn.Linear | None:
        """Return the projection that stays in the student; None: its vectors are used as they are."""
        return None

    def other_heads(self) -> list[nn.Linear]:
        """Return projections that are saved beside it, for vectors of other widths."""
        return []
