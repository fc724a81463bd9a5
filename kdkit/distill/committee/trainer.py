"""The trainer of a student with several teachers."""

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from kdkit.config.training import ParameterRule
from kdkit.distill.committee.batches import CommitteeCollator
from kdkit.distill.committee.loss import Lesson, committee_loss
from kdkit.distill.committee.manifest import check_manifest, write_manifest
from kdkit.distill.committee.mixture import mix
from kdkit.distill.committee.parts import CommitteeParts
from kdkit.distill.objective import Objective
from kdkit.distill.trainer import DistillationTrainer
from kdkit.losses.chunked.engine import Head, chunked_loss, to_device
from kdkit.losses.chunked.signals import Signals, check_teacher
from kdkit.losses.cross_entropy import count_items, shift_labels
from kdkit.runs.folder import Run
from kdkit.teachers.online import CachedTeacher, OnlineTeacher
from kdkit.training.masking import Masking

TAUGHT_FILE = "taught.npy"
"""In a checkpoint: `CommitteeTrainer.taught`, of the steps that no line of the log holds yet."""
TEACHERS = "teachers"
"""Phase of the lines in metrics.jsonl that say who taught what."""


@dataclass(frozen=True)
class Seat:
    """One teacher in a training."""

    name: str
    source: OnlineTeacher | CachedTeacher
    objective: Objective


class CommitteeTrainer(DistillationTrainer):
    """Trains a student on the weighted lessons of several teachers; see `kdkit.distill.committee.loss`."""

    def __init__(
        self,
        student: PreTrainedModel,
        seats: list[Seat],
        args: TrainingArguments,
        collator: CommitteeCollator,
        *,
        manifest: dict[str, Any],
        is_averaged: bool = False,
        parts: CommitteeParts | None = None,
        rules: list[ParameterRule] | None = None,
        order: list[int] | None = None,
        masking: Masking | None = None,
    ):
        """Prepare the training.

        Args:
            seats: the teachers, in the order of the collator's.
            manifest: see `describe_committee`; kept in every checkpoint.
            is_averaged: train on the loss of the teachers' mean distribution, under the first one's objective.
            parts: see `DistillationTrainer`.
            rules: see `LanguageModelTrainer`.
            order: see `LanguageModelTrainer`.
            masking: see `LanguageModelTrainer`.
        """
        first = next((seat for seat in seats if isinstance(seat.source, OnlineTeacher)), seats[0])
        options = {"objective": seats[0].objective, "parts": parts, "rules": rules, "order": order, "masking": masking}
        super().__init__(student, first.source, args, collator, **options)
        self.seats, self.manifest, self.is_averaged = seats, manifest, is_averaged
        self.taught = np.zeros((len(seats), len(collator.kind_names)))
        """The student's tokens since somebody looked, by teacher and kind of text."""

    can_cut = False  # what each teacher answers is put together for whole micro-batches

    def compute_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Sum the weighted lessons of all rows, divided by the tokens of the step.

        Returns:
            The loss, and the terms per token of the step: raw `ce_loss`; `kd_loss` as the teachers' weights make it;
            of each teacher its raw `NAME_loss` on the rows that it teaches; and both of each part.
        """
        rows = to_device(inputs["spans"].student_rows, inputs["input_ids"].device)
        targets = shift_labels(inputs["labels"]).flatten().index_select(0, rows)
        tokens = shift_labels(inputs["input_ids"]).flatten().index_select(0, rows)
        hidden = self.hidden_rows(model, inputs, rows)
        num_items = count_items(int(inputs["counted"].sum()), num_items_in_batch)
        num_items = torch.as_tensor(num_items, dtype=torch.float32, device=targets.device)
        self._note_who_teaches(inputs)
        lessons = self._lessons(inputs, targets.device)
        chunk_loss, chunks = committee_loss(list(lessons.values()), targets, tokens, num_items)
        loss, totals = chunked_loss(hidden, self.head, chunk_loss, chunks)
        check_teacher(tuple(lesson.signals for lesson in lessons.values()), totals)
        # every teacher logs a term in every step, so that the sums of all processes have the same names
        terms = {f"{seat.name}_loss": torch.zeros_like(totals[0]) for seat in self.seats}
        kd = torch.zeros_like(totals[0])
        for (name, lesson), value in zip(lessons.items(), totals[2:], strict=True):
            own = torch.from_numpy(lesson.taught).to(lesson.weights.device)
            share = (lesson.weights * own).sum() / max(int(lesson.taught.sum()), 1)
            terms[name if self.is_averaged else f"{name}_loss"] = value
            kd = kd + share * value
        terms = {"ce_loss": totals[1], "kd_loss": kd, "kd_weighted": kd * self.objective.kd_weight} | terms
        if self.parts is not None:
            added, more = self._compare_layers(inputs, lessons, num_items, terms)
            loss, terms = loss + added, terms | more
        return loss, terms

    def _note_who_teaches(self, inputs: dict[str, Any]) -> None:
        """Add the tokens in the loss of a batch to `taught`."""
        kinds = np.maximum(inputs["kinds"], 0)
        for number, weights in enumerate(inputs["weights"].cpu().numpy()):
            np.add.at(self.taught[number], kinds, weights * inputs["counted"])

    def _lessons(self, inputs: dict[str, Any], device: torch.device) -> dict[str, Lesson]:
        """Ask the teachers that teach something of a batch."""
        counted, lessons = inputs["counted"], {}
        weights = inputs["weights"].to(device)
        taught = inputs["weights"].cpu().numpy() > 0.0
        for number, (seat, batch) in enumerate(zip(self.seats, inputs["members"], strict=True)):
            own = taught[number] & counted
            if own.any():
                signals = self.ask_one(seat, batch, np.unique(inputs["sequences"][own]), device)
                lessons[seat.name] = Lesson(seat.objective, batch["spans"], signals, weights[number], own)
        if not lessons:  # a batch that nobody teaches still needs a loss: cross-entropy, by a teacher without weight
            seat, batch = self.seats[0], inputs["members"][0]
            signals = self.ask_one(seat, batch, np.arange(1), device)
            lessons[seat.name] = Lesson(seat.objective, batch["spans"], signals, weights[0], np.zeros_like(counted))
        return {"kd_mixture": mix(list(lessons.values()), device)} if self.is_averaged else lessons

    def ask_one(self, seat: Seat, batch: dict[str, Any], sequences: np.ndarray, device: torch.device) -> Signals:
        """Return one teacher's signals, with taps on the layers that are compared.

        Args:
            sequences: int64, increasing: places in the batch of those that it teaches something of; it need not read
                the others.
        """
        part = self.parts.of.get(seat.name) if self.parts is not None else None
        spans, source = batch["spans"], seat.source
        with self.clock.running(), nullcontext() if part is None else part.teacher_taps:
            if (
                isinstance(source, CachedTeacher)
                or part is not None
                or len(sequences) == len(spans.sequence_starts) - 1
            ):
                signals, read = source.answer(batch, device), len(spans.teacher_rows)
            else:
                signals = source.answer_some(batch, device, torch.from_numpy(sequences))
                read = int(spans.teacher_starts[spans.sequence_starts].diff()[sequences].sum())
        if isinstance(source, OnlineTeacher):
            self.count("teacher_tokens", self.accelerator.num_processes * read)
            self.count(f"{seat.name}_rows", int(spans.sequence_starts.diff()[sequences].sum()))
        return signals

    def _compare_layers(
        self, inputs: dict[str, Any], lessons: dict[str, Lesson], num_items: torch.Tensor, terms: dict[str, Any]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Sum the parts of all teachers, each with its weights; the terms of a part are sums over the teachers."""
        total, sums = num_items.new_zeros(()), {}
        for seat, batch in zip(self.seats, inputs["members"], strict=True):
            lesson, part = lessons.get(seat.name), self.parts.of.get(seat.name)
            if lesson is None or part is None:
                continue
            counted = torch.from_numpy(lesson.taught).to(num_items.device)
            widths = inputs["input_ids"].shape[1], batch["teacher_input_ids"].shape[1]
            ratio = seat.objective.kd_ratio
            added, found = part.loss_of(lesson.spans, widths, counted, num_items, ratio, lesson.weights)
            if part.balance is not None:
                part.balance.add(terms | found)
            total = total + added
            for name, value in found.items():
                sums[name] = sums.get(name, 0.0) + value
        return total, sums

    def head_rows(self, counts: dict[str, float]) -> list[tuple[Head, float]]:
        """Return the head of every teacher in memory and the rows that it was asked for."""
        online = [seat for seat in self.seats if isinstance(seat.source, OnlineTeacher)]
        return [(seat.source.head, counts.get(f"{seat.name}_rows", 0.0)) for seat in online]

    def read_counts(self) -> dict[str, float]:
        """Return what one teacher's trainer does, with what all of them have read in the loss."""
        counts = super().read_counts()
        others = [seat.source for seat in self.seats if seat.source is not self.teacher]
        late = sum(source.late_seconds for source in others if isinstance(source, OnlineTeacher))
        return counts | {"teacher_seconds": counts["teacher_seconds"] + late} if late else counts

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Save who the teachers are beside the optimizer; Trainer's hook."""
        super()._save_optimizer_and_scheduler(output_dir)
        if self.args.should_save:
            write_manifest(Path(output_dir), self.manifest)
            np.save(Path(output_dir) / TAUGHT_FILE, self.taught)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Load the optimizer, if the teachers are those of the checkpoint; Trainer's hook."""
        if checkpoint is not None:
            check_manifest(Path(checkpoint), self.manifest)
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and (Path(checkpoint) / TAUGHT_FILE).is_file():
            self.taught[:] = np.load(Path(checkpoint) / TAUGHT_FILE)


class TeachersLog(TrainerCallback):
    """Writes who has taught what whenever Trainer logs: lines of phase `teachers` in metrics.jsonl."""

    def __init__(self, run: Run, trainer: CommitteeTrainer, first_step: int):
        """Prepare the record.

        Args:
            first_step: optimizer steps of the stages before this one.
        """
        self.run, self.trainer, self.first_step = run, trainer, first_step

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Forget the lines of an earlier attempt past the step from which this one goes on."""
        step = self.first_step + state.global_step
        self.run.drop_metrics(TEACHERS, step if step else -1)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float],
        **kwargs: Any,
    ) -> None:
        """Append a line: the student's tokens by teacher and kind of text since the last one."""
        if not state.is_world_process_zero or "loss" not in logs:
            return
        tokens = {
            seat.name: dict(zip(self.trainer.data_collator.kind_names, row, strict=True))
            for seat, row in zip(self.trainer.seats, self.trainer.taught.round(2).tolist(), strict=True)
        }
        self.run.append_metrics({"phase": TEACHERS, "step": self.first_step + state.global_step, "tokens": tokens})
        self.trainer.taught[:] = 0.0
