"""On-policy distillation: the student is trained on text that it has generated, against the teacher's predictions.

Generalised knowledge distillation (Agarwal et al. 2023, arXiv:2306.13649), for any pair of tokenizers: the
text that the student wrote is cut into the teacher's tokens and aligned like any other text.
"""

import math
import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, TrainingArguments

from kdkit.alignment.templates import stop_ids, template_of
from kdkit.alignment.tokenizers import end_token_id
from kdkit.config.training import OnPolicy, ParameterRule
from kdkit.data.batches import WindowCollator, counted_rows
from kdkit.data.own_text import answers_after, prompts_of, windows_of_ids
from kdkit.data.prepare import PreparedData
from kdkit.data.windows import Windows
from kdkit.distill.layer_terms import LayerParts
from kdkit.distill.objective import Objective
from kdkit.distill.trainer import DistillationTrainer
from kdkit.losses.chunked.engine import chunked_loss, cross_entropy_chunk, even_chunks, rows_per_chunk
from kdkit.losses.chunked.overlap import OverlapMeter
from kdkit.losses.chunked.signals import Signals
from kdkit.losses.copying import KnownNGrams, unlikelihood
from kdkit.losses.cross_entropy import IGNORE_INDEX, count_items, shift_labels
from kdkit.losses.own_tokens import constant_advantages, importance_weights, student_logprobs, teacher_logprobs
from kdkit.models.generation import Generated, Sampling, generate_ids
from kdkit.teachers.online import OnlineTeacher, StudentRows


class OnPolicyTrainer(DistillationTrainer):
    """On-policy trainer: replaces the text of the batches, after its first tokens, by the student's own.

    On that text the loss is the teacher's term alone: the student learns nothing from what it wrote itself.
    """

    can_cut = False  # batches that the student wrote are not those of the collator

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
        overlap: OverlapMeter | None = None,
    ):
        """Prepare the stage; see `DistillationTrainer`."""
        shared = {"objective": objective, "parts": parts, "rules": rules, "order": order, "overlap": overlap}
        super().__init__(student, teacher, args, collator, **shared)
        self.data, self.settings = data, settings
        self.from_data = objective
        self.own_text = replace(objective, kd_ratio=1.0, ce_elsewhere=False)
        self.teacher_context = teacher.context
        self.known: KnownNGrams | None = None
        if settings.anti_copy > 0.0:
            special = data.student_tokenizer.all_special_ids
            self.known = known_ngrams(data.train, special, settings.anti_copy_length)
        self._copies: dict[str, torch.Tensor] = {}

    def get_batch_samples(
        self, epoch_iterator: Any, num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], torch.Tensor]:
        """Collect the micro-batches of a step, generate the student's text, and count the tokens; Trainer's hook."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        # seeded by the step, so that a resumed training writes what an uninterrupted one would
        draw = random.Random(self.args.seed * 1_000_003 + self.state.global_step)
        share = self.settings.share
        batches = [self._write(batch, draw.getrandbits(32)) if draw.random() < share else batch for batch in batches]
        return batches, self.count_labels(batches, device)

    def compute_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Compute the loss of a micro-batch: the teacher's term alone where the student wrote."""
        is_own_text = inputs.get("is_own_text", False)
        if is_own_text and self.settings.advantage == "constant":
            return self._suppress(model, inputs, num_items_in_batch)
        self.objective = self.own_text if is_own_text else self.from_data
        self._num_items = count_items(int(inputs["counted"].sum()), num_items_in_batch)
        loss, terms = super().compute_step(model, inputs, num_items_in_batch)
        if is_own_text and self.known is not None:
            # the weights have the penalty's gradient, not its value
            loss, terms = loss + self._copies.pop("correction"), terms | self._copies
        if self.objective.row_weights is not None:
            others = sum(value for name, value in terms.items() if name.endswith("_weighted") and name != "kd_weighted")
            terms["kd_weighted"] = loss.detach() - others
        return loss, terms

    def ask(self, inputs: dict[str, Any], device: torch.device, student: StudentRows) -> Signals | tuple[Signals, ...]:
        """Return the teacher's signals, and weigh the rows of own text by them where the settings say so."""
        signals = super().ask(inputs, device, student)
        settings = self.settings
        if self.objective is not self.own_text or settings.importance == settings.anti_copy == 0.0:
            return signals
        spans, ids = inputs["spans"], inputs["input_ids"]
        rows, own = spans.student_rows.to(ids.device), student.targets != IGNORE_INDEX
        logprobs = student_logprobs(student.hidden, student.head, shift_labels(ids).flatten()[rows])
        if settings.importance > 0.0:
            weights = importance_weights(spans, logprobs, teacher_logprobs(signals), own, settings.importance)
            self.objective = replace(self.objective, row_weights=weights)
        if self.known is not None:
            copied = torch.from_numpy(self.known.completed(ids.cpu().numpy())).to(ids.device)
            self._discourage(logprobs, own & copied.roll(-1, 1).flatten()[rows])
        return signals

    def _discourage(self, logprobs: torch.Tensor, copied: torch.Tensor) -> None:
        """Add the penalty on copied tokens to the loss of the micro-batch that is being computed.

        Args:
            logprobs: fp32, `[student_rows]`: the student's, of the text's tokens.
            copied: bool, `[student_rows]`: own tokens that complete a known n-gram.
        """
        values, weights = unlikelihood(logprobs, copied)
        num_items, share = self._num_items, self.settings.anti_copy / self._num_items
        self.objective = replace(self.objective, extra_ce=weights * share)
        penalty = values.sum() * share
        self._copies = {
            "copied_share": copied.sum() / num_items,
            "copy_loss": values.sum() / num_items,
            "copy_weighted": penalty,
            "correction": penalty + (weights * logprobs).sum() * share,
        }

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
        """Generate the student's text in place of a batch's; keep the batch where it is empty.

        It goes on from the first tokens of each sequence, and one that is shorter is left out; of conversations it
        answers the last question.
        """
        pairs = prompts_of(self.data.train, batch["windows"]) if self.data.is_chat else []
        starts = batch["input_ids"][:, : 1 + self.settings.prompt_length]
        prompts = starts[batch["labels"][:, starts.shape[1] - 1] != IGNORE_INDEX].tolist()
        if self.data.is_chat:
            prompts = [student for student, _ in pairs]
        if not prompts:
            return batch
        rows = [self._first_part(text.ids + [text.stop_id] * text.stopped) for text in self._generate(prompts, seed)]
        if self.data.is_chat:
            windows = self._answers(pairs, rows)
        else:
            windows = self._windows([prompt[1:] + row for prompt, row in zip(prompts, rows, strict=True)])
        if not len(windows):
            return batch
        collated = WindowCollator(windows, with_teacher=True)(list(range(len(windows))))
        if not self.data.is_chat:
            collated["labels"][:, : starts.shape[1]] = IGNORE_INDEX
            collated["counted"] = counted_rows(collated["labels"], collated["spans"])
        return {name: _to(value, self.args.device) for name, value in collated.items()} | {"is_own_text": True}

    def _generate(self, prompts: list[list[int]], seed: int) -> list[Generated]:
        """Let the student write after prompts."""
        tokenizer = self.data.student_tokenizer
        sampling = Sampling(
            temperature=self.settings.generation_temperature,
            max_new_tokens=self.settings.max_new_tokens,
            seed=seed + self.args.process_index,
        )
        written = generate_ids(
            self.model,
            prompts,
            sampling,
            stop_ids(tokenizer) if self.data.is_chat else [end_token_id(tokenizer)],
            vocab_size=self.objective.student_size,
            batch_size=len(prompts),
            autocast_dtype=None if self.compute_dtype == torch.float32 else self.compute_dtype,
        )
        return [text for (text,) in written]

    def _windows(self, rows: list[list[int]], num_before: int = 0, end_ids: tuple[int, int] | None = None) -> Windows:
        """Make windows of what was written.

        Args:
            num_before: teacher tokens that stand before a row, the start token aside.
            end_ids: see `windows_of_ids`.
        """
        data, context = self.data, self.teacher_context
        room = None if context is None else context - num_before
        tokenizers = data.student_tokenizer, data.teacher_tokenizer
        return windows_of_ids(rows, *tokenizers, data.overlap, data.same_tokenizer, room, end_ids)

    def _answers(self, pairs: list[tuple[list[int], list[int]]], rows: list[list[int]]) -> Windows:
        """Make windows of answers behind their prompts; an answer of which nothing can be read is left out."""
        ends = template_of(self.data.student_tokenizer).end_id, template_of(self.data.teacher_tokenizer).end_id
        made = [self._windows([row], len(pair[1]) - 1, ends) for pair, row in zip(pairs, rows, strict=True)]
        kept = [(pair, each) for pair, each in zip(pairs, made, strict=True) if len(each)]
        return answers_after(*map(list, zip(*kept, strict=True))) if kept else self.data.train.first(0)

    def _first_part(self, row: list[int]) -> list[int]:
        """Cut own tokens beyond the first share."""
        return row[: math.ceil(self.settings.first_share * len(row))]


def known_ngrams(windows: Windows, special: list[int], length: int) -> KnownNGrams:
    """Collect the n-grams of the text in the loss of some windows, in the student's tokens.

    Args:
        special: tokens of which no n-gram consists: none reaches over the end of a document.
    """

    def texts() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield ids and which of them are the text's own, some windows at a time."""
        for rows in even_chunks(len(windows), 1024):
            ids = np.asarray(windows.student_ids[rows])
            yield ids, windows.labels(rows) & ~np.isin(ids, special)

    return KnownNGrams(texts(), length)


def _to(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, torch.Tensor) else value
