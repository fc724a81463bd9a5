"""Building blocks of the schema in `kdkit.config`: number types, losses and their options, stages, the cache.

A loss is written as its name (`loss: jsd`) or, with options, as `loss: {name: jsd, teacher_weight: 0.1}`.
Every loss declares its own options, so one that it does not take is refused.
"""

import re
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from kdkit.errors import UserError


def _number(value: object) -> object:
    """Read `5e-4`, which YAML 1.1 takes for a string, as the number it is."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


Number = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Positive = Annotated[Number, Field(gt=0.0)]
NotNegative = Annotated[Number, Field(ge=0.0)]
Share = Annotated[Number, Field(ge=0.0, le=1.0)]
OpenShare = Annotated[Number, Field(gt=0.0, lt=1.0)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A frozen group of settings that refuses keys it does not declare."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


class Loss(Section):
    """A loss by its name, with its options."""

    name: str

    def __str__(self) -> str:
        options = [f"{key}={value}" for key, value in self if key != "name"]
        return f"{self.name} ({', '.join(options)})" if options else self.name


class Auto(Loss):
    """Pick by the tokenizers and the measured overlap; notebook 03 prints the reason."""

    name: Literal["auto"] = "auto"


class ForwardKL(Loss):
    """KL(teacher || student): the student covers all that the teacher finds possible."""

    name: Literal["forward_kl"] = "forward_kl"


class ReverseKL(Loss):
    """KL(student || teacher): the student keeps to what the teacher finds likely."""

    name: Literal["reverse_kl"] = "reverse_kl"


class JensenShannon(Loss):
    """w KL(p || m) + (1 - w) KL(q || m), m = w p + (1 - w) q."""

    name: Literal["jsd"] = "jsd"
    teacher_weight: OpenShare = 0.5
    """w above."""


class SkewedForwardKL(Loss):
    """KL(p || skew p + (1 - skew) q)."""

    name: Literal["skewed_forward_kl"] = "skewed_forward_kl"
    skew: OpenShare = 0.1
    """Share of the other distribution in the mixture."""


class SkewedReverseKL(Loss):
    """KL(q || (1 - skew) p + skew q)."""

    name: Literal["skewed_reverse_kl"] = "skewed_reverse_kl"
    skew: OpenShare = 0.1
    """Share of the student's own distribution in the mixture."""


class TotalVariation(Loss):
    """1/2 sum abs(p - q)."""

    name: Literal["tvd"] = "tvd"


class AdaptiveKL(Loss):
    """Forward and reverse KL, weighed by where the two distributions differ."""

    name: Literal["adaptive_kl"] = "adaptive_kl"
    head_mass: OpenShare = 0.5
    """Cumulative teacher probability at which the head ends and the tail begins."""


def _by_name(value: object) -> object:
    """Read `jsd` as `{name: jsd}`."""
    return {"name": value} if isinstance(value, str) else value


_DIVERGENCES = ForwardKL | ReverseKL | JensenShannon | SkewedForwardKL | SkewedReverseKL | TotalVariation | AdaptiveKL
DivergenceSettings = Annotated[_DIVERGENCES, Field(discriminator="name"), BeforeValidator(_by_name)]
"""A divergence of two distributions over the same outcomes."""


class OverlapKL(Loss):
    """A divergence over the tokens that both vocabularies spell alike, where the next token is such a one."""

    name: Literal["overlap_kl"] = "overlap_kl"
    divergence: DivergenceSettings = ForwardKL()
    """Which one."""


class ProjectedKL(Loss):
    """A divergence over what the next tokens begin with, wherever both models have read the same text."""

    name: Literal["projected_kl"] = "projected_kl"
    divergence: DivergenceSettings = ForwardKL()
    """Which one."""


class XTokenPKL(Loss):
    """X-Token's P-KL: student probabilities projected onto the teacher's vocabulary, averaged over a span."""

    name: Literal["xtoken_p_kl"] = "xtoken_p_kl"
    kept_teacher_ids: Count = 8192
    """Teacher tokens compared: the most likely ones of the micro-batch."""


class XTokenHKL(Loss):
    """X-Token's H-KL: KL on the tokens with a partner, sorted differences on the others."""

    name: Literal["xtoken_h_kl"] = "xtoken_h_kl"
    min_weight: Share = 0.6
    """Least projection weight of a partner."""
    kept_uncommon: Count = 8192
    """Sorted probabilities without a partner that are compared."""


class ALM(Loss):
    """Approximate likelihood matching: how likely both models find the text of a span."""

    name: Literal["alm"] = "alm"
    likelihood_temperature: Positive = 100.0
    """Exponent 1 / temperature of both likelihoods; the paper's 100."""


class Gold(Loss):
    """GOLD's hybrid: JSD on matched tokens, sorted differences on the others."""

    name: Literal["gold"] = "gold"
    teacher_weight: OpenShare = 0.5
    """w of the Jensen-Shannon divergence."""


class ULD(Loss):
    """Universal logit distillation: sorted probabilities compared one by one."""

    name: Literal["uld"] = "uld"


class CDM(Loss):
    """Contextual dynamic mapping: positions by time warping, tokens by edit distance."""

    name: Literal["cdm"] = "cdm"
    top_k: Count = 100
    """Most likely tokens of both models that are mapped at a position."""


LossSettings = Annotated[
    Auto | _DIVERGENCES | OverlapKL | ProjectedKL | XTokenPKL | XTokenHKL | ALM | Gold | ULD | CDM,
    Field(discriminator="name"),
    BeforeValidator(_by_name),
]
"""What the student is asked to match."""


class CacheConfig(Section):
    """The teacher's answers on disk, so that training needs no teacher in memory."""

    enabled: bool = False
    """Train from the cache; it is built first where it does not exist."""
    file: str = ""
    """File of the cache; empty: in `cache_dir`, named by what it was made from."""
    mode: Literal["top_k", "sampled", "true_token"] = "top_k"
    """`top_k`: the most likely tokens; `sampled`: tokens drawn from the teacher, with their counts
    (RS-KD); `true_token`: the log-probability of the text's own tokens, which is all that `alm` needs."""
    top_k: Count = 64
    """Tokens kept per position (mode `top_k`)."""
    num_samples: Annotated[int, Field(ge=1, le=255)] = 50
    """Tokens drawn per position (mode `sampled`); equal ones are stored once."""
    tail: Literal["ghost", "keep_mass", "renormalise"] = "ghost"
    """What is done about the tokens that are not kept (mode `top_k`): one more outcome with their mass;
    only the kept terms of the sum; or the kept ones taken for all."""
    samples_per_chunk: Count = 64
    """Sequences that are written, checked and repaired together."""


class TermWeights(Section):
    """Shares of the five parts of the teacher's signal; a part with weight 0 is not computed."""

    logits: NotNegative = 1.0
    """What the teacher predicts: `distill.loss`."""
    feature: NotNegative = 0.0
    """The last mapped layer's hidden states, through a projection."""
    attention: NotNegative = 0.0
    """Attention maps of the mapped layers."""
    layerwise: NotNegative = 0.0
    """Hidden states of all mapped layers, deeper ones weighing more."""
    contrastive: NotNegative = 0.0
    """Telling the teacher's state at a place from its states at other places of the sequence (InfoNCE)."""

    @model_validator(mode="after")
    def _something(self) -> "TermWeights":
        if not any(value for _, value in self):
            raise UserError(
                "distill.weights: expected at least one weight above 0, got only zeros; "
                "for training without a teacher's signal set distill.kd_ratio=0"
            )
        return self


class RouterConfig(Section):
    """How a mixture-of-experts teacher is routed while it teaches, or what is mixed of a dense one."""

    kind: Literal["none", "all_experts", "knowledge_augmentation", "student_aware_routing", "student_aware"] = "none"
    """`none`: the teacher's own routing; `all_experts`: all, weighed by its gates; `knowledge_augmentation`: several
    passes with experts drawn by the gates; `student_aware_routing`: gates trained towards the student;
    `student_aware`: that, plus what the student's own state says about capacity, gap and each expert."""
    sources: Literal["auto", "experts", "layers", "teachers"] = "auto"
    """What is routed over: experts of a MoE teacher, last layers of a dense one (`num_layers`), or
    `teacher.path` and `teacher.others`; `auto`: teachers if there are several, else experts."""
    num_layers: Count = 4
    """Last layers of a dense teacher that `sources: layers` mixes."""
    learning_rate: Positive = 1.0e-4
    """Learning rate of the router's own optimizer (AdamW, clipped at 1). Alias: `router_lr`."""
    update_every: Count = 10
    """Optimizer steps between updates of the router, which cost about two steps of the demo each."""
    update_sequences: Count | None = 2
    """Sequences of a micro-batch that an update looks at; null: all."""
    training_top_k: Count | None = None
    """Experts in the pass that trains the router; null: all, without which experts out of the top get no gradient."""
    direction: Literal["student_teacher", "teacher_student"] = "student_teacher"
    """What the router lowers: KL(student || teacher), as published, or the other way, as in the paper's code."""
    balance_weight: NotNegative = 0.01
    """Weight of the squared coefficient of variation of the experts' importance."""
    anchor: Literal["kl", "l2"] = "kl"
    """What holds the router to the initial one: KL between the routings, or the distance of the weights."""
    anchor_weight: NotNegative = 1.0
    """Weight of the anchor; without it the router goes where the student already agrees."""
    text_weight: NotNegative = 1.0
    """Weight of the routed teacher's own cross-entropy on the text, which keeps it right while it adapts; 0: as
    published, with which the demo's router gave up what its teacher knows (LOG.md)."""
    num_passes: Annotated[int, Field(ge=2)] = 2
    """Passes of knowledge augmentation; the loss is their mean."""
    augmentation_rate: Share = 0.05
    """Probability that a token's experts are drawn in a layer, and not its top ones (knowledge augmentation)."""
    progressive: bool = True
    """Let `student_aware` grow from `initial_top_k` to `final_top_k`, and anneal; false: final values throughout."""
    initial_top_k: Count = 1
    """Sources a token is routed to at the start (`student_aware`)."""
    final_top_k: Count = 4
    """Sources a token is routed to at the end (`student_aware`)."""
    initial_temperature: Positive = 2.0
    """Temperature of the routing's softmax at the start (`student_aware`)."""
    final_temperature: Positive = 1.0
    """Temperature at the end (`student_aware`)."""
    schedule_share: Annotated[Number, Field(gt=0.0, le=1.0)] = 0.8
    """Share of the training after which both have their final values."""

    @model_validator(mode="after")
    def _order(self) -> "RouterConfig":
        if self.initial_top_k > self.final_top_k:
            raise UserError(
                f"router.initial_top_k: expected at most router.final_top_k = {self.final_top_k}, "
                f"got {self.initial_top_k}; the schedule grows, so swap the two"
            )
        return self

    def check(self, others: list[str], cached: bool) -> None:
        """Refuse what does not go together with the rest of a configuration.

        Args:
            others: `teacher.others`.
            cached: `cache.enabled`.

        Raises:
            UserError: a cache, or sources that are not there.
        """
        if self.kind == "none" and others:
            raise UserError(
                f"teacher.others: expected a router that weighs the teachers, got {len(others)} more teachers and "
                "router.kind=none; set router.kind, such as all_experts (equal weights) or student_aware"
            )
        if self.kind != "none" and cached:
            raise UserError(
                f"router.kind: expected none with cache.enabled, got {self.kind!r}; a cache holds what one fixed "
                "teacher says, and a router changes the teacher while it teaches; set cache.enabled=false"
            )
        if (self.sources == "teachers" and not others) or (self.sources in ("experts", "layers") and others):
            raise UserError(
                f"router.sources: expected 'teachers' where teacher.others names more of them, and only there, got "
                f"{self.sources!r} and {len(others)} others; change one of the two"
            )
        if self.kind == "knowledge_augmentation" and (self.sources == "layers" or others):
            got = "teachers" if others else self.sources
            raise UserError(
                "router.kind: expected sources of which some can be left out for 'knowledge_augmentation', the experts "
                f"of a MoE teacher, got {got!r}; choose all_experts or student_aware"
            )


class ParameterRule(Section):
    """What happens to the parameters whose name a pattern matches."""

    pattern: str
    """Regular expression, searched in the parameter's name; the first rule that matches counts."""
    lr_multiplier: Annotated[Number, Field(ge=0.0)]
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
    """Sampling temperature of the student."""
    share: Annotated[Number, Field(gt=0.0, le=1.0)] = 1.0
    """Share of the micro-batches that the student writes; the others are read from the data."""


class StageSettings(Section):
    """One stage of a training: what differs from `distill` and `train`; its optimizer starts anew."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]
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


def loss_options() -> dict[str, list[str]]:
    """Return the names of all losses and the options that each one takes."""
    union, *_ = get_args(LossSettings)
    fields = {member.model_fields["name"].default: member.model_fields for member in get_args(union)}
    return {name: [field for field in options if field != "name"] for name, options in fields.items()}
