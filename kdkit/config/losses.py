"""Settings of losses: every loss with its own options, and the weights of the parts of the teacher's signal.

A loss is written as its name (`loss: jsd`) or, with options, as `loss: {name: jsd, teacher_weight: 0.1}`.
Every loss declares its own options, so one that it does not take is refused.
"""

from typing import Annotated, ClassVar, Literal, get_args

from pydantic import BeforeValidator, Field, model_validator

from kdkit.config.types import Count, NotNegative, OpenShare, Positive, Section, Share
from kdkit.errors import UserError


class Loss(Section):
    """A loss by its name, with its options."""

    name: str

    def __str__(self) -> str:
        options = [f"{key}={value}" for key, value in self if key != "name"]
        return f"{self.name} ({', '.join(options)})" if options else self.name


class Auto(Loss):
    """Pick by the tokenizers and the measured overlap; notebook 03 prints the reason."""

    name: Literal["auto"] = "auto"


class Divergence(Loss):
    """A divergence of two distributions over the same outcomes; alone it compares token ids, so needs one tokenizer."""

    tails: ClassVar[tuple[str, ...]] = ("ghost",)
    """Values of `cache.tail` that it allows: with others it is infinite, or smallest where it should not be."""


class ForwardKL(Divergence):
    """KL(teacher || student): the student covers all that the teacher finds possible."""

    name: Literal["forward_kl"] = "forward_kl"
    tails: ClassVar[tuple[str, ...]] = ("ghost", "keep_mass", "renormalise")


class ReverseKL(Divergence):
    """KL(student || teacher): the student keeps to what the teacher finds likely."""

    name: Literal["reverse_kl"] = "reverse_kl"


class JensenShannon(Divergence):
    """w KL(p || m) + (1 - w) KL(q || m), m = w p + (1 - w) q."""

    name: Literal["jsd"] = "jsd"
    tails: ClassVar[tuple[str, ...]] = ("ghost", "renormalise")
    teacher_weight: OpenShare = 0.5
    """w above."""


class SkewedForwardKL(Divergence):
    """KL(p || skew p + (1 - skew) q)."""

    name: Literal["skewed_forward_kl"] = "skewed_forward_kl"
    tails: ClassVar[tuple[str, ...]] = ("ghost", "renormalise")
    skew: OpenShare = 0.1
    """Share of the other distribution in the mixture."""


class SkewedReverseKL(Divergence):
    """KL(q || (1 - skew) p + skew q)."""

    name: Literal["skewed_reverse_kl"] = "skewed_reverse_kl"
    skew: OpenShare = 0.1
    """Share of the student's own distribution in the mixture."""


class TotalVariation(Divergence):
    """1/2 sum abs(p - q)."""

    name: Literal["tvd"] = "tvd"
    tails: ClassVar[tuple[str, ...]] = ("ghost", "renormalise")


class AdaptiveKL(Divergence):
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
    """Teacher tokens compared at a span: the most likely ones there."""


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


def divergences_with_tail(tail: str) -> list[str]:
    """Return the names of the divergences that a value of `cache.tail` allows, sorted."""
    return sorted(kind.model_fields["name"].default for kind in get_args(_DIVERGENCES) if tail in kind.tails)


def loss_options() -> dict[str, list[str]]:
    """Return the names of all losses and the options that each one takes."""
    union, *_ = get_args(LossSettings)
    fields = {member.model_fields["name"].default: member.model_fields for member in get_args(union)}
    return {name: [field for field in options if field != "name"] for name, options in fields.items()}
