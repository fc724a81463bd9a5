"""The distilling trainer: `loss = (1 - kd_ratio) * ce + kd_ratio * kd` at every aligned token.

Letters: b batch, s student tokens, t teacher tokens, a aligned positions.
"""

from typing import Any

import torch
from transformers import PreTrainedModel, TrainingArguments

from kdkit.data.packing import PAD
from kdkit.distill.objective import Divergence
from kdkit.teacher.batches import IGNORE_INDEX, WindowCollator
from kdkit.teacher.training import LanguageModelTrainer, cross_entropy, masked_mean, shift_labels


class DistillationTrainer(LanguageModelTrainer):
    """Trains a student on cross-entropy and on what the teacher says at the aligned positions."""

    def __init__(
        self,
        student: PreTrainedModel,
        teacher: PreTrainedModel,
        args: TrainingArguments,
        collator: WindowCollator,
        *,
        divergence: Divergence,
        vocab_sizes: tuple[int, int],
        kd_ratio: float,
    ):
        """Prepare the training of one student.

        Args:
            teacher: frozen, on its own device.
            collator: with `with_teacher`; it decides which positions are aligned.
            divergence: what is asked of the student there; see `kdkit.distill.objective`.
            vocab_sizes: true sizes of the student's and the teacher's tokenizer; heads are padded
                beyond them, and those rows are cropped.
            kd_ratio: weight of the teacher's term.
        """
        super().__init__(student, args, collator)
        self.teacher = teacher
        self.kd_ratio = kd_ratio
        self.divergence = divergence
        self.student_size, self.teacher_size = vocab_sizes

    def compute_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Blend cross-entropy and divergence token by token, and average over the step's tokens.

        A token without an aligned teacher position keeps its whole cross-entropy: weighing it down
        would teach the student less about it, not more about the teacher.

        Returns:
            The loss, and the raw terms per token of the step: `ce_loss` of all tokens, `kd_loss` of the
            aligned ones (0 for the others).
        """
        logits = model(input_ids=inputs["input_ids"]).logits[..., : self.student_size]
        targets = shift_labels(inputs["labels"])
        ce = cross_entropy(logits, targets)
        is_aligned = inputs["teacher_positions"] != PAD
        # rows by index_select: the backward pass of a boolean mask is several times slower on a CPU
        rows = logits.flatten(0, 1).index_select(0, is_aligned.flatten().nonzero().squeeze(1))
        kd = torch.zeros_like(ce)
        kd[is_aligned] = self.divergence(rows, self._teacher_logits(inputs, is_aligned).to(logits.device))
        values = torch.where(is_aligned, (1.0 - self.kd_ratio) * ce + self.kd_ratio * kd, ce)
        loss, ce_loss, kd_loss = (
            masked_mean(term, targets != IGNORE_INDEX, num_items_in_batch) for term in (values, ce, kd)
        )
        return loss, {"ce_loss": ce_loss, "kd_loss": kd_loss}

    @torch.no_grad()
    def _teacher_logits(self, inputs: dict[str, Any], is_aligned: torch.Tensor) -> torch.Tensor:
        """Ask the teacher; return its logits at the aligned positions, a v."""
        device = self.teacher.device
        logits = self.teacher(input_ids=inputs["teacher_input_ids"].to(device)).logits
        rows, positions = is_aligned.nonzero(as_tuple=True)[0], inputs["teacher_positions"][is_aligned]
        return logits[rows.to(device), positions.to(device), : self.teacher_size]
