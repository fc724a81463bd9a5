"""Settings that every training has, whatever is trained."""

import re
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, field_validator, model_validator

from kdkit.config.losses import LossSettings
from kdkit.config.types import Count, DropShare, NotNegative, Number, OpenShare, Positive, Section, Share
from kdkit.errors import UserError

StageName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]
"""Name of a stage, which is also a folder's."""

TRAINING_ALIASES = {
    "train.batch_size": "train.per_device_train_batch_size",
    "train.num_epochs": "train.num_train_epochs",
    "train.epochs": "train.num_train_epochs",
    "train.lr": "train.learning_rate",
}
"""Other names of a training's settings, and the key that each one means."""

SCHEDULE_OPTIONS: dict[str, tuple[str, ...]] = {
    "cosine": ("num_cycles",),
    "cosine_with_restarts": ("num_cycles",),
    "cosine_with_min_lr": ("min_lr", "min_lr_rate", "num_cycles"),
    "linear": (),
    "polynomial": ("lr_end", "power"),
    "inverse_sqrt": ("timescale",),
    "constant": (),
    "constant_with_warmup": (),
    "warmup_stable_decay": ("decay_share", "decay_type", "warmup_type", "min_lr_ratio", "num_cycles"),
}
"""Options of the learning rate's schedules: transformers', but for `decay_share`, a share of the steps for
`num_decay_steps`: trainings of other lengths, as a baseline of equal time, keep the shape."""


class OptimizationConfig(Section):
    """Device, precision, optimizer, schedule and logging of a training."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes a GPU that works, else the CPU."""
    precision: Literal["auto", "fp32", "fp16", "bf16"] = "auto"
    """`auto` decides by the device; the reason is printed."""
    per_device_train_batch_size: Count = 4
    """Sequences in a micro-batch. Alias: `batch_size`."""
    gradient_accumulation_steps: Count = 8
    """Micro-batches in an optimizer step."""
    learning_rate: Positive = 5.0e-5
    """Peak learning rate of AdamW, reached after the warm-up, then cosine to 0."""
    weight_decay: NotNegative = 0.01
    """AdamW weight decay; none on biases and norms."""
    warmup_steps: Annotated[int, Field(ge=0)] = 20
    """Optimizer steps of linear warm-up."""
    num_train_epochs: Positive = 3.0
    """Passes over the training sequences; `max_steps` overrides it. Alias: `num_epochs`."""
    max_steps: Count | None = None
    """Optimizer steps; null: by `num_train_epochs`."""
    max_grad_norm: Positive = 1.0
    """Gradients are clipped to this norm after unscaling."""
    log_every: Count = 20
    """Optimizer steps between lines of metrics.jsonl and progress lines."""
    save_every: Count = 500
    """Optimizer steps between checkpoints; the last one is kept."""
    wandb: Literal["disabled", "offline", "online"] = "disabled"
    """Also log to Weights & Biases; metrics.jsonl is written in any case."""
    wandb_project: str = "kdkit"
    """Project that Weights & Biases files the run under."""


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

    optimizer: Literal["adamw", "muon"] = "adamw"
    """`muon`: see `train.muon`; torch 2.9 or newer."""
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
    """Course of the learning rate after `warmup_steps`, by transformers' names."""
    lr_schedule_options: dict[str, Number | str] = Field(default_factory=dict)
    """Its options, transformers' `lr_scheduler_kwargs`; `warmup_stable_decay` takes `decay_share` of the steps (0.2) in
    place of `num_decay_steps`."""
    weight_decay_end: NotNegative | None = None
    """Weight decay of the last step, to which it moves in a straight line; null: it stays."""
    average: AverageConfig = AverageConfig()
    multi_token: MultiTokenConfig = MultiTokenConfig()
    batch_schedule: ByShare = Field(default_factory=dict)
    """Sequences of a micro-batch, by share of the steps: `{0: 2, 0.3: 8}`; empty: `per_device_train_batch_size`."""
    length_schedule: ByShare = Field(default_factory=dict)
    """Tokens of a sequence at most, by share of the steps: `{0: 32, 0.5: 128}`; longer ones are read in pieces, in the
    same micro-batch, so that a step reads as much text; empty: `data.max_length`."""

    @model_validator(mode="after")
    def _recipe(self) -> "RecipeConfig":
        allowed = SCHEDULE_OPTIONS[self.lr_schedule]
        if unknown := [name for name in self.lr_schedule_options if name not in allowed]:
            raise UserError(
                f"train.lr_schedule_options: expected {', '.join(allowed) or 'none'} for {self.lr_schedule}, "
                f"got {unknown[0]!r}; correct it"
            )
        chosen = self.lr_schedule_options.keys()
        if self.lr_schedule == "cosine_with_min_lr" and len(chosen & {"min_lr", "min_lr_rate"}) != 1:
            raise UserError(
                "train.lr_schedule_options: expected either min_lr or min_lr_rate for cosine_with_min_lr, got "
                f"{', '.join(chosen) or 'none'}; set train.lr_schedule_options={{min_lr_rate: 0.1}}"
            )
        for name in ("decay_type", "warmup_type"):
            if (value := self.lr_schedule_options.get(name, "linear")) not in ("linear", "cosine", "1-sqrt"):
                raise UserError(f"train.lr_schedule_options: expected {name} linear, cosine or 1-sqrt, got {value!r}")
        if not 0.0 < _share(self.lr_schedule_options.get("decay_share", 0.2)) <= 1.0:
            raise UserError(
                "train.lr_schedule_options: expected decay_share above 0 and at most 1, got "
                f"{self.lr_schedule_options['decay_share']!r}; it is a share of the steps"
            )
        if self.weight_decay_end is not None and self.weight_decay == 0.0:
            raise UserError(
                f"train.weight_decay_end: expected train.weight_decay above 0, from which it moves to "
                f"{self.weight_decay_end:g}, got 0; set train.weight_decay=0.01, or leave it out"
            )
        for key in ("batch_schedule", "length_schedule"):
            if (values := getattr(self, key)) and 0.0 not in values:
                raise UserError(
                    f"train.{key}: expected a first value from share 0 on, got shares {', '.join(map(str, values))}; "
                    f"write {{0: {next(iter(values.values()))}, ...}}"
                )
        return self

    def check_recipe(self, max_length: int, changing: str, has_own_text: bool) -> None:
        """Refuse what does not fit the rest of a configuration.

        Args:
            max_length: `data.max_length`.
            changing: a setting under which sequences are read as a whole; empty: there is none.
            has_own_text: whether the student writes the text of a stage.

        Raises:
            UserError: lengths below 8 or above `max_length`, or a setting that an option cannot work with.
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
        if self.multi_token.num_tokens and has_own_text:
            raise UserError(
                "train.multi_token: expected stages that read the data, got an on-policy one, which learns nothing of "
                "its own text but from the teacher; set train.multi_token.num_tokens=0"
            )


def _share(value: float | str) -> float:
    return value if isinstance(value, float) else -1.0


class MaskingConfig(Section):
    """Tokens of the training text, of chat data the answers' alone, that the student does not see."""

    enabled: bool = False
    """Hide some; the baselines' text is masked as the student's is, held-out text never."""
    share: Annotated[Number, Field(ge=0.0, lt=1.0)] = 0.3
    """Share of the tokens, in every sequence; other ones in every epoch."""
    dropped_from: Literal["input", "loss"] = "input"
    """`input`: another token stands in the student's input, and the labels stay: it fills the gaps; `loss`: it reads
    them, and they teach nothing."""

    @field_validator("share", mode="wrap")
    @classmethod
    def _some_are_left(cls, share: Any, check: ValidatorFunctionWrapHandler) -> float:
        try:
            return check(share)
        except ValidationError:
            raise UserError(
                f"train.masking.share: expected a number of at least 0 and below 1, got {share!r}; "
                f"set train.masking.share={cls.model_fields['share'].default}"
            ) from None


class ParameterRule(Section):
    """What happens to the parameters whose name a pattern matches."""

    pattern: str
    """Regular expression, searched in the parameter's name; the first rule that matches counts."""
    lr_multiplier: NotNegative
    """Factor of the learning rate; 0 freezes the parameter."""

    @model_validator(mode="after")
    def _compiles(self) -> "ParameterRule":
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise UserError(
                f"parameter_lr_multipliers: expected a regular expression, got {self.pattern!r} ({error}); correct it"
            ) from None
        return self


class OnPolicy(Section):
    """The student writes, the teacher judges (generalised knowledge distillation)."""

    prompt_length: Count = 16
    """Student tokens of a training sequence that are given as the prompt."""
    max_new_tokens: Count = 48
    """Student tokens written after it."""
    generation_temperature: Positive = 1.0
    """Sampling temperature of the student; its whole distribution is drawn from, whatever its folder says."""
    share: Annotated[Number, Field(gt=0.0, le=1.0)] = 1.0
    """Share of the micro-batches that the student writes; the others are read from the data."""
    first_share: Annotated[Number, Field(gt=0.0, le=1.0)] = 1.0
    """Share of each text's own tokens, from the first on, that both models read; 0.3 is said to teach as much as
    all (arXiv:2606.22600)."""
    importance: NotNegative = 0.0
    """How much more a text's first own tokens count: `1 + importance * share of the text's disagreement with the
    teacher that is still to come` (IW-OPD, arXiv:2606.22600, with 0.5); 0: all count the same."""
    anti_copy: NotNegative = 0.0
    """Weight of `-log(1 - q)` of own tokens that complete an n-gram of the training text, of chat data of its answers:
    what the student copies word for word becomes less likely (unlikelihood, arXiv:1908.04319); 0: nothing."""
    anti_copy_length: Annotated[int, Field(ge=2)] = 8
    """Student tokens of such an n-gram."""
    advantage: Literal["teacher", "constant"] = "teacher"
    """`constant`: a control in which the teacher has no part: the fifth of the own tokens that was least likely is
    made less likely still, with advantage -0.5 (arXiv:2608.31046). What it reaches too is no teacher's merit."""

    @model_validator(mode="before")
    @classmethod
    def _states_the_distribution(cls, values: Any) -> Any:
        unknown = sorted(set(values) - set(cls.model_fields)) if isinstance(values, dict) else []
        if unknown:
            raise UserError(
                f"train.stages: expected on_policy with {', '.join(cls.model_fields)}, got {unknown[0]!r}; leave it "
                "out: the student is drawn from as it is, and only generation_temperature changes its distribution"
            )
        return values

    @model_validator(mode="after")
    def _one_weighting(self) -> "OnPolicy":
        for name in ("importance", "anti_copy"):
            if self.advantage == "constant" and getattr(self, name) > 0.0:
                raise UserError(
                    f"train.stages: expected {name}=0 with advantage=constant, which asks no teacher, got "
                    f"{getattr(self, name):g}; leave one of them out"
                )
        return self


class StageSettings(Section):
    """One stage of a training: what differs from `distill` and `train`; its optimizer starts anew."""

    name: StageName
    """Name in metrics, messages and checkpoints."""
    max_steps: Count | None = None
    """Optimizer steps; null: by `num_train_epochs`."""
    num_train_epochs: Positive | None = None
    """Passes over the training sequences."""
    learning_rate: Positive | None = None
    """Peak learning rate; null: `train.learning_rate`."""
    loss: LossSettings | None = None
    """Null: `distill.loss`."""
    kd_ratio: Share | None = None
    """Null: `distill.kd_ratio`."""
    temperature: Positive | None = None
    """Null: `distill.temperature`."""
    parameter_lr_multipliers: list[ParameterRule] | None = None
    """Null: `train.parameter_lr_multipliers`."""
    on_policy: OnPolicy | None = None
    """Let the student write the text of this stage."""

    @model_validator(mode="before")
    @classmethod
    def _length(cls, values: Any) -> Any:
        if isinstance(values, dict) and not values.get("max_steps") and not values.get("num_train_epochs"):
            raise UserError(
                f"train.stages: expected max_steps or num_train_epochs in stage {values.get('name')!r}, got neither; "
                "a stage says how long it lasts"
            )
        return values
