"""Stages of an embedding distillation: what is trained, for which share of the steps, how fast."""

import re
from dataclasses import dataclass

from kdkit.config.embeddings import EmbeddingConfig, EmbeddingStage
from kdkit.config.training import ParameterRule
from kdkit.embeddings.methods.base import SentenceMethod
from kdkit.embeddings.models.embedder import EmbeddingModel
from kdkit.errors import UserError


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
    settings = method.default_stages(student, train.learning_rate) if train.stages == "auto" else train.stages
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
