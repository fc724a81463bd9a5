"""The base class of embedding distillation methods, what a method sees of a batch, and what it needs of the models.

A method is a module: its projections are its parameters, made in the constructor, and it turns the outputs of student
and teacher for a batch into terms. The loss is the sum of the terms times `weights`. The plainest one, `CosineMethod`,
stands at the end as an example. Methods that compare tokens start from `token_method`.
"""

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import torch
from torch import nn

from kdkit.config.embeddings import EmbeddingStage
from kdkit.config.method_base import Projection
from kdkit.config.methods import Cosine, Stella, Talas
from kdkit.embeddings.models.embedder import EmbeddingModel
from kdkit.embeddings.models.late import LateReading
from kdkit.embeddings.teacher.answers import TeacherView
from kdkit.losses.sentences import cosine_distance, info_nce

Terms = dict[str, torch.Tensor]
PROJECTION_LR_MULTIPLIER = 5.0
"""Factor of the learning rate for projections that are trained and whose settings name none."""


@dataclass
class StudentView:
    """The student's outputs for the sentences of a batch, with gradient."""

    pooled: torch.Tensor
    """fp32, `[B, H_student]`: sentence vectors, of any length."""
    attention_mask: torch.Tensor
    """`[B, S]`: 1 at real tokens, special ones included."""
    layers: list[torch.Tensor] = field(default_factory=list)
    """`num_layers + 1` tensors `[B, H_student]`: pooled layers, the embedding layer first; empty where not needed."""
    hidden_states: tuple[torch.Tensor, ...] = ()
    """`num_layers + 1` tensors `[B, S, H_student]`: token states, the embedding layer first; empty where not needed."""
    attentions: tuple[torch.Tensor, ...] = ()
    """`num_layers` tensors `[B, num_heads, S, S]` (query, key): attention maps; empty where not needed."""
    word_embeddings: torch.Tensor | None = None
    """`[B, S, H_student]`: rows of the student's embedding table; None where not needed."""


@dataclass
class BatchViews:
    """What a method sees of one batch; all tensors on the student's device."""

    student: StudentView
    teacher: TeacherView
    text_ids: torch.Tensor
    """int64, `[B]`: equal where two sentences of the batch have the same text."""
    second: torch.Tensor | None = None
    """`[B, H_student]`, with gradient: InfoNCE's positives, the sentences under other dropout or their partners."""
    second_ids: torch.Tensor | None = None
    """int64, `[B]`: as `text_ids`, of the partners; None where the second views are of the same sentences."""
    lists: torch.Tensor | None = None
    """`[B, 1 + negatives, H_student]`, with gradient: the documents of each sentence's list, its partner first."""
    list_scores: torch.Tensor | None = None
    """fp32, `[B, 1 + negatives]`: the teacher's scores of them; NaN where there is no document."""
    list_vectors: torch.Tensor | None = None
    """fp32, `[B, 1 + negatives, H_teacher]`: the teacher's vectors of them."""
    student_group: torch.Tensor | None = None
    """int64, `[B, S]`: group of aligned tokens of each student token, from 0 in every sentence; -1: in none."""
    teacher_group: torch.Tensor | None = None
    """int64, `[B, T]`: the same for teacher tokens; one number means the same text on both sides."""
    teacher_word_embeddings: torch.Tensor | None = None
    """`[B, T, H_teacher]`: rows of the teacher's embedding table; None where not needed."""


@dataclass(frozen=True)
class PairFacts:
    """Widths and depths of the two models, from which a method builds its projections before it sees a batch."""

    student_width: int
    """`H_student`: width of the student's sentence vectors."""
    teacher_width: int
    """`H_teacher`: width of the teacher's sentence vectors."""
    student_layers: int
    """Transformer layers of the student."""
    teacher_layers: int
    """Transformer layers of the teacher."""
    causal_teacher: bool = False
    """Whether the teacher's tokens attend only to those before them."""
    max_length: int = 128
    """Longest sentence in the student's tokens (`data.max_length`)."""
    late_teacher: bool = False
    """Whether the teacher has a vector for every token."""


@dataclass(frozen=True)
class MethodNeeds:
    """Outputs of the models that a method needs; each costs memory or another pass."""

    layers: Literal["", "own", "cls"] = ""
    """Vectors of all student layers, pooled as its last one or by the first token; empty: none."""
    tokens: bool = False
    """Token states of both models' last layers, and groups of aligned tokens where there is an `alignment`."""
    attention_layers: int = 0
    """Attention maps of so many last student layers and of the teacher layers that belong to them; 0: none."""
    second: bool = False
    """A second vector of each sentence."""
    lists: bool = False
    """A list of documents for each sentence, and the teacher's scores of them."""
    word_embeddings: bool = False
    """Rows of both models' embedding tables for the tokens of the batch."""
    late: bool = False
    """Token states of queries and documents, and the teacher's scores of all their pairs, in place of the above."""


@dataclass(frozen=True)
class Start:
    """How a projection starts: by which rule, and from vectors of the same sentences on both of its sides."""

    projection: nn.Module
    """Linear without bias; an identity has nothing to start."""
    how: Projection
    target: torch.Tensor | None = None
    """`[num_sentences, out_width]`: what its outputs are to be like; None: not known."""
    source: torch.Tensor | None = None
    """`[num_sentences, in_width]`: its inputs; None: not known."""


class SentenceMethod(nn.Module):
    """A method on sentence vectors, with the contrastive task beside its own terms.

    InfoNCE needs a second view of every sentence; with weight 0 it is not made.
    """

    COMPARED: ClassVar[dict[str, int]] = {"task": 2}
    """Sentences that each term on relations compares with each other, at least."""
    alignment: str | None = None
    """How tokens of both models are put together; None: that is not needed."""
    late: LateReading | None = None
    """How its student reads queries and documents, if it has a vector for every token."""
    holds_projection: bool = False
    """Whether its projection stays as it starts, unless `projection_lr_multiplier` says otherwise."""
    trains_small_widths: bool = True
    """Whether smaller widths, if the method has some, are trained in the stage that the trainer is in."""

    def __init__(self, settings: Cosine | Talas | Stella, weights: dict[str, float]):
        super().__init__()
        self.settings = settings
        self.weights = {name: value for name, value in weights.items() if value}
        if settings.task_weight:
            self.weights["task"] = settings.task_weight
        self.needs = MethodNeeds(second=bool(settings.task_weight))

    @property
    def min_batch(self) -> int:
        """Sentences without which one of the terms compares nothing with nothing, and is 0."""
        return max([1, *(count for term, count in self.COMPARED.items() if term in self.weights)])

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

    def starts(self, teacher: torch.Tensor, layers: list[torch.Tensor]) -> list[Start]:
        """Return how each projection starts, in the order of `named_modules`, in which random numbers are drawn.

        Args:
            teacher: `[num_sentences, H_teacher]`, the teacher's vectors of some sentences.
            layers: `[num_sentences, H_student]` each, the student's vectors of these sentences by layer, lowest first.
        """
        return []

    def default_stages(self, student: EmbeddingModel, learning_rate: float) -> list[EmbeddingStage]:
        """Return the stages of `train.stages: auto`; none: one stage that trains everything.

        Args:
            learning_rate: `train.learning_rate`.
        """
        return []

    @property
    def projection_lr_multiplier(self) -> float:
        """Factor of the learning rate for projections."""
        given = self.settings.projection_lr_multiplier
        if given is not None:
            return given
        return 0.0 if self.holds_projection else PROJECTION_LR_MULTIPLIER

    @property
    def sharpness(self) -> tuple[str, float, float] | None:
        """Kind, rho and eta of sharpness-aware steps (see `kdkit.embeddings.training.sharpness`); None: plain steps."""
        return None

    def kept_head(self) -> nn.Linear | None:
        """Return the projection that stays in the student; None: its vectors are used as they are."""
        return None

    def dress(self, student: EmbeddingModel) -> None:
        """Give a student what stays in it."""
        student.head = self.kept_head()
        if self.late is not None:
            student.reading = replace(student.reading, late=self.late, normalize=True)

    def other_heads(self) -> list[nn.Linear]:
        """Return projections that are saved beside it, for vectors of other widths."""
        return []


def make_projection(how: Projection, in_width: int, out_width: int) -> nn.Module:
    """Make a projection that is thrown away after training, with its start still to come.

    With `auto` and equal widths there is none: what it would learn, the student would not.
    """
    if how == "auto" and in_width == out_width:
        return nn.Identity()
    return nn.Linear(in_width, out_width, bias=False)


def keeps_angles(how: Projection, facts: PairFacts) -> bool:
    """Whether a projection starts with orthonormal columns: while it stays, W s and s have the same similarities.

    One that is trained may turn into the teacher's directions what the student then does not learn: from random weights
    and with a third of the teacher's width that cost 2.2 points (benchmarks/embedding_gain.py, docs/embeddings.md).
    """
    return how in ("auto", "fitted") and facts.student_width < facts.teacher_width


class CosineMethod(SentenceMethod):
    """1 - cos(W s, t): EmbedDistill (arXiv 2301.12005), without W where the widths are equal."""

    def __init__(self, settings: Cosine, facts: PairFacts):
        super().__init__(settings, {"cosine": 1.0})
        self.projection = make_projection(settings.projection, facts.student_width, facts.teacher_width)
        self.holds_projection = keeps_angles(settings.projection, facts)

    def starts(self, teacher: torch.Tensor, layers: list[torch.Tensor]) -> list[Start]:
        """Fit W to the teacher's vectors; see `SentenceMethod.starts`."""
        return [Start(self.projection, self.settings.projection, teacher, layers[-1])]

    def compare(self, views: BatchViews) -> Terms:
        """Return `cosine`."""
        return {"cosine": cosine_distance(self.projection(views.student.pooled), views.teacher.pooled)}
