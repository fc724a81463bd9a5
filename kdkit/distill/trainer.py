"""The distilling trainer: `loss = (1 - kd_ratio) * ce + kd_ratio * kd`.

Letters: b batch, s student tokens, t teacher tokens, a aligned positions, c common tokens.
"""

from collections.abc import Iterator
from typing import Any

import torch
from transformers import PreTrainedModel, TrainingArguments

from kdkit.data.alignment import VocabularyOverlap
from kdkit.data.packing import PAD
from kdkit.distill.divergences import forward_kl, overlap_kl
from kdkit.teacher.batches import IGNORE_INDEX, WindowCollator
from kdkit.teacher.training import LanguageModelTrainer, cross_entropy, masked_mean, shift


class DistillationTrainer(LanguageModelTrainer):
    """Trains a student on cross-entropy and on what the teacher says at the aligned positions."""

    def __init__(
        self,
        student: PreTrainedModel,
        teacher: PreTrainedModel,
        args: TrainingArguments,
        collator: WindowCollator,
        *,
        overlap: VocabularyOverlap | None,
        vocab_sizes: tuple[int, int],
        kd_ratio: float,
        temperature: float,
    ):
        """Prepare the training of one student.

        Args:
            teacher: frozen, on its own device.
            collator: with `with_teacher`.
            overlap: the common vocabulary; None: one tokenizer, `forward_kl` over all of it.
            vocab_sizes: true sizes of the student's and the teacher's tokenizer; heads are padded
                beyond them, and those rows are cropped.
            kd_ratio: weight of the teacher's term.
            temperature: of the teacher's term.
        """
        super().__init__(student, args, collator)
        self.teacher = teacher
        self.kd_ratio = kd_ratio
        self.temperature = temperature
        self.student_size, self.teacher_size = vocab_sizes
        self.common_ids = None
        if overlap is not None:
            self.common_ids = tuple(
                torch.from_numpy(ids).to(args.device) for ids in (overlap.student_ids, overlap.teacher_ids)
            )

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], torch.Tensor | int | None]:
        """Count the aligned positions of the whole optimizer step, as Trainer counts its tokens."""
        batches, num_items_in_batch = super().get_batch_samples(epoch_iterator, num_batches, device)
        if batches:
            aligned = sum((batch["teacher_positions"] != PAD).sum() for batch in batches)
            total = self.accelerator.reduce(aligned.to(device), reduction="sum")
            batches = [batch | {"num_aligned": total} for batch in batches]
        return batches, num_items_in_batch

    def compute_terms(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None
    ) -> dict[str, tuple[float, torch.Tensor]]:
        """Return cross-entropy over the step's tokens and the kd term over its aligned positions."""
        logits = model(input_ids=inputs["input_ids"]).logits[..., : self.student_size]
        shifted, targets = shift(logits, inputs["labels"])
        ce = masked_mean(cross_entropy(shifted, targets), targets != IGNORE_INDEX, num_items_in_batch)
        is_aligned = inputs["teacher_positions"] != PAD
        teacher_logits = self._teacher_logits(inputs, is_aligned).to(logits.device)
        values = self._divergence(logits[is_aligned], teacher_logits)
        kd = masked_mean(values, torch.ones_like(values, dtype=torch.bool), inputs["num_aligned"])
        return {"ce_loss": (1.0 - self.kd_ratio, ce), "kd_loss": (self.kd_ratio, kd)}

    @torch.no_grad()
    def _teacher_logits(self, inputs: dict[str, Any], is_aligned: torch.Tensor) -> torch.Tensor:
        """Ask the teacher; return its logits at the aligned positions, a v."""
        device = self.teacher.device
        logits = self.teacher(input_ids=inputs["teacher_input_ids"].to(device)).logits
        rows = is_aligned.nonzero(as_tuple=True)[0]
        return logits[rows.to(device), inputs["teacher_positions"][is_aligned].to(device), : self.teacher_size]

    def _divergence(self, student_logits: torch.Tensor, teacher_logits: torch.Tensor) -> torch.Tensor:
        """Compare the two at the aligned positions (a v each); return values per position, a."""
        if self.common_ids is None:
            return forward_kl(student_logits, teacher_logits, self.temperature)
        return overlap_kl(student_logits, teacher_logits, *self.common_ids, self.temperature)
