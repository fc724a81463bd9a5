"""Settings that every training has, whatever is trained."""

import re
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, field_validator, model_validator

from kdkit.config.losses import LossSettings
from kdkit.config.types import Count, NotNegative, Number, Positive, Section, Share
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

WandbMode = Literal["auto", "offline", "online", "disabled"]
"""Where Weights & Biases keeps a run."""

SESSION_SETTINGS = ("train.time_budget_hours", "train.wandb")
"""Settings of a session, not of what is made in it: they may change while a run lives."""


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
    max_skipped_in_a_row: Count = 10
    """Steps left out one after the other, because the loss or gradient is not a number, that end a training."""
    log_every: Count = 20
    """Optimizer steps between lines of metrics.jsonl and progress lines."""
    save_every: Count = 500
    """Optimizer steps between checkpoints; the last one is kept."""
    time_budget_hours: Positive | None = None
    """Hours from the start of the session after which a training saves and stops, to go on with `--resume`; null: 11.25
    on Kaggle, no limit elsewhere."""
    wandb: WandbMode = "auto"
    """Copy metrics.jsonl to Weights & Biases; `auto`: online where a key is found and the server can be reached, else
    offline, in the run folder, to be sent by `wandb sync`; `WANDB_MODE` overrides `auto`."""
    wandb_project: str = "kdkit"
    """Project that Weights & Biases files the run under."""


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
