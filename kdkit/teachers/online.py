"""The teacher's signals for a batch: from a model in memory, or out of a cache, with the batch."""

import time
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from kdkit.losses.chunked.engine import Head, to_device
from kdkit.losses.chunked.signals import DenseSignals, Signals, SparseSignals, TokenSignals, logit_signals
from kdkit.losses.cross_entropy import shift_labels
from kdkit.models.finite import describe_model
from kdkit.models.heads import autocast, find_head, last_hidden_state
from kdkit.models.loading import context_length
from kdkit.models.reading import Reader


@dataclass(frozen=True)
class StudentRows:
    """Hidden states and targets of the student on a micro-batch, for a teacher that is routed by them."""

    hidden: torch.Tensor
    """`[student_rows, H_student]`: what its head reads; no graph."""
    head: Head
    targets: torch.Tensor
    """int64, `[student_rows]`: what each row predicts; `IGNORE_INDEX` for rows in no loss."""
    step: int
    """Optimizer steps done."""


class OnlineTeacher:
    """A teacher in memory, frozen, run on every batch."""

    late_seconds: float = 0.0
    """Seconds of reading that was done in the loss, after `answer`."""

    def __init__(self, model: PreTrainedModel, vocab_size: int, autocast_dtype: torch.dtype | None = None):
        """Find the head of a model.

        Args:
            model: on its own device, which need not be the student's.
            vocab_size: true size of its tokenizer; rows of its head beyond it are left out.
            autocast_dtype: dtype for autocast; None: none.
        """
        self.model = model
        self.head = find_head(model, vocab_size)
        self.autocast_dtype = autocast_dtype
        self.device = model.device
        self.context = context_length(model.config)
        """Most tokens that it reads at once; None: no limit."""

    @torch.no_grad()
    def answer(
        self, inputs: dict[str, Any], device: torch.device, student: StudentRows | None = None
    ) -> Signals | tuple[Signals, ...]:
        """Run the teacher over a batch of `WindowCollator`; its logits are made later, chunk by chunk.

        Args:
            device: where the student's loss is computed.
            student: for teachers that are routed by the student's rows.
        """
        return self.pack(self.hidden(inputs), inputs, device)

    @torch.no_grad()
    def answer_some(self, inputs: dict[str, Any], device: torch.device, sequences: torch.Tensor) -> Signals:
        """Do what `answer` does for some sequences of a batch; what is said of the others is not to be read.

        Args:
            sequences: int64, `[num_sequences]`: places in the batch.
        """
        input_ids = inputs["teacher_input_ids"]
        some = self.hidden({"teacher_input_ids": input_ids[to_device(sequences, input_ids.device)]})
        whole = some.new_zeros(*input_ids.shape, some.shape[1])
        whole[to_device(sequences, some.device)] = some.view(len(sequences), *whole.shape[1:])
        return self.pack(whole.flatten(0, 1), inputs, device)

    def hidden(self, inputs: dict[str, Any]) -> torch.Tensor:
        """Run the model; return what its head would read, `[B * T, H_teacher]`."""
        input_ids = inputs["teacher_input_ids"].to(self.model.device)
        with autocast(self.model, self.autocast_dtype):
            return last_hidden_state(self.model, input_ids).flatten(0, 1)

    def pack(self, hidden: torch.Tensor, inputs: dict[str, Any], device: torch.device) -> DenseSignals:
        """Make signals of hidden states, `[B * T, H_teacher]`."""
        rows = to_device(inputs["spans"].teacher_rows, hidden.device)
        targets, windows = targets_of(inputs)
        name = describe_model(self.model)
        return DenseSignals(hidden.index_select(0, rows), self.head, device, targets.to(device), windows, name=name)


def targets_of(inputs: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what each teacher row of a batch predicts, and the row number of its window, int64, `[teacher_rows]`."""
    rows, input_ids = inputs["spans"].teacher_rows, inputs["teacher_input_ids"]
    targets = shift_labels(input_ids).flatten().index_select(0, to_device(rows, input_ids.device))
    return targets, torch.tensor(inputs["windows"])[rows // input_ids.shape[1]]


class LogitTeacher(OnlineTeacher):
    """A teacher that gives logits and no hidden states, run on every batch, some rows at a time."""

    def __init__(self, reader: Reader, vocab_size: int, context: int | None = None):
        """Keep what reads.

        Args:
            vocab_size: true size of its tokenizer.
            context: most tokens that it reads at once; None: no limit.
        """
        self.reader, self.vocab_size, self.context = reader, vocab_size, context
        self.device = reader.device
        self.head = Head(torch.empty(vocab_size, 0, device=reader.device), vocab_size)
        self.autocast_dtype = None

    @torch.no_grad()
    def answer(self, inputs: dict[str, Any], device: torch.device, student: StudentRows | None = None) -> Signals:
        """Prepare to read a batch of `WindowCollator`; it is read when the loss asks for rows."""
        rows_of_batch = inputs["spans"].teacher_rows
        logits = self.reader.read(inputs["teacher_input_ids"])
        targets, windows = targets_of(inputs)

        def read(rows: torch.Tensor) -> torch.Tensor:
            """Return the logits of rows, and count the time that it takes."""
            start = time.perf_counter()
            made = logits(rows_of_batch[rows])[:, : self.vocab_size]
            self.late_seconds += time.perf_counter() - start
            return made

        return logit_signals(read, self.vocab_size, device, targets.to(device), windows, self.reader.name)

    def answer_some(self, inputs: dict[str, Any], device: torch.device, sequences: torch.Tensor) -> Signals:
        """See `OnlineTeacher.answer_some`; nothing is read before it is asked for."""
        return self.answer(inputs, device)


class VisitingTeacher(OnlineTeacher):
    """A teacher that waits in the CPU's memory and is on its device only while it answers."""

    def __init__(self, model: PreTrainedModel, vocab_size: int, autocast_dtype: torch.dtype | None, device: str):
        """Remember where it answers; the model is on the CPU."""
        super().__init__(model, vocab_size, autocast_dtype)
        self.device = device

    def hidden(self, inputs: dict[str, Any]) -> torch.Tensor:
        """Move the model to its device, run it, and move it back; what it says stays there."""
        self.model.to(self.device)
        try:
            return super().hidden(inputs)
        finally:
            self.model.to("cpu")


class CachedTeacher:
    """A teacher whose signals come with the batch, out of a cache; nothing of it is in memory."""

    def __init__(self, temperature: float):
        """Remember the temperature at which the signals were computed."""
        self.temperature = temperature

    def answer(self, inputs: dict[str, Any], device: torch.device, student: StudentRows | None = None) -> Signals:
        """Take the signals out of the batch."""
        if "token_logprobs" in inputs:
            return TokenSignals(inputs["token_logprobs"].to(device))
        kept = (inputs[name].to(device) for name in ("kept_ids", "kept_logprobs", "kept_rest"))
        return SparseSignals(*kept, self.temperature)
