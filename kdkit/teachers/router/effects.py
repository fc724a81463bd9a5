"""What each part of a student-aware router does: the same held-out text with the part, and without it."""

from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from kdkit.data.windows import Windows
from kdkit.losses.chunked.engine import Head, even_chunks, rows_per_chunk
from kdkit.losses.chunked.signals import DenseSignals
from kdkit.losses.cross_entropy import shift_labels
from kdkit.models.heads import last_hidden_state
from kdkit.teachers.online import StudentRows
from kdkit.teachers.router.emphasis import moved
from kdkit.teachers.router.teacher import Routed, RoutedTeacher
from kdkit.teachers.router.training import counted_places, measure_rows, own_losses
from kdkit.training.scoring import iterate_batches

MAX_WINDOWS = 32
"""Held-out windows that are read."""
MEASURED = ("capacity", "gap")
"""Parts that weigh places; the others route."""


@torch.no_grad()
def measure_effects(
    teacher: RoutedTeacher, model: PreTrainedModel, head: Head, windows: Windows, batch_size: int
) -> dict[str, Any]:
    """Measure the parts of a student-aware router one by one, as they stand now; `annealing` at half its steps.

    Args:
        model: the student; its mode is left as it is.
        head: its head.
        windows: held-out text, of which `MAX_WINDOWS` are read.

    Returns:
        `parts`, one row each: `part`; `mixture_kl`: KL(with || without) of the teacher's predictions, nats;
        `tokens_rerouted`: share of tokens that go to other sources, the mean over layers; `bits_per_byte` of the
        routed teacher, and the same `bits_per_byte_without` the part; `signal_moved`: share of the teacher's signal
        that goes to other places.
    """
    windows = windows.first(MAX_WINDOWS)
    was_training = model.training
    model.eval()
    totals: list[dict[str, dict[str, torch.Tensor]]] = []
    for inputs in iterate_batches(windows, "student", batch_size, with_teacher=True):
        totals.append(_measure_batch(teacher, inputs, _look(model, head, inputs)))
    model.train(was_training)
    whole = {
        part: {name: torch.cat([batch[part][name] for batch in totals]) for name in totals[0][part]}
        for part in totals[0]
    }
    num_bits = np.log(2) * windows.num_bytes.sum()
    rows = []
    for part in teacher.settings.parts:
        values, share = whole[part], 0.0
        if part in MEASURED:
            seen = whole["all"][part]
            share = moved(getattr(teacher.emphasis, part).of(seen), torch.ones_like(seen))
        rows.append(
            {
                "part": part,
                "mixture_kl": values["kl"].mean().item(),
                "tokens_rerouted": values["rerouted"].mean().item(),
                "bits_per_byte": values["with"].sum().item() / num_bits,
                "bits_per_byte_without": values["without"].sum().item() / num_bits,
                "signal_moved": share,
            }
        )
    return {"parts": rows}


def _look(model: PreTrainedModel, head: Head, inputs: dict[str, Any]) -> StudentRows:
    """Run the student over a batch."""
    rows = inputs["spans"].student_rows.to(model.device)
    hidden = last_hidden_state(model, inputs["input_ids"].to(model.device)).flatten(0, 1).index_select(0, rows)
    targets = shift_labels(inputs["labels"]).to(model.device).flatten().index_select(0, rows)
    return StudentRows(hidden.to(head.weight.dtype), head, targets, 0)


def _measure_batch(
    teacher: RoutedTeacher, inputs: dict[str, Any], student: StudentRows
) -> dict[str, dict[str, torch.Tensor]]:
    """Run the teacher with all parts and without each; fp32 values per place, on the CPU."""
    device, end = student.hidden.device, teacher.num_steps
    middle = round(end * teacher.settings.schedule_share / 2)
    scores = teacher.importance(inputs["spans"], student)
    now = teacher.run(inputs, device, scores, end)
    measured = measure_rows(now.signals, student, inputs, teacher.comparison)
    places = counted_places(student, inputs["spans"])[0]
    read = torch.arange(len(now.signals.targets))
    if "teacher_counted" in inputs:
        read = read[torch.from_numpy(inputs["teacher_counted"])]
    results = {"all": {"capacity": measured.student_loss.cpu(), "gap": measured.gap.cpu()}}
    for part in teacher.settings.parts:
        with_part, without, steps = now, now, (end, end)
        if part == "importance":
            without = teacher.run(inputs, device, None, end)
        elif part == "annealing":
            with_part, steps = teacher.run(inputs, device, scores, middle), (middle, end)
        results[part] = {
            "kl": _divergence(with_part.signals, without.signals, places),
            "rerouted": _rerouted(teacher, (with_part, without), steps),
            "with": own_losses(with_part.signals, read).cpu(),
            "without": own_losses(without.signals, read).cpu(),
        }
    return results


def _divergence(first: DenseSignals, second: DenseSignals, rows: torch.Tensor) -> torch.Tensor:
    """Return KL(first || second) of two teachers at some rows, `[rows]`."""
    parts = []
    for chunk in even_chunks(len(rows), rows_per_chunk(first.head.vocab_size, first.device)):
        p, q = (signals.logits(rows[chunk]).log_softmax(dim=-1) for signals in (first, second))
        parts.append((p.exp() * (p - q)).nan_to_num_(0.0).sum(dim=-1).cpu())
    return torch.cat(parts) if parts else torch.zeros(0)


def _rerouted(teacher: RoutedTeacher, passes: tuple[Routed, Routed], steps: tuple[int, int]) -> torch.Tensor:
    """Return for every token the share of layers in which it goes to other sources, `[teacher_rows]`."""
    chosen = []
    for routed, step in zip(passes, steps, strict=True):
        logits = torch.stack(routed.logits)
        top = logits.topk(teacher.schedule(step)[0], dim=-1).indices
        chosen.append(torch.zeros_like(logits, dtype=torch.bool).scatter_(-1, top, True))
    return (chosen[0] != chosen[1]).any(dim=-1).float().mean(dim=0).cpu()
