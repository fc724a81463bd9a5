"""Session: the configuration, run folder and hardware that all stages of a run share."""

from dataclasses import dataclass
from typing import Generic, TypeVar

from kdkit.machine.hardware import Hardware
from kdkit.runs.folder import Run

Settings = TypeVar("Settings")


@dataclass(frozen=True)
class Session(Generic[Settings]):
    """Configuration, run folder and hardware of a run, passed to every stage; made once, by `open_session`."""

    config: Settings
    """A `Config` for language models, or an `EmbeddingConfig`."""
    run: Run
    """Where the stages write."""
    hardware: Hardware
    """Where they compute, found on this machine."""
