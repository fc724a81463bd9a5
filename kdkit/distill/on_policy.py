"""On-policy distillation: the student is trained on text that it has generated, against the teacher's predictions.

Generalised knowledge distillation (Agarwal et al. 2023, arXiv:2306.13649), for any pair of tokenizers: the
text that the student wrote is cut into the teacher's tokens and aligned like any other text.
"""

import math
import random
from dataclasses import replace
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast, TrainingArguments

from kdkit.alignment.bytes import VocabularyOverlap
from kdkit.alignment.templates import render_prompt, stop_ids
from kdkit.alignment.tokenizers import end_token_id
from kdkit.config.training import OnPolicy, ParameterRule
from kdkit.data.batches import WindowCollator, counted_rows
from kdkit.data.conversations import Conversation
from kdkit.data.own_text import OwnAnswer, windows_of_answers, windows_of_ids
from kdkit.data.prepare import PreparedData
from kdkit.data.windows import Windows
from kdkit.distill.layer_terms import LayerParts
from kdkit.distill.objective import Objective
from kdkit.distill.trainer import DistillationTrainer
from kdkit.losses.chunked.engine import chunked_loss, cross_entropy_chunk, even_chunks, rows_per_chunk
from kdkit.losses.chunked.signals import Signals
from kdkit.losses.cross_entropy import IGNORE_INDEX, count_items, shift_labels
from kdkit.losses.own_tokens import constant_advantages, importance_weights, student_logprobs, teacher_logprobs
from kdkit.models.generation import Generated, Sampling, generate_ids
from kdkit.teachers.online import OnlineTeacher, StudentRows


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
        self.teacher_context = teacher.context

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
        is_own_text = inputs.get("is_own_text", False)
        if is_own_text and self.settings.advantage == "constant":
            return self._suppress(model, inputs, num_items_in_batch)
        self.objective = self.own_text if is_own_text else self.from_data
        loss, terms = super().compute_step(model, inputs, num_items_in_batch)
        if self.objective.row_weights is not None:
            others = sum(value for name, value in terms.items() if name.endswith("_weighted") and name != "kd_weighted")
            terms["kd_weighted"] = loss.detach() - others
        return loss, terms

    def ask(self, inputs: dict[str, Any], device: torch.device, student: StudentRows) -> Signals | tuple[Signals, ...]:
        """Return the teacher's signals, and weigh the rows of own text by them where the settings say so."""
        signals = super().ask(inputs, device, student)
        if self.objective is self.own_text and self.settings.importance > 0.0:
            spans = inputs["spans"]
            tokens = shift_labels(inputs["input_ids"]).flatten()[spans.student_rows.to(inputs["input_ids"].device)]
            weights = importance_weights(
                spans,
                student_logprobs(student.hidden, student.head, tokens),
                teacher_logprobs(signals),
                student.targets != IGNORE_INDEX,
                self.settings.importance,
            )
            self.objective = replace(self.own_text, row_weights=weights)
        return signals

    def _suppress(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Compute the loss of the control: `-advantage * log q` of the least likely own tokens; without a teacher."""
        targets = shift_labels(inputs["labels"]).flatten()
        rows = (targets != IGNORE_INDEX).nonzero().squeeze(1)
        targets, num_items = targets[rows], count_items(len(rows), num_items_in_batch)
        hidden = self.hidden_rows(model, inputs, rows)
        logprobs = student_logprobs(hidden.detach(), self.head, targets)
        # cross-entropy is -log q, so its weight is the advantage
        weights = constant_advantages(logprobs, torch.ones_like(targets, dtype=torch.bool)) / num_items
        chunks = even_chunks(len(rows), rows_per_chunk(self.head.vocab_size, targets.device))
        loss, _ = chunked_loss(hidden, self.head, cross_entropy_chunk(targets, weights), chunks)
        nothing = torch.zeros((), device=targets.device)
        return loss, {"ce_loss": -logprobs.sum() / num_items, "kd_loss": nothing, "kd_weighted": nothing}

    def _write(self, batch: dict[str, Any], seed: int) -> dict[str, Any]:
        """Generate the student's text after the prompts of a batch; keep the batch where it is empty."""
        windows = (self._answer if self.data.is_chat else self._go_on)(batch, seed + self.args.process_index)
        if not len(windows):
            return batch
        collated = WindowCollator(windows, with_teacher=True)(list(range(len(windows))))
        if not self.data.is_chat:
            width = batch["input_ids"][:, : 1 + self.settings.prompt_length].shape[1]
            collated["labels"][:, :width] = IGNORE_INDEX
            collated["counted"] = counted_rows(collated["labels"], collated["spans"])
        return {name: _to(value, self.args.device) for name, value in collated.items()} | {"is_own_text": True}

    def _go_on(self, batch: dict[str, Any], seed: int) -> Windows:
        """Let the student go on from the first tokens of each sequence; one that is shorter is left out."""
        starts = batch["input_ids"][:, : 1 + self.settings.prompt_length]
        prompts = starts[batch["labels"][:, starts.shape[1] - 1] != IGNORE_INDEX].tolist()
        end = end_token_id(self.data.student_tokenizer)
        rows = [
            prompt[1:] + self._first_part(text.ids + [end] * text.stopped)
            for prompt, text in zip(prompts, self._generate(prompts, [end], seed), strict=True)
        ]
        return windows_of_ids(rows, *self._pair(), max_teacher_length=self.teacher_context)

    def _answer(self, batch: dict[str, Any], seed: int) -> Windows:
        """Let the student answer the conversations of a batch; each model reads them in its own template."""
        tokenizers = self.data.student_tokenizer, self.data.teacher_tokenizer
        conversations = self.data.conversations["train"]
        prompts = [Conversation.from_json(conversations[row]).prompt for row in batch["windows"]]
        student, teacher = ([render_prompt(prompt, each) for prompt in prompts] for each in tokenizers)
        answers = []
        for *read, text in zip(student, teacher, self._generate(student, stop_ids(tokenizers[0]), seed), strict=True):
            ids = self._first_part([*text.ids, text.stop_id] if text.stopped else text.ids)
            is_whole = len(ids) > len(text.ids)
            answers.append(OwnAnswer(*read, ids[:-1] if is_whole else ids, text.stop_id if is_whole else None))
        return windows_of_answers(answers, *self._pair(), max_teacher_length=self.teacher_context)

    def _pair(self) -> tuple[PreTrainedTokenizerFast, PreTrainedTokenizerFast, VocabularyOverlap, bool]:
        """Return what windows of own text are made with."""
        data = self.data
        return data.student_tokenizer, data.teacher_tokenizer, data.overlap, data.same_tokenizer

    def _generate(self, prompts: list[list[int]], stops: list[int], seed: int) -> list[Generated]:
        """Write after every prompt as the settings say."""
        sampling = Sampling(
            temperature=self.settings.generation_temperature, max_new_tokens=self.settings.max_new_tokens, seed=seed
        )
        written = generate_ids(
            self.model,
            prompts,
            sampling,
            stops,
            vocab_size=self.objective.student_size,
            batch_size=max(1, len(prompts)),
            autocast_dtype=None if self.compute_dtype == torch.float32 else self.compute_dtype,
        )
        return [samples[0] for samples in written]

    def _first_part(self, row: list[int]) -> list[int]:
        """Cut own tokens beyond the first share."""
        return row[: math.ceil(self.settings.first_share * len(row))]


def _to(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, torch.Tensor) else value
