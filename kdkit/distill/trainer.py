"""The distilling trainer: `loss = (1 - kd_ratio) * ce + kd_ratio * (logits * kd + parts)`.

The first two are blended at every aligned token, the parts compare layers; all weights stand in `TermWeights`.
"""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, TrainingArguments

from kdkit.alignment.spans import Spans
from kdkit.config.training import ParameterRule
from kdkit.data.batches import WindowCollator
from kdkit.distill.layer_terms import LayerParts
from kdkit.distill.objective import Objective
from kdkit.losses.chunked.engine import Head, chunked_loss, to_device
from kdkit.losses.chunked.overlap import OverlapMeter
from kdkit.losses.chunked.signals import Signals, check_teacher
from kdkit.losses.cross_entropy import IGNORE_INDEX, count_items, shift_labels
from kdkit.machine.stopwatch import Stopwatch
from kdkit.models.saved import load_tensors
from kdkit.teachers.average import AveragedTeacher, FollowStudent
from kdkit.teachers.online import CachedTeacher, OnlineTeacher, StudentRows
from kdkit.teachers.router.teacher import RoutedTeacher
from kdkit.training.masking import Masking
from kdkit.training.trainer import LanguageModelTrainer

PARTS_FILE = "projections.pt"
"""In a checkpoint: the student's projections to the teacher's width, and the running means of the balance."""

ROUTER_FILE = "router.pt"
"""In a checkpoint: the router and its optimizer."""

AVERAGE_FILE = "average.pt"
"""In a checkpoint: the weights of a teacher that follows the student."""


class DistillationTrainer(LanguageModelTrainer):
    """Trains a student on cross-entropy and on the teacher's predictions at the aligned positions."""

    def __init__(
        self,
        student: PreTrainedModel,
        teacher: OnlineTeacher | CachedTeacher,
        args: TrainingArguments,
        collator: WindowCollator,
        *,
        objective: Objective,
        parts: LayerParts | None = None,
        rules: list[ParameterRule] | None = None,
        order: list[int] | None = None,
        overlap: OverlapMeter | None = None,
        masking: Masking | None = None,
    ):
        """Prepare the training of one student.

        Args:
            collator: with `with_teacher`, and with the cache of a `CachedTeacher`.
            objective: the loss; see `kdkit.distill.objective`.
            parts: comparisons of layers beside the predictions; with an `OnlineTeacher` only. Its projections
                are trained with the student.
            rules: see `LanguageModelTrainer`.
            order: see `LanguageModelTrainer`.
            overlap: what is measured, beside the loss, in each step whose line is logged; None: nothing.
            masking: see `LanguageModelTrainer`.
        """
        super().__init__(student, args, collator, objective.student_size, rules, order, masking)
        self.teacher = teacher
        self.overlap = overlap
        self.overlap_values: dict[str, float] = {}
        self.objective = objective
        self.parts = parts
        self.clock = Stopwatch(torch.device(teacher.device if isinstance(teacher, OnlineTeacher) else "cpu"))
        """Time of the teacher's forward passes."""
        if parts is not None:
            parts.projections.to(args.device)
        if isinstance(teacher, AveragedTeacher):
            self.add_callback(FollowStudent(teacher, student))

    def compute_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Sum the blended loss of all rows, divided by the tokens of the step; see `Objective.loss_of`.

        Returns:
            The loss, and the terms per token of the step: raw `ce_loss` of all tokens and `kd_loss` of those
            at which the teacher is queried (0 for the others), `kd_weighted` as it stands in the loss, and
            both for each of the parts.
        """
        spans = inputs["spans"]
        rows = to_device(spans.student_rows, inputs["input_ids"].device)
        counted_here = torch.from_numpy(inputs["counted"])
        targets = shift_labels(inputs["labels"]).flatten().index_select(0, rows)
        hidden = self.hidden_rows(model, inputs, rows)
        student = StudentRows(hidden.detach(), self.head, targets, self.state.global_step)
        signals = self.ask(inputs, targets.device, student) if self.objective.asks_teacher else None
        num_items = count_items(int(counted_here.sum()), num_items_in_batch)
        tokens = shift_labels(inputs["input_ids"]).flatten().index_select(0, rows)
        emphasis = self.teacher.emphasis if isinstance(self.teacher, RoutedTeacher) and signals is not None else None
        chunk_loss, chunks = self.objective.loss_of(spans, targets, signals, num_items, tokens, emphasis, counted_here)
        if signals is not None:
            self._measure_overlap(hidden.detach(), spans, signals, counted_here)
        loss, totals = chunked_loss(hidden, self.head, chunk_loss, chunks)
        check_teacher(signals, totals)
        _, ce, kd = totals
        kd_weighted = kd * self.objective.kd_weight if emphasis is None else emphasis.term
        terms = {"ce_loss": ce, "kd_loss": kd, "kd_weighted": kd_weighted}
        if self.parts is not None and self.objective.asks_teacher:
            widths = inputs["input_ids"].shape[1], inputs["teacher_input_ids"].shape[1]
            counted = targets != IGNORE_INDEX
            added, part_terms = self.parts.loss_of(spans, widths, counted, num_items, self.objective.kd_ratio)
            loss, terms = loss + added, terms | part_terms
            if self.parts.balance is not None:
                self.parts.balance.add(terms)
        return loss, terms

    def ask(self, inputs: dict[str, Any], device: torch.device, student: StudentRows) -> Signals | tuple[Signals, ...]:
        """Return the teacher's signals for a batch, with taps on the layers that are compared."""
        with self.clock.running(), nullcontext() if self.parts is None else self.parts.teacher_taps:
            signals = self.teacher.answer(inputs, device, student)
        if isinstance(self.teacher, OnlineTeacher):
            passes = len(signals) if isinstance(signals, tuple) else 1
            # every process reads about as much as this one
            times = passes * self.accelerator.num_processes
            self.count("teacher_tokens", times * len(inputs["spans"].teacher_rows))
            self.count("teacher_rows", passes * len(inputs["spans"].same_token))
        return signals

    def _measure_overlap(
        self,
        hidden: torch.Tensor,
        spans: Spans,
        signals: Signals | tuple[Signals, ...],
        counted: torch.Tensor,
    ) -> None:
        """Measure on the first micro-batch of a step that is logged; the time is the step's."""
        is_due = (self.state.global_step + 1) % self.args.logging_steps == 0
        if self.overlap is None or self.overlap_values or not is_due:
            return
        asked = self.objective.asked_spans(spans, counted)
        places = asked, spans.student_starts[asked], spans.teacher_starts[asked]
        passes = signals if isinstance(signals, tuple) else (signals,)
        self.overlap_values = self.overlap.measure(hidden, self.head, passes, places)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the overlap to what is logged; Trainer's hook."""
        if "loss" in logs:
            logs |= self.overlap_values
            self.overlap_values = {}
        super().log(logs, start_time)

    def head_rows(self, counts: dict[str, float]) -> list[tuple[Head, float]]:
        """Return the head of a teacher in memory and the rows that it was asked for: its logits are made in the loss.

        Args:
            counts: from `read_counts`.
        """
        return [(self.teacher.head, counts.get("teacher_rows", 0.0))] if isinstance(self.teacher, OnlineTeacher) else []

    def read_counts(self) -> dict[str, float]:
        """Return also what the teacher cost: `teacher_tokens` and `teacher_rows`, `teacher_seconds` of its passes.

        Of a router `router_tokens` and `router_seconds`, which the teacher's do not hold.
        """
        counts = super().read_counts()
        seconds = {}
        if isinstance(self.teacher, OnlineTeacher):
            seconds["teacher_seconds"] = self.clock.seconds() + self.teacher.late_seconds
        if isinstance(self.teacher, RoutedTeacher):
            seconds |= {"router_seconds": self.teacher.clock.seconds(), "router_tokens": self.teacher.tokens_compared}
            seconds["teacher_seconds"] -= seconds["router_seconds"]
        return counts | {name: counts.get(name, 0.0) + value for name, value in seconds.items()}

    @property
    def can_cut(self) -> bool:
        """Whether a micro-batch may be cut; not where layers are compared over it, or a router learns from it."""
        return super().can_cut and self.parts is None and not isinstance(self.teacher, RoutedTeacher)

    def micro_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None
    ) -> torch.Tensor:
        """Compute and differentiate the loss of a micro-batch, with taps on the layers that are compared."""
        if self.parts is None:
            return super().micro_step(model, inputs, num_items_in_batch)
        self.parts.begin_batch()
        # open until the backward pass is over: gradient checkpointing runs the attention layers again
        with self.parts.student_taps:
            loss = super().micro_step(model, inputs, num_items_in_batch)
        if self.accelerator.sync_gradients:
            self.parts.end_step(self.accelerator)
        return loss

    def group_parameters(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Return the student's groups, and the projections as one more.

        Their gradients are in neither the norm nor its clipping: these are the student's.
        """
        groups, table = super().group_parameters()
        if self.parts is None:
            return groups, table
        more_groups, more_rows = self.parts.group(self.args.learning_rate, self.args.weight_decay)
        return groups + more_groups, table + more_rows

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Save the parts beside the optimizer; Trainer's hook, called before the checkpoint counts as complete."""
        super()._save_optimizer_and_scheduler(output_dir)
        if self.parts is not None and self.args.should_save:
            torch.save(self.parts.state(), Path(output_dir) / PARTS_FILE)
        if isinstance(self.teacher, RoutedTeacher) and self.args.should_save:
            torch.save(self.teacher.state_dict(), Path(output_dir) / ROUTER_FILE)
        if isinstance(self.teacher, AveragedTeacher) and self.args.should_save:
            torch.save(self.teacher.model.state_dict(), Path(output_dir) / AVERAGE_FILE)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Load the parts beside the optimizer; Trainer's hook."""
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        folder, device = Path(checkpoint), self.args.device
        if self.parts is not None:
            self.parts.load_state(load_tensors(folder / PARTS_FILE, device))
        if isinstance(self.teacher, RoutedTeacher):
            self.teacher.load_state_dict(load_tensors(folder / ROUTER_FILE, device))
        if isinstance(self.teacher, AveragedTeacher):
            self.teacher.model.load_state_dict(load_tensors(folder / AVERAGE_FILE, device))
            self.teacher.head.drop_copies()
