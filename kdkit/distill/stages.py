"""The stages of a training, one after the other; without `train.stages` there is one.

Each stage has its own length, loss, learning rates and frozen parameters, so its own optimizer and
scheduler; the model walks through them all. The order of the training sequences is decided here too.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from kdkit.config.language import Config
from kdkit.config.losses import Auto, LossSettings
from kdkit.config.training import OnPolicy, ParameterRule
from kdkit.data.prepare import PreparedData
from kdkit.distill.choose_loss import check_cached_loss, check_temperature_is_taken, check_tokenizers, choose_loss
from kdkit.errors import UserError


@dataclass(frozen=True)
class Stage:
    """One stage, complete."""

    name: str
    steps: int
    loss: LossSettings
    kd_ratio: float
    temperature: float
    learning_rate: float
    rules: list[ParameterRule]
    on_policy: OnPolicy | None
    first_step: int
    """Optimizer steps of the stages before it."""


def plan_stages(config: Config, data: PreparedData) -> list[Stage]:
    """Resolve the stages of a configuration.

    Raises:
        UserError: a loss that does not fit the tokenizers, the cache or the temperature; an on-policy stage
            without a teacher in memory; two stages of one name.
    """
    train, distill = config.train, config.distill
    loss, _ = choose_loss(config, data)
    whole = Stage(
        "",
        train.max_steps or steps_of_epochs(config, data, train.num_train_epochs),
        loss,
        distill.kd_ratio,
        distill.temperature,
        train.learning_rate,
        train.parameter_lr_multipliers,
        None,
        0,
    )
    stages: list[Stage] = []
    for settings in train.stages:
        loss_here = loss if settings.loss is None or isinstance(settings.loss, Auto) else settings.loss
        rules = settings.parameter_lr_multipliers
        stages.append(
            Stage(
                settings.name,
                settings.max_steps or steps_of_epochs(config, data, settings.num_train_epochs),
                loss_here,
                whole.kd_ratio if settings.kd_ratio is None else settings.kd_ratio,
                settings.temperature or whole.temperature,
                settings.learning_rate or whole.learning_rate,
                whole.rules if rules is None else rules,
                settings.on_policy,
                sum(stage.steps for stage in stages),
            )
        )
    for stage in stages or [whole]:
        _check(stage, config, data)
    return stages or [whole]


def _check(stage: Stage, config: Config, data: PreparedData) -> None:
    """Find what cannot work before anything is trained."""
    if stage.kd_ratio == 0.0 and stage.on_policy is None:  # the teacher judges own text whatever the ratio
        return
    check_tokenizers(stage.loss, data)
    check_temperature_is_taken(stage.loss, stage.temperature)
    if config.cache.enabled:
        check_cached_loss(stage.loss, config.cache)
    if config.cache.enabled and stage.on_policy is not None:
        raise UserError(
            f"train.stages: expected a teacher in memory for the on-policy stage {stage.name!r}, got a cache, which "
            "cannot judge new text; set cache.enabled=false"
        )


def stretch(stages: list[Stage], total_steps: int) -> list[Stage]:
    """Give the stages other lengths that come to a total, in the old proportions."""
    before = sum(stage.steps for stage in stages)
    ends = [round((stage.first_step + stage.steps) * total_steps / before) for stage in stages]
    starts = [0, *ends[:-1]]
    stretched = [replace(s, first_step=a, steps=b - a) for s, a, b in zip(stages, starts, ends, strict=True)]
    return [stage for stage in stretched if stage.steps]


def steps_of_epochs(config: Config, data: PreparedData, epochs: float) -> int:
    """Return the optimizer steps of some passes over the training sequences."""
    return max(1, math.ceil(epochs * len(data.train) / sequences_per_step(config)))


def sequences_per_step(config: Config) -> int:
    """Return the training sequences of one optimizer step."""
    return config.train.per_device_train_batch_size * config.train.gradient_accumulation_steps


def curriculum_order(difficulty: np.ndarray, num_draws: int, seed: int) -> list[int]:
    """Return row numbers for a training, easy to hard within every pass over the sequences.

    A pass that is cut short keeps its range from easy to hard: it draws fewer sequences, not the easy ones.

    Args:
        difficulty: float, one per training sequence; larger is harder.
        num_draws: sequences that the training reads.
        seed: of the draw of a pass that is cut short.

    Source: Bengio et al. 2009, curriculum learning.
    """
    generator = np.random.default_rng(seed)
    order: list[int] = []
    while len(order) < num_draws:
        drawn = generator.permutation(len(difficulty))[: num_draws - len(order)]
        order += drawn[np.argsort(difficulty[drawn], kind="stable")].tolist()
    return order
