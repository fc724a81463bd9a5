"""What a method of embedding distillation sees of a batch, what it must know of the two models, and what it asks for.

Letters: b sentences in the batch, n student tokens (padding included), m teacher tokens, d_s and d_t widths of the
student's and the teacher's sentence vectors, l student layers, h heads.
"""

from dataclasses import dataclass, field

import torch

from kdkit.embeddings.teacher.asking import TeacherView


@dataclass
class StudentView:
    """The student's answer to the sentences of a batch, with gradient."""

    pooled: torch.Tensor
    """b d_s, fp32: sentence vectors, of any length."""
    attention_mask: torch.Tensor
    """b n: 1 at real tokens, special ones included."""
    layers: list[torch.Tensor] = field(default_factory=list)
    """l + 1 times b d_s: pooled layers, the embedding layer first; empty where not asked for."""
    hidden_states: tuple[torch.Tensor, ...] = ()
    """l + 1 times b n d_s: token states, the embedding layer first; empty where not asked for."""
    attentions: tuple[torch.Tensor, ...] = ()
    """l times b h n n (query, key): attention maps; empty where not asked for."""
    word_embeddings: torch.Tensor | None = None
    """b n d_s: rows of the student's embedding table; None where not asked for."""


@dataclass
class BatchViews:
    """What a method sees of one batch; all tensors on the student's device."""

    student: StudentView
    teacher: TeacherView
    text_ids: torch.Tensor
    """int64, b: equal where two sentences of the batch have the same text."""
    second: torch.Tensor | None = None
    """b d_s, with gradient: the same sentences under other dropout, or each one's partner; the positives of InfoNCE."""
    second_ids: torch.Tensor | None = None
    """int64, b: as `text_ids`, of the partners; None where the second views are of the same sentences."""
    student_group: torch.Tensor | None = None
    """int64, b n: group of aligned tokens of each student token, from 0 in every sentence; -1: in none."""
    teacher_group: torch.Tensor | None = None
    """int64, b m: the same for teacher tokens; one number means the same text on both sides."""
    teacher_word_embeddings: torch.Tensor | None = None
    """b m d_t: rows of the teacher's embedding table; None where not asked for."""


@dataclass(frozen=True)
class PairFacts:
    """What a method must know of the two models before it sees a batch, to build its projections."""

    student_width: int
    """d_s."""
    teacher_width: int
    """d_t."""
    student_layers: int
    """Transformer layers of the student, l."""
    teacher_layers: int
    """Transformer layers of the teacher."""
    causal_teacher: bool = False
    """Whether a teacher's token sees only what stands before it."""


@dataclass(frozen=True)
class MethodNeeds:
    """What a method asks the models for; each costs memory or another pass."""

    layers: bool = False
    """Pooled vectors of all student layers."""
    tokens: bool = False
    """Token states of both models' last layers, and groups of aligned tokens where `alignment` says how."""
    attention_layers: int = 0
    """Attention maps of so many last student layers and of the teacher layers that belong to them; 0: none."""
    second: bool = False
    """A second vector of each sentence."""
    word_embeddings: bool = False
    """Rows of both models' embedding tables for the tokens of the batch."""
