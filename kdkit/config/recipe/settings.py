"""Settings of a training beyond AdamW, a cosine and one batch size."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from kdkit.config.recipe.schedules import check_schedule
from kdkit.config.training import OptimizationConfig
from kdkit.config.types import Count, DropShare, NotNegative, Number, OpenShare, Positive, Section
from kdkit.errors import UserError


class MuonConfig(Section):
    """Muon on the matrices of the hidden layers; embeddings, head, norms and biases stay with AdamW."""

    lr_multiplier: Positive = 1.0
    """Factor of the learning rate on these matrices; updates are as large as AdamW's (arXiv:2502.16982)."""
    momentum: DropShare = 0.95
    """Share of the last steps' gradient that is kept (Nesterov)."""


class AverageConfig(Section):
    """The student that is saved is an average of the weights of its last steps; the last ones are kept beside it."""

    kind: Literal["none", "ema", "uniform"] = "none"
    """`ema`: exponential moving average; `uniform`: the mean of all steps that count (stochastic weight averaging)."""
    decay: OpenShare = 0.99
    """Share of the average that stays in every step of `ema`."""
    start: DropShare = 0.0
    """Share of a stage's steps after which the average begins."""


class MultiTokenConfig(Section):
    """Heads that predict further tokens than the next one while the student is trained; they are not saved with it."""

    num_tokens: Annotated[int, Field(ge=0)] = 0
    """Further tokens, each by a head of its own in front of the student's output head (arXiv:2404.19737); 0: none."""
    weight: Positive = 0.1
    """Weight of each one's mean cross-entropy beside the loss."""


ByShare = dict[DropShare, Count]
"""A schedule in steps: from which share of a stage's steps on a value holds, the first one from 0."""


class RecipeConfig(OptimizationConfig):
    """How a language model is trained beyond AdamW, a cosine and one batch size."""

    optimizer: Literal["adamw", "adamw_8bit", "muon"] = "adamw"
    """`adamw_8bit`: running means in a byte each but for embeddings and head, by bitsandbytes. `muon`: see
    `train.muon`; torch 2.9 or newer."""
    muon: MuonConfig = MuonConfig()
    adam_betas: Annotated[list[DropShare], Field(min_length=2, max_length=2)] = Field(
        default_factory=lambda: [0.9, 0.999]
    )
    """AdamW's running means of the gradient and of its square: the share that stays in every step. With 0.95 in place
    of 0.999 the second forgets faster."""
    lr_schedule: Literal[
        "cosine",
        "cosine_with_restarts",
        "cosine_with_min_lr",
        "linear",
        "polynomial",
        "inverse_sqrt",
        "constant",
        "constant_with_warmup",
        "warmup_stable_decay",
    ] = "cosine"
    """Course of the learning rate after `warmup_steps`, by transformers' names; `constant` alone has no warm-up."""
    lr_schedule_options: dict[str, Number | str] = Field(default_factory=dict)
    """Its options, transformers' `lr_scheduler_kwargs`; `warmup_stable_decay` takes `decay_share` of the steps (0.2) in
    place of `num_decay_steps`."""
    weight_decay_end: NotNegative | None = None
    """Weight decay of the last step, to which it moves in a straight line; null: it stays."""
    average: AverageConfig = AverageConfig()
    multi_token: MultiTokenConfig = MultiTokenConfig()
    micro_batch_tokens: Count | None = None
    """Dynamic batching: sort the sequences of every optimizer step by length and cut them into micro-batches of so many
    student tokens at most, padding included; `batch_size * data.max_length` takes no more memory than without. What a
    step reads and its loss stay as they are; null: micro-batches of `batch_size` sequences."""
    batch_schedule: ByShare = Field(default_factory=dict)
    """Sequences of a micro-batch, by share of the steps: `{0: 2, 0.3: 8}`; empty: `per_device_train_batch_size`."""
    length_schedule: ByShare = Field(default_factory=dict)
    """Tokens of a sequence at most, by share of the steps: `{0: 32, 0.5: 128}`; longer ones are read in pieces, in the
    same micro-batch, so that a step reads as much text; empty: `data.max_length`."""

    @model_validator(mode="after")
    def _recipe(self) -> "RecipeConfig":
        check_schedule(self.lr_schedule, self.lr_schedule_options, self.learning_rate)
        if self.weight_decay_end is not None and self.weight_decay == 0.0:
            raise UserError(
                f"train.weight_decay_end: expected train.weight_decay above 0, from which it moves to "
                f"{self.weight_decay_end:g}, got 0; set train.weight_decay=0.01, or leave it out"
            )
        for key, first in (("batch_schedule", self.per_device_train_batch_size), ("length_schedule", 32)):
            if (values := getattr(self, key)) and 0.0 not in values:
                raise UserError(
                    f"train.{key}: expected a first value from share 0 on, got shares {', '.join(map(str, values))}; "
                    f"add one: {{0: {first}, {', '.join(f'{share:g}: {value}' for share, value in values.items())}}}"
                )
        if self.micro_batch_tokens is not None and (self.batch_schedule or self.length_schedule):
            key = "batch_schedule" if self.batch_schedule else "length_schedule"
            raise UserError(
                f"train.micro_batch_tokens: expected steps of one size, got train.{key} beside it, which plans every "
                "micro-batch; leave one of the two out"
            )
        self._check_that_all_act()
        return self

    def _check_that_all_act(self) -> None:
        """Refuse options of what is switched off."""
        average, further = AverageConfig(), MultiTokenConfig()
        idle = [
            ("train.muon", self.muon != MuonConfig() and self.optimizer != "muon", "train.optimizer=muon"),
            ("train.average", self.average != average and self.average.kind == "none", "train.average.kind=ema"),
            (
                "train.average.decay",
                self.average.decay != average.decay and self.average.kind == "uniform",
                "train.average.kind=ema",
            ),
            (
                "train.multi_token.weight",
                self.multi_token.weight != further.weight and not self.multi_token.num_tokens,
                "train.multi_token.num_tokens=1",
            ),
        ]
        for key, is_idle, switch in idle:
            if is_idle:
                raise UserError(
                    f"{key}: expected {switch} beside it, else it does nothing; set {switch}, or leave it out"
                )

    def check_recipe(self, max_length: int, changing: str, has_own_text: bool) -> None:
        """Refuse what does not fit the rest of a configuration.

        Args:
            max_length: `data.max_length`.
            changing: a setting under which sequences are read as a whole; empty: there is none.
            has_own_text: whether the student writes the text of a stage.

        Raises:
            UserError: lengths below 8 or above `max_length`, micro-batches of fewer tokens, or a setting that an option
                cannot work with.
        """
        for length in self.length_schedule.values():
            if not 8 <= length <= max_length:
                raise UserError(
                    f"train.length_schedule: expected lengths from 8 to data.max_length, {max_length}, got {length}; "
                    "change one of them"
                )
        if self.length_schedule and (changing or has_own_text):
            raise UserError(
                "train.length_schedule: expected sequences that may be read in pieces, got "
                f"{changing or 'an on-policy stage'}, which needs whole ones; leave one of the two out"
            )
        if self.micro_batch_tokens is not None and self.micro_batch_tokens < max_length:
            raise UserError(
                f"train.micro_batch_tokens: expected at least data.max_length, {max_length}, or the longest sequence "
                f"stands in no micro-batch, got {self.micro_batch_tokens}; set train.micro_batch_tokens={max_length}"
            )
        if self.multi_token.num_tokens > max_length - 2:
            raise UserError(
                f"train.multi_token.num_tokens: expected at most {max_length - 2}, what a sequence of data.max_length, "
                f"{max_length} tokens, has beside the next one, got {self.multi_token.num_tokens}; set it to 1"
            )
        if self.multi_token.num_tokens and has_own_text:
            raise UserError(
                "train.multi_token: expected stages that read the data, got an on-policy one, which learns nothing of "
                "its own text but from the teacher; set train.multi_token.num_tokens=0"
            )
