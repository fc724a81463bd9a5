"""The distilling trainer: `loss = (1 - kd_ratio) * ce + kd_ratio * kd` at every aligned token.

Letters: a student rows.
"""

from typing import Any

import torch
from transformers import PreTrainedModel, TrainingArguments

from kdkit.distill.objective import Objective
from kdkit.settings import ParameterRule
from kdkit.teacher.asking import CachedTeacher, OnlineTeacher
from kdkit.teacher.batches import IGNORE_INDEX, WindowCollator
from kdkit.teacher.chunked import chunked_loss
from kdkit.teacher.training import LanguageModelTrainer, count_items, shift_labels


class DistillationTrainer(LanguageModelTrainer):
    """Trains a student on cross-entropy and on what the teacher says at the aligned positions."""

    def __init__(
        self,
        student: PreTrainedModel,
        teacher: OnlineTeacher | CachedTeacher,
        args: TrainingArguments,
        collator: WindowCollator,
        *,
        objective: Objective,
        rules: list[ParameterRule] | None = None,
        order: list[int] | None = None,
    ):
        """Prepare the training of one student.

        Args:
            collator: with `with_teacher`, and with the cache of a `CachedTeacher`.
            objective: what is asked of the student; see `kdkit.distill.objective`.
            rules: see `LanguageModelTrainer`.
            order: see `LanguageModelTrainer`.
        """
        super().__init__(student, args, collator, objective.student_size, rules, order)
        self.teacher = teacher
        self.objective = objective

    def compute_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Sum the blended loss of all rows, divided by the tokens of the step; see `Objective.loss_of`.

        Returns:
            The loss, and the raw terms per token of the step: `ce_loss` of all tokens, `kd_loss` of those
            at which the teacher is asked (0 for the others).
        """
        spans = inputs["spans"]
        rows = spans.student_rows.to(inputs["input_ids"].device)
        targets = shift_labels(inputs["labels"]).flatten().index_select(0, rows)
        answers = self.teacher.answer(inputs, targets.device) if self.objective.asks_teacher else None
        num_items = count_items(int((targets != IGNORE_INDEX).sum()), num_items_in_batch)
        tokens = shift_labels(inputs["input_ids"]).flatten().index_select(0, rows)
        chunk_loss, chunks = self.objective.loss_of(spans, targets, answers, num_items, tokens)
        loss, terms = chunked_loss(self.hidden_rows(model, inputs, rows), self.head, chunk_loss, chunks)
        return loss, {"ce_loss": terms[1], "kd_loss": terms[2]}
