"""Log of how the teacher was routed: lines of phase `router` in metrics.jsonl."""

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from kdkit.data.windows import Windows
from kdkit.losses.chunked.engine import Head
from kdkit.runs.folder import Run
from kdkit.teachers.router.effects import measure_effects
from kdkit.teachers.router.teacher import RoutedTeacher

ROUTER = "router"
"""Phase of the lines."""
EFFECTS_FILE = "router_effects.json"
"""In the run: see `measure_effects`."""
BATCH_SIZE = 8
"""Held-out windows at once."""


class RouterLog(TrainerCallback):
    """Writes a routed teacher's figures whenever Trainer logs; see `RoutedTeacher.describe`."""

    def __init__(self, run: Run, teacher: RoutedTeacher, first_step: int, head: Head, held_out: Windows):
        """Prepare the record.

        Args:
            first_step: optimizer steps of the stages before this one.
            head: the student's.
            held_out: text on which the parts of a student-aware router are measured in the end.
        """
        self.run, self.teacher, self.first_step = run, teacher, first_step
        self.head, self.held_out = head, held_out

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Forget the lines of an earlier attempt past the step from which this one goes on."""
        step = self.first_step + state.global_step
        self.run.drop_metrics(ROUTER, step if step else -1)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float],
        **kwargs: Any,
    ) -> None:
        """Append a line."""
        if state.is_world_process_zero and "loss" in logs:
            step = self.first_step + state.global_step
            self.run.append_metrics({"phase": ROUTER, "step": step} | self.teacher.describe())

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure what each part of a student-aware router does (`router_effects.json`); say which updates failed."""
        if not state.is_world_process_zero:
            return
        skipped = self.teacher.figures.get("skipped_updates", 0)
        if skipped:
            print(
                f"router: {skipped} updates were left out, since the fp16 gradient overflowed; the loss is now scaled "
                f"by {self.teacher.optimizer.scale:g} (docs/router.md)",
                flush=True,
            )
        if self.teacher.settings.kind == "student_aware":
            effects = measure_effects(self.teacher, kwargs["model"], self.head, self.held_out, BATCH_SIZE)
            self.run.write_json(EFFECTS_FILE, effects)
