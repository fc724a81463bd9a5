"""On-policy distillation: the student is trained on text that it has generated, against the teacher's predictions.

Generalised knowledge distillation (Agarwal et al. 2023, arXiv:2306.13649), for any pair of tokenizers: the
text that the student wrote is cut into the teacher's tokens and aligned like any other text.
"""

import random
from dataclasses import replace
from typing import Any

import torch
from transformers import PreTrainedModel, TrainingArguments

from kdkit.alignment.tokenizers import end_token_id
from kdkit.config.training import OnPolicy, ParameterRule
from kdkit.data.batches import WindowCollator
from kdkit.data.own_text import windows_of_ids
from kdkit.data.prepare import PreparedData
from kdkit.distill.layer_terms import LayerParts
from kdkit.distill.objective import Objective
from kdkit.distill.trainer import DistillationTrainer
from kdkit.losses.cross_entropy import IGNORE_INDEX
from kdkit.teachers.online import OnlineTeacher


class OnPolicyTrainer(DistillationTrainer):
    """On-policy trainer: replaces the text of the batches, after its first tokens, by the student's own.

    On that text the loss is the teacher's term alone: the student learns nothing from what it wrote itself.
    """

    def __init__(
        self,
        student: PreTrainedModel,
        teacher: OnlineTeacher,
        args: TrainingArguments,
        collator: WindowCollator,
        *,
        objective: Objective,
        data: PreparedData,
        settings: OnPolicy,
        parts: LayerParts | None = None,
        rules: list[ParameterRule] | None = None,
        order: list[int] | None = None,
    ):
        """Prepare the stage; see `DistillationTrainer`."""
        super().__init__(student, teacher, args, collator, objective=objective, parts=parts, rules=rules, order=order)
        self.data, self.settings = data, settings
        self.from_data = objective
        self.own_text = replace(objective, kd_ratio=1.0, ce_elsewhere=False)

    def get_batch_samples(
        self, epoch_iterator: Any, num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], torch.Tensor]:
        """Collect the micro-batches of a step, generate the student's text, and count the tokens; Trainer's hook."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        # seeded by the step, so that a resumed training writes what an uninterrupted one would
        draw = random.Random(self.args.seed * 1_000_003 + self.state.global_step)
        share = self.settings.share
        batches = [self._write(batch, draw.getrandbits(32)) if draw.random() < share else batch for batch in batches]
        counts = [(batch["labels"][:, 1:] != IGNORE_INDEX).sum() for batch in batches]
        return batches, self.accelerator.reduce(torch.stack(counts).sum().to(device), reduction="sum")

    def compute_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Compute the loss of a micro-batch: the teacher's term alone where the student wrote."""
        self.objective = self.own_text if inputs.get("is_own_text") else self.from_data
        return super().compute_step(model, inputs, num_items_in_batch)

    @torch.no_grad()
    def _write(self, batch: dict[str, Any], seed: int) -> dict[str, Any]:
        """Generate the student's text after the first tokens of each sequence; keep the batch where it is empty.

        A sequence that is shorter than a prompt is left out.
        """
        prompts = batch["input_ids"][:, : 1 + self.settings.prompt_length].to(self.args.device)
        prompts = prompts[(batch["labels"][:, prompts.shape[1] - 1] != IGNORE_INDEX).to(prompts.device)]
        if not len(prompts):
            return batch
        tokenizer = self.data.student_tokenizer
        # a padded head has rows that no token belongs to
        padding = range(self.objective.student_size, self.model.get_output_embeddings().weight.shape[0])
        self.model.eval()
        # a generator of its own is not taken by `generate`, so the global one is set and put back
        with torch.random.fork_rng(devices=[] if prompts.device.type == "cpu" else [prompts.device]):
            torch.manual_seed(seed + self.args.process_index)
            written = self.model.generate(
                prompts,
                attention_mask=torch.ones_like(prompts),
                do_sample=True,
                temperature=self.settings.generation_temperature,
                top_k=0,
                top_p=1.0,
                max_new_tokens=self.settings.max_new_tokens,
                eos_token_id=end_token_id(tokenizer),
                pad_token_id=end_token_id(tokenizer),
                suppress_tokens=list(padding) or None,
            )
        self.model.train()
        rows = [self._until_end(row, prompts.shape[1]) for row in written[:, 1:].tolist()]
        windows = windows_of_ids(
            rows, tokenizer, self.data.teacher_tokenizer, self.data.overlap, self.data.same_tokenizer
        )
        if not len(windows):
            return batch
        collated = WindowCollator(windows, with_teacher=True)(list(range(len(windows))))
        collated["labels"][:, : prompts.shape[1]] = IGNORE_INDEX
        return {name: _to(value, self.args.device) for name, value in collated.items()} | {"is_own_text": True}

    def _until_end(self, row: list[int], num_prompt: int) -> list[int]:
        """Cut what `generate` pads after the end of a text; the prompt may hold ends of its own."""
        end = end_token_id(self.data.student_tokenizer)
        ends = [i for i, token_id in enumerate(row) if token_id == end and i >= num_prompt - 1]
        return row[: ends[0] + 1] if ends else row


def _to(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, torch.Tensor) else value
