"""What to change where a run does not fit: each change is planned again, to show what it brings and costs."""

from dataclasses import dataclass

from kdkit.config.embeddings import EmbeddingConfig, embedding_config_from_values
from kdkit.config.language import Config, config_from_values
from kdkit.planning.cost import Time, plan_time
from kdkit.planning.devices import Device
from kdkit.planning.embedding import plan_embedding_memory
from kdkit.planning.items import Phase
from kdkit.planning.memory import plan_memory

MOST = 3
"""Changes that are shown."""
SHORTEST = 32
"""Tokens below which a sequence is not halved."""


@dataclass(frozen=True)
class Change:
    """A change of settings, planned."""

    name: str
    settings: dict[str, object]
    """Dotted keys and their values."""
    largest: float
    """Bytes of the fullest device in the fullest phase."""
    fits: bool
    time: Time

    @property
    def command(self) -> str:
        """The change as it is written behind a command."""
        return " ".join(f"-p {key}={str(value).lower()}" for key, value in self.settings.items())


def phases_of(config: Config | EmbeddingConfig, device: Device) -> list[Phase]:
    """Plan the memory of either kind of run."""
    return plan_embedding_memory(config, device) if isinstance(config, EmbeddingConfig) else plan_memory(config, device)


def find_changes(config: Config | EmbeddingConfig, device: Device) -> list[Change]:
    """Return the cheapest changes: those that suffice first, by their time; last all of them together."""
    possible = _embedding_changes(config) if isinstance(config, EmbeddingConfig) else _language_changes(config)
    planned = [_plan_change(name, settings, config, device) for name, settings in possible]
    best = sorted(planned, key=lambda change: (not change.fits, change.time.total if change.fits else change.largest))
    chosen = best[:MOST]
    if len(chosen) > 1 and not chosen[0].fits:
        together = {key: value for change in chosen for key, value in change.settings.items()}
        chosen.append(_plan_change("all of them", together, config, device))
    return chosen


def _plan_change(name: str, settings: dict[str, object], config: Config | EmbeddingConfig, device: Device) -> Change:
    changed = changed_config(config, settings)
    largest = max(phase.largest for phase in phases_of(changed, device))
    return Change(name, settings, largest, largest <= device.memory_bytes, plan_time(changed, device))


def changed_config(config: Config | EmbeddingConfig, settings: dict[str, object]) -> Config | EmbeddingConfig:
    """Return a configuration with other values at dotted keys, checked."""
    values = config.model_dump()
    for key, value in settings.items():
        place = values
        *sections, last = key.split(".")
        for section in sections:
            place = place[section]
        place[last] = value
    is_embedding = isinstance(config, EmbeddingConfig)
    return embedding_config_from_values(values) if is_embedding else config_from_values(values)


def _language_changes(config: Config) -> list[tuple[str, dict[str, object]]]:
    """List what can be changed of a language model's run."""
    train, changes = config.train, []
    is_fixed = config.router.kind == "none" and config.teacher.average_decay is None
    own_text = any(stage.on_policy for stage in train.stages)
    if not config.cache.enabled and is_fixed and not own_text:
        parts = [name for name, weight in config.distill.weights if weight > 0.0 and name != "logits"]
        settings: dict[str, object] = {"cache.enabled": True}
        settings |= {f"distill.weights.{name}": 0.0 for name in parts}
        lost = f", without the parts of the loss that it cannot serve ({', '.join(parts)})" if parts else ""
        changes.append((f"cached teacher{lost}", settings))
    if train.micro_batch_tokens is not None and train.micro_batch_tokens > config.data.max_length:
        fewer = max(train.micro_batch_tokens // 2, config.data.max_length)
        changes.append(("half the tokens in a micro-batch", {"train.micro_batch_tokens": fewer}))
    if train.micro_batch_tokens is None and train.per_device_train_batch_size > 1 and not train.batch_schedule:
        changes.append(("half the micro-batch, twice the accumulation", _smaller(config)))
    if not train.gradient_checkpointing:
        changes.append(("gradient checkpointing", {"train.gradient_checkpointing": True}))
    if train.optimizer == "adamw":
        changes.append(("8-bit optimizer", {"train.optimizer": "adamw_8bit"}))
    if config.data.max_length >= 2 * SHORTEST and not train.length_schedule:
        settings = {"data.max_length": config.data.max_length // 2}
        if config.teacher.max_length:
            settings["teacher.max_length"] = config.teacher.max_length // 2
        changes.append(("half the length", settings))
    return changes


def _embedding_changes(config: EmbeddingConfig) -> list[tuple[str, dict[str, object]]]:
    """List what can be changed of an embedding model's run."""
    changes: list[tuple[str, dict[str, object]]] = []
    if not config.teacher.cache:
        changes.append(("cached teacher", {"teacher.cache": True}))
    if config.train.per_device_train_batch_size > 2:
        changes.append(("half the micro-batch, twice the accumulation (pairs are made in it)", _smaller(config)))
    if config.data.max_length >= 2 * SHORTEST:
        changes.append(("half the length", {"data.max_length": config.data.max_length // 2}))
    return changes


def _smaller(config: Config | EmbeddingConfig) -> dict[str, object]:
    train = config.train
    return {
        "train.per_device_train_batch_size": train.per_device_train_batch_size // 2,
        "train.gradient_accumulation_steps": train.gradient_accumulation_steps * 2,
    }
