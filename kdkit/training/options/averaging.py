"""Averaged weights: what is saved is a mean of the weights of many steps, by torch's own `AveragedModel`.

Sources: Izmailov et al. 2018 (stochastic weight averaging), arXiv:1803.05407; Polyak & Juditsky 1992.
"""

from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from kdkit.config.recipe.settings import AverageConfig


class WeightAverage(TrainerCallback):
    """An average of a model's weights that takes them in after every step of a stage, from its start on."""

    def __init__(self, settings: AverageConfig, model: PreTrainedModel):
        """Prepare the average; the first weights that it takes in are copied.

        Args:
            model: whose weights are averaged; the average is as large, in its dtype.
        """
        self.settings = settings
        averages = get_ema_multi_avg_fn(settings.decay) if settings.kind == "ema" else None
        self.averaged = AveragedModel(model, multi_avg_fn=averages).requires_grad_(False)

    @property
    def model(self) -> PreTrainedModel | None:
        """The model with the averaged weights; None before it has taken in any."""
        return self.averaged.module if int(self.averaged.n_averaged) else None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begin anew with a stage, as its optimizer does."""
        if not state.global_step:
            self.averaged.n_averaged.zero_()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Take in the weights of the step; Trainer's hook."""
        if state.global_step > self.settings.start * state.max_steps:
            self.averaged.to(args.device).update_parameters(kwargs["model"])

    def state(self) -> dict[str, torch.Tensor]:
        """Return what a checkpoint keeps."""
        return self.averaged.state_dict()

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        """Go on from what `state` returned."""
        self.averaged.load_state_dict(state)
