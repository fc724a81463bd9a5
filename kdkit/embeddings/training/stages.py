"""Stages of an embedding distillation: what is trained, for which share of the steps, how fast."""

import re
from dataclasses import dataclass

from kdkit.config.embeddings import EmbeddingConfig, EmbeddingStage
from kdkit.config.training import ParameterRule
from kdkit.embeddings.methods.base import SentenceMethod
from kdkit.embeddings.models.embedder import EmbeddingModel
from kdkit.embeddings.training.student import find_layers
from kdkit.errors import UserError

STELLA_SHARES = (4000 / 13200, 7000 / 13200, 2200 / 13200)
"""Steps of the paper's first three stages (arXiv 2412.19048, 4.2)."""
STELLA_RATES = (1.0, 0.8, 0.7)
"""Their peak learning rates as shares of the first one's, 1e-4."""
STELLA_LAST_LAYERS = 3
"""Encoder layers that the paper's second stage trains."""


@dataclass(frozen=True)
class Stage:
    """One stage, complete."""

    name: str
    steps: int
    first_step: int
    learning_rate: float
    rules: list[ParameterRule]
    small_widths: bool


def plan_stages(
    config: EmbeddingConfig, student: EmbeddingModel, method: SentenceMethod, total_steps: int
) -> list[Stage]:
    """Resolve the stages of a training; there is always at least one.

    Raises:
        UserError: more stages than steps.
    """
    train = config.train
    settings = default_stages(student, method, train.learning_rate) if train.stages == "auto" else train.stages
    settings = settings or [EmbeddingStage(name="all", share=1.0)]
    if total_steps < len(settings):
        raise UserError(
            f"train.max_steps: expected at least a step for each of {len(settings)} stages, got {total_steps}; raise it"
        )
    ends, done = [], 0.0
    for number, stage in enumerate(settings, start=1):
        done += stage.share
        left = len(settings) - number
        ends.append(min(max(round(done * total_steps), (ends[-1] if ends else 0) + 1), total_steps - left))
    return [
        Stage(
            stage.name,
            end - start,
            start,
            stage.learning_rate or train.learning_rate,
            _with_projections(
                train.parameter_lr_multipliers
                if stage.parameter_lr_multipliers is None
                else stage.parameter_lr_multipliers,
                method,
            ),
            stage.small_widths,
        )
        for stage, start, end in zip(settings, [0, *ends], ends, strict=False)
    ]


def _with_projections(rules: list[ParameterRule], method: SentenceMethod) -> list[ParameterRule]:
    """Add the learning rate of the method's projections, where no rule speaks of them all."""
    names = [f"method.{name}" for name, _ in method.named_parameters()]
    if all(any(re.search(rule.pattern, name) for rule in rules) for name in names):
        return rules
    return [*rules, ParameterRule(pattern="^method\\.", lr_multiplier=method.settings.projection_lr_multiplier)]


def default_stages(student: EmbeddingModel, method: SentenceMethod, learning_rate: float) -> list[EmbeddingStage]:
    """Return a method's own stages: those of Stella's paper or of the seed, else none.

    Args:
        learning_rate: of the first stage.
    """
    settings = method.settings
    if settings.name != "stella" or settings.form == "recommended":
        return []
    layers = find_layers(student.backbone)
    names = {id(module): name for name, module in student.named_modules()}
    frozen = [f"student.{names[id(layer)]}." for layer in layers[:-STELLA_LAST_LAYERS]]
    frozen.append(f"student.{_embedding_prefix(student)}")
    pattern = "^(" + "|".join(map(re.escape, frozen)) + ")"
    shares, rates = STELLA_SHARES, [learning_rate * rate for rate in STELLA_RATES]
    if settings.form == "seed":  # its second stage trains everything
        return [
            _stage("head", 0.4, ["^student\\."], small_widths=False),
            _stage("all", 0.6, []),
        ]
    return [
        _stage("head", shares[0], ["^student\\."], rates[0], small_widths=False),
        _stage("last-layers", shares[1], [pattern], rates[1], small_widths=False),
        _stage("all", shares[2], [], rates[2]),
    ]


def _stage(
    name: str, share: float, frozen: list[str], learning_rate: float | None = None, small_widths: bool = True
) -> EmbeddingStage:
    rules = [ParameterRule(pattern=pattern, lr_multiplier=0.0) for pattern in frozen]
    return EmbeddingStage(
        name=name,
        share=share,
        learning_rate=learning_rate,
        parameter_lr_multipliers=rules,
        small_widths=small_widths,
    )


def _embedding_prefix(student: EmbeddingModel) -> str:
    """Return the module name that word, position and type embeddings share, such as `backbone.embeddings.`."""
    table = student.backbone.get_input_embeddings()
    name = next(name for name, module in student.named_modules() if module is table)
    return name.rpartition(".")[0] + "." if "embeddings" in name else name
