"""The options of a training together: made once for a phase, handed to the trainer of each of its stages."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from kdkit.config.recipe.settings import RecipeConfig
from kdkit.errors import UserError
from kdkit.training.options.averaging import WeightAverage
from kdkit.training.options.batch_plan import BatchPlan, has_plan, plan_batches
from kdkit.training.options.eight_bit import check_eight_bit, make_eight_bit
from kdkit.training.options.further_tokens import FurtherTokens
from kdkit.training.options.optimizer import check_muon, make_muon

OPTIONS_FILE = "options.pt"
"""In a checkpoint: the heads for further tokens and the averaged weights."""


@dataclass(frozen=True)
class TrainingOptions:
    """What the training of a phase does beyond the plain recipe."""

    train: RecipeConfig
    further: FurtherTokens | None = None
    average: WeightAverage | None = None

    @property
    def has_state(self) -> bool:
        """Whether there is anything for a checkpoint."""
        return self.further is not None or self.average is not None

    @property
    def averaged(self) -> PreTrainedModel | None:
        """The model with the averaged weights; None where none are averaged."""
        return None if self.average is None else self.average.model

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        parts = {
            "further": self.further and self.further.state_dict(),
            "average": self.average and self.average.state(),
        }
        return {name: part for name, part in parts.items() if part is not None}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        if self.further is not None:
            self.further.load_state_dict(state["further"])
        if self.average is not None:
            self.average.load_state(state["average"])

    def plan_of(self, steps: int, num_sequences: int) -> BatchPlan | None:
        """Return what the steps of a stage read, so many sequences at most; None where all read alike."""
        return plan_batches(self.train, steps, num_sequences) if has_plan(self.train) else None

    def make_optimizer(
        self,
        model: torch.nn.Module,
        groups: list[dict[str, Any]],
        optimizer_class: type[torch.optim.Optimizer],
        adamw_options: dict[str, Any],
    ) -> torch.optim.Optimizer:
        """Make the optimizer of a stage.

        Args:
            groups: of the model's parameters, and of what is trained beside it.
            optimizer_class: AdamW, as Trainer would make it.
            adamw_options: for it.

        Raises:
            UserError: see `make_muon` and `make_eight_bit`.
        """
        if self.further is not None:
            rates = {"lr": adamw_options["lr"], "weight_decay": self.train.weight_decay}
            groups = [*groups, {"params": list(self.further.parameters()), **rates}]
        if self.train.optimizer == "muon":
            return make_muon(model, groups, self.train.muon, adamw_options)
        if self.train.optimizer == "adamw_8bit":
            return make_eight_bit(model, groups, adamw_options)
        return optimizer_class(groups, **adamw_options)


def make_options(train: RecipeConfig, student: PreTrainedModel) -> TrainingOptions:
    """Make the options of a phase for its student."""
    further, average = None, None
    if train.multi_token.num_tokens:
        hidden_size = student.get_output_embeddings().weight.shape[1]
        further = FurtherTokens(train.multi_token, hidden_size)
    if train.average.kind != "none":
        average = WeightAverage(train.average, student)
    return TrainingOptions(train, further, average)


def check_options(train: RecipeConfig, is_chat: bool) -> None:
    """Find what cannot work before anything is trained.

    Args:
        is_chat: whether the data are conversations.

    Raises:
        UserError: an optimizer whose package is missing; short pieces of conversations.
    """
    if train.optimizer == "muon":
        check_muon()
    if train.optimizer == "adamw_8bit":
        check_eight_bit()
    if train.length_schedule and is_chat:
        raise UserError(
            "train.length_schedule: expected text, which may be read in pieces, got conversations, whose answers need "
            "their questions; leave it out"
        )
