"""Log of how the teacher was routed: lines of phase `router` in metrics.jsonl."""

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from kdkit.runs.folder import Run
from kdkit.teachers.router.teacher import RoutedTeacher

ROUTER = "router"
"""Phase of the lines."""


class RouterLog(TrainerCallback):
    """Writes a routed teacher's figures whenever Trainer logs; see `RoutedTeacher.describe`."""

    def __init__(self, run: Run, teacher: RoutedTeacher, first_step: int):
        """Prepare the record.

        Args:
            first_step: optimizer steps of the stages before this one.
        """
        self.run, self.teacher, self.first_step = run, teacher, first_step

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
