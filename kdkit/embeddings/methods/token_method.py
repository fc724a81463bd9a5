"""The base class of methods that compare token states: groups of aligned tokens, and full precision."""

from dataclasses import dataclass
from typing import Literal

import torch

from kdkit.config.methods import Cdm, Dskd, Emo
from kdkit.embeddings.methods.base import BatchViews, MethodNeeds, PairFacts, SentenceMethod, Terms
from kdkit.errors import UserError
from kdkit.losses.precision import at_least_fp32
from kdkit.losses.tokens import group_means


@dataclass(frozen=True)
class GroupStates:
    """Both models' states of the same groups of tokens."""

    student: torch.Tensor
    """fp32, `[B, num_groups, H_student]`."""
    teacher: torch.Tensor
    """fp32, `[B, num_groups, H_teacher]`."""
    mask: torch.Tensor
    """bool, `[B, num_groups]`: groups that are there on both sides."""


class TokenMethod(SentenceMethod):
    """A method that compares token states, in full precision also under autocast."""

    def __init__(
        self,
        settings: Dskd | Cdm | Emo,
        facts: PairFacts,
        weights: dict[str, float],
        alignment: str | None,
        needs: MethodNeeds,
    ):
        """Set weights, alignment and needs.

        Args:
            weights: of the terms besides `task`; those of 0 are not computed.
            alignment: how tokens are aligned; None: they are not needed.
            needs: besides the second view.
        """
        super().__init__(settings, weights)
        self.facts, self.alignment, self.needs = facts, alignment, needs

    def compare(self, views: BatchViews) -> Terms:
        """Return the terms that compare the student with its teacher.

        Raises:
            UserError: a student whose token states are not as wide as its sentence vectors.
        """
        states = views.student.hidden_states
        if states and states[-1].shape[-1] != self.facts.student_width:
            raise UserError(
                f"method: expected token states as wide as sentence vectors for {self.settings.name!r}, got "
                f"{states[-1].shape[-1]} and {self.facts.student_width}; choose a method that compares sentences, or a "
                "student without a Dense module"
            )
        with torch.autocast(views.text_ids.device.type, enabled=False):
            return self.compare_tokens(views)

    def compare_tokens(self, views: BatchViews) -> Terms:
        """Return the same; autocast is off."""
        raise NotImplementedError


def token_states(views: BatchViews) -> tuple[torch.Tensor, torch.Tensor]:
    """Return both models' last token states, `[B, S, H_student]` and `[B, T, H_teacher]`, in fp32 (fp64 stays)."""
    return at_least_fp32(views.student.hidden_states[-1]), at_least_fp32(views.teacher.token_states)


def num_groups(views: BatchViews) -> int:
    """Return the most groups a sentence can have, min(S, T): a group has at least one token on either side."""
    return min(views.student_group.shape[1], views.teacher_group.shape[1])


def group_states(views: BatchViews, teacher_state: Literal["mean", "last"] = "mean") -> GroupStates:
    """Average both models' last token states over groups.

    Args:
        views: with groups.
        teacher_state: of several teacher tokens: their mean, or the last.
    """
    student, teacher = token_states(views)
    student, has_student = group_means(student, views.student_group, num_groups(views))
    teacher, has_teacher = group_means(teacher, views.teacher_group, num_groups(views), teacher_state)
    return GroupStates(student, teacher, has_student & has_teacher)
