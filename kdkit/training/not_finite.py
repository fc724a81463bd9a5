"""Steps whose loss or gradient is not a number: left out and counted; after too many in a row the training ends.

One bad batch should not end a run. A model that answers NaN to every batch should, with the batch at hand.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from kdkit.errors import TrainingError
from kdkit.runs.folder import Run
from kdkit.runs.messages import note


@dataclass
class LeftOut:
    """The steps of a training that changed nothing, and the rows of the present one."""

    in_a_row: int = 0
    total: int = 0
    rows: list[int] = field(default_factory=list)
    """Row numbers of the sequences of the present step."""

    def count(self, is_finite: bool) -> None:
        """Note how a step ended."""
        self.in_a_row = 0 if is_finite else self.in_a_row + 1
        self.total += not is_finite


def drop_gradients(optimizer: torch.optim.Optimizer) -> None:
    """Let the next call of `step` change neither a weight nor what the optimizer remembers."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None


def report_step(run: Run, phase: str, left_out: LeftOut, step: int, limit: int) -> None:
    """Say that a step was left out, if it was, and end a training that makes none any more.

    Raises:
        TrainingError: `limit` steps in a row were left out; the rows of the last one are in `PHASE_not_finite.json`.
    """
    if not left_out.in_a_row:
        return
    if left_out.in_a_row < limit:
        note(f"{phase}: step {step} is left out, its loss or gradient is not a number ({left_out.in_a_row} in a row)")
        return
    name = f"{phase.replace('/', '_')}_not_finite.json"
    file = run.write_json(name, {"phase": phase, "step": step, "rows": _plain(left_out.rows)})
    message = (
        f"{phase}: the loss or its gradient was not a number in {limit} steps in a row, the last is step {step}; lower "
        f"train.learning_rate, or set train.precision=fp32 (the rows of that step are in {file})"
    )
    run.set_progress("failed", reason=message)
    raise TrainingError(message)


def _plain(rows: Sequence[Any]) -> list[int]:
    return [int(row) for row in rows]


class ReportLeftOut(TrainerCallback):
    """Calls `report_step` behind every step; add it behind what counts the steps."""

    def __init__(self, run: Run, phase: str, left_out: LeftOut, limit: int, first_step: int = 0):
        """Prepare to report.

        Args:
            left_out: the trainer's.
            limit: steps in a row after which a training ends.
            first_step: optimizer steps of the stages before.
        """
        self.run, self.phase, self.left_out, self.limit, self.first_step = run, phase, left_out, limit, first_step

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Report the step."""
        if state.is_world_process_zero:
            report_step(self.run, self.phase, self.left_out, self.first_step + state.global_step, self.limit)
        elif self.left_out.in_a_row >= self.limit:
            raise TrainingError(f"{self.phase}: ended by the first process")
