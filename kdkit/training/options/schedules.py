"""Courses of the learning rate and of the weight decay over the steps of a training."""

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from kdkit.config.recipe.settings import RecipeConfig

BASE = "initial_weight_decay"
"""Entry of an optimizer group: the weight decay of the first step."""


def schedule_options(train: RecipeConfig, max_steps: int) -> dict[str, Any]:
    """Return transformers' `lr_scheduler_kwargs` for a training of some steps."""
    options: dict[str, Any] = dict(train.lr_schedule_options)
    if train.lr_schedule == "warmup_stable_decay":
        share = float(options.pop("decay_share", 0.2))
        options["num_decay_steps"] = max(1, min(round(share * max_steps), max_steps - train.warmup_steps))
    return options


class MoveWeightDecay(TrainerCallback):
    """Moves the weight decay of all groups that have one, in a straight line, to its value at the last step."""

    def __init__(self, factor: float):
        """Prepare the course.

        Args:
            factor: weight decay at the last step, in parts of that of the first.
        """
        self.factor = factor

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Set the weight decay of the step that begins; it follows from the number of the step alone."""
        done = state.global_step / max(1, state.max_steps - 1)
        for group in kwargs["optimizer"].param_groups:
            group["weight_decay"] = group.setdefault(BASE, group["weight_decay"]) * (1.0 + done * (self.factor - 1.0))
