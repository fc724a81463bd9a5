"""One step of a router: how far the routed teacher is from the student, and the gradient that brings it closer.

The two are compared at places: the starts of spans, where both models have read the same text.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import distributed

from kdkit.alignment.spans import Spans
from kdkit.errors import UserError
from kdkit.losses.chunked.blend import QueriedRows, alone, dense_divergence
from kdkit.losses.chunked.engine import chunked_loss, cross_entropy_chunk, even_chunks, rows_per_chunk
from kdkit.losses.chunked.events import EventPair
from kdkit.losses.chunked.signals import DenseSignals
from kdkit.losses.closed_forms import apply_measure, forward_kl_with_gradient, reverse_kl_with_gradient
from kdkit.losses.cross_entropy import IGNORE_INDEX
from kdkit.teachers.mixing import MixedSignals
from kdkit.teachers.online import StudentRows
from kdkit.teachers.router.gates import Router

NUM_PLACES = 256
"""Places at which the student and the teacher are measured; evenly spread over the batch."""
BACK_OFF = 16.0
"""What the scale is divided by at an overflow; updates are rare, so it must not take many to find one that works."""
SMALLEST_SCALE = 2.0**-14
"""Below it an overflow is not one of scale: some value is no number."""
PATIENCE = 100
"""Updates without an overflow after which the scale is doubled again."""
READER_SPEED = 10.0
"""Learning rate of the student's reader, which starts from nothing, over that of the gates, which do not."""
FP16_SCALE = 4096.0
"""The loss of an fp16 teacher is multiplied by this at first: a token's gradient would be too small for fp16."""


@dataclass(frozen=True)
class Comparison:
    """How the routed teacher is compared with the student."""

    events: EventPair
    temperature: float
    direction: str
    """`student_teacher`: KL(student || teacher); `teacher_student`: KL(teacher || student)."""


@dataclass(frozen=True)
class Measured:
    """Both models' losses and their divergence at some places; fp32, `[num_places]`, nats."""

    student_rows: torch.Tensor
    """int64, `[num_places]`: where."""
    student_loss: torch.Tensor
    """The student's cross-entropy on the next token."""
    teacher_loss: torch.Tensor
    """The routed teacher's, on its own next token."""
    gap: torch.Tensor
    """KL(teacher || student) over events."""


class RouterOptimizer:
    """AdamW for a router: clipped at 1, averaged over processes, and safe with an fp16 teacher."""

    def __init__(self, router: Router, learning_rate: float, dtype: torch.dtype):
        """Prepare the steps.

        Args:
            dtype: of the teacher's weights.
        """
        self.parameters = list(router.parameters())
        reader = [] if router.reader is None else list(router.reader.parameters())
        groups = [{"params": [router.gates]}, {"params": reader, "lr": READER_SPEED * learning_rate}]
        self.adamw = torch.optim.AdamW(groups if reader else groups[:1], lr=learning_rate, weight_decay=0.0)
        self.largest_scale = FP16_SCALE if dtype == torch.float16 else 1.0
        self.scale = self.largest_scale
        """What the loss is multiplied by; divided by `BACK_OFF` at every overflow."""
        self.skipped = 0
        """Updates left out because their gradient overflowed."""
        self._good = 0

    def step(self, loss: torch.Tensor) -> bool:
        """Step down the gradient of a loss; False if the gradient overflowed and the step was left out.

        Raises:
            UserError: a gradient that is not finite at any scale.
        """
        self.adamw.zero_grad()
        (loss * self.scale).backward()
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad /= self.scale
            if distributed.is_available() and distributed.is_initialized():
                distributed.all_reduce(parameter.grad)
                parameter.grad /= distributed.get_world_size()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        if not bool(norm.isfinite()):
            self._back_off()
            return False
        self.adamw.step()
        self._good += 1
        if self._good >= PATIENCE:
            self.scale, self._good = min(self.largest_scale, 2.0 * self.scale), 0
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return the optimizer's state."""
        return {"adamw": self.adamw.state_dict(), "scale": (self.scale, self.skipped, self._good)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a state."""
        self.adamw.load_state_dict(state["adamw"])
        self.scale, self.skipped, self._good = state["scale"]

    def _back_off(self) -> None:
        self.skipped, self._good, self.scale = self.skipped + 1, 0, self.scale / BACK_OFF
        if self.scale < SMALLEST_SCALE:
            raise UserError(
                f"router: expected a finite gradient of the gates, got NaN or inf at {self.skipped} updates, the last "
                f"with the loss times {BACK_OFF * self.scale:.2g}; run the teacher in fp32 (-p "
                "train.precision=fp32), or leave its routing to itself (-p router.kind=none)"
            )


def first_sequences(
    inputs: dict[str, Any], student: StudentRows, count: int | None
) -> tuple[dict[str, Any], StudentRows]:
    """Return the first sequences of a batch, and the student's rows of them; None: all."""
    if count is None or count >= len(inputs["input_ids"]):
        return inputs, student
    spans = inputs["spans"].first(count)
    few = {name: inputs[name][:count] for name in ("input_ids", "teacher_input_ids", "windows")}
    num_rows = len(spans.student_rows)
    rows = replace(student, hidden=student.hidden[:num_rows], targets=student.targets[:num_rows])
    if "teacher_counted" in inputs:
        few["teacher_counted"] = inputs["teacher_counted"][: len(spans.teacher_rows)]
    return inputs | few | {"spans": spans}, rows


def compare(
    signals: DenseSignals, student: StudentRows, inputs: dict[str, Any], comparison: Comparison
) -> torch.Tensor:
    """Return the mean divergence between routed teacher and student, with a graph to the router.

    The roles are those of distillation, exchanged: here the teacher learns, and the student's rows stand still.
    """
    spans, events = inputs["spans"], comparison.events
    # with the teacher in the place of the one who learns, forward KL is KL(student || teacher)
    measure = forward_kl_with_gradient if comparison.direction == "student_teacher" else reverse_kl_with_gradient
    rows, student_rows = counted_places(student, spans)
    fixed = student_signals(student, inputs, signals.device)
    if isinstance(signals, MixedSignals):
        return _compare_mixture(signals, fixed, (rows, student_rows), comparison, measure)
    weight = 1.0 / max(1, len(rows))
    queried = QueriedRows(rows, student_rows, torch.full((len(rows),), weight, device=signals.device), weight)
    loss = alone(dense_divergence(fixed, queried, events.teacher, events.student, measure, comparison.temperature))
    size = max(signals.head.vocab_size, student.head.vocab_size)
    chunks = even_chunks(len(signals.hidden), rows_per_chunk(size, signals.device))
    return chunked_loss(signals.hidden, signals.head, loss, chunks)[0]


def _compare_mixture(
    signals: MixedSignals,
    fixed: DenseSignals,
    places: tuple[torch.Tensor, torch.Tensor],
    comparison: Comparison,
    measure: Any,
) -> torch.Tensor:
    """Compare a mixture chunk by chunk; the gradient by its weights is gathered, so no chunk's rows survive."""
    rows, student_rows = places
    events, temperature = comparison.events, comparison.temperature
    weights = signals.log_weights.detach().requires_grad_()
    total = weights.new_zeros(())
    for chunk in even_chunks(len(rows), rows_per_chunk(len(signals.parts) * signals.head.vocab_size, signals.device)):
        chosen = rows[chunk].to(weights.device)
        mixed = signals.mixed_logprobs(rows[chunk], weights.index_select(0, chosen))
        # events work in place and bring their own gradient
        logits = mixed.detach()
        pushed = events.teacher.push(logits.clone(), temperature).requires_grad_()
        target = fixed.logprobs(student_rows[chunk], events.student, temperature)
        value = apply_measure(measure, pushed.log_softmax(dim=-1), target).sum()
        value = temperature**2 * value / max(1, len(rows))
        (gradient,) = torch.autograd.grad(value, pushed)
        mixed.backward(events.teacher.pull(gradient / temperature, logits, pushed.detach(), temperature))
        total = total + value.detach()
    if weights.grad is None:
        return total
    # the value of the loss, with the gradient that the chunks have found; -inf - -inf is not 0
    nothing = (signals.log_weights - weights.detach()).masked_fill(weights.isinf(), 0.0)
    return total + (nothing * weights.grad).sum()


def text_loss(signals: DenseSignals, is_label: np.ndarray | None = None) -> torch.Tensor:
    """Return the routed teacher's own cross-entropy on the text, nats per token, with a graph to the router.

    Args:
        is_label: bool, `[teacher_rows]`: the rows that count; None: all.
    """
    targets = signals.targets.clamp(min=0)
    counted = (signals.targets >= 0).float()
    if is_label is not None:
        counted = counted * torch.from_numpy(is_label).to(counted.device)
    weights = counted / counted.sum().clamp(min=1.0)
    if isinstance(signals, MixedSignals):
        every = torch.arange(len(targets))
        losses = torch.stack([own_losses(part, every) for part in signals.parts], dim=1)
        return -((signals.log_weights - losses).logsumexp(dim=1) * weights).sum()
    chunks = even_chunks(len(targets), rows_per_chunk(signals.head.vocab_size, signals.device))
    return chunked_loss(signals.hidden, signals.head, cross_entropy_chunk(targets, weights), chunks)[0]


@torch.no_grad()
def own_losses(signals: DenseSignals, rows: torch.Tensor) -> torch.Tensor:
    """Return a model's cross-entropy on its own next tokens at many rows, chunk by chunk, `[rows]`."""
    chunks = even_chunks(len(rows), rows_per_chunk(signals.head.vocab_size, signals.device))
    return torch.cat([_own_loss(signals, rows[chunk]) for chunk in chunks])


@torch.no_grad()
def measure_rows(
    signals: DenseSignals, student: StudentRows, inputs: dict[str, Any], comparison: Comparison
) -> Measured:
    """Measure both models at some places of a batch."""
    spans: Spans = inputs["spans"]
    rows, student_rows = counted_places(student, spans)
    if len(rows) > NUM_PLACES:
        places = torch.linspace(0, len(rows) - 1, NUM_PLACES).long()
        rows, student_rows = rows[places], student_rows[places]
    fixed = student_signals(student, inputs, signals.device)
    events, temperature = comparison.events, comparison.temperature
    parts = []
    size = max(signals.head.vocab_size, student.head.vocab_size)
    for chunk in even_chunks(len(rows), rows_per_chunk(size, signals.device)):
        teacher = signals.logprobs(rows[chunk], events.teacher, temperature)
        mine = fixed.logprobs(student_rows[chunk], events.student, temperature)
        losses = _own_loss(fixed, student_rows[chunk]), _own_loss(signals, rows[chunk])
        parts.append(torch.stack([*losses, forward_kl_with_gradient(mine, teacher)[0]]))
    student_loss, teacher_loss, gap = torch.cat(parts, dim=1) if parts else student.hidden.new_zeros(3, 0)
    return Measured(student_rows, student_loss, teacher_loss, gap)


def counted_places(student: StudentRows, spans: Spans) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the first teacher and student row of every span where the student's is in the loss, `[num_places]`."""
    student_rows = spans.student_starts[:-1]
    is_counted = (student.targets != IGNORE_INDEX).cpu()[student_rows]
    return spans.teacher_starts[:-1][is_counted], student_rows[is_counted]


def _own_loss(signals: DenseSignals, rows: torch.Tensor) -> torch.Tensor:
    """Return a model's cross-entropy on its own next tokens, `[rows]`."""
    targets = signals.targets.index_select(0, rows.to(signals.targets.device)).clamp(min=0)
    return -signals.logits(rows).log_softmax(dim=-1).gather(1, targets[:, None]).squeeze(1)


def student_signals(student: StudentRows, inputs: dict[str, Any], device: torch.device) -> DenseSignals:
    """Return the student's rows in the form of a teacher's signals."""
    windows = torch.tensor(inputs["windows"])[inputs["spans"].student_rows // inputs["input_ids"].shape[1]]
    bias = None if student.head.bias is None else student.head.bias.detach()
    head = replace(student.head, weight=student.head.weight.detach(), bias=bias)
    return DenseSignals(student.hidden, head, device, student.targets.to(device), windows)
