"""Opening of a session: a run on this machine, what a notebook starts with."""

from pathlib import Path

from kdkit.config.embeddings import EmbeddingConfig
from kdkit.config.language import Config
from kdkit.machine.hardware import find_hardware
from kdkit.machine.session import Session
from kdkit.runs.open_run import open_embedding_run, open_run, split_overrides
from kdkit.runs.parameters import as_overrides
from kdkit.runs.trained_run import open_trained_run


def open_session(
    config_path: str | Path,
    overrides: list[str] | str = "",
    run_name: str = "",
    runs_dir: str | Path = "runs",
    settings: dict[str, object] | None = None,
) -> Session[Config]:
    """Open a run for language models, see `open_run`, and find the hardware for it.

    Args:
        settings: more of `overrides`, `{"distill.temperature": 2}`; None as a value leaves what the file says.

    Raises:
        UserError: see `open_run` and `find_hardware`.
    """
    config, run = open_run(config_path, _join(overrides, settings), run_name, runs_dir)
    return Session(config, run, find_hardware(config.train.device, config.train.precision))


def open_embedding_session(
    config_path: str | Path,
    overrides: list[str] | str = "",
    run_name: str = "",
    runs_dir: str | Path = "runs",
    settings: dict[str, object] | None = None,
) -> Session[EmbeddingConfig]:
    """Do what `open_session` does for a configuration for embeddings: one with `method:`."""
    config, run = open_embedding_run(config_path, _join(overrides, settings), run_name, runs_dir)
    return Session(config, run, find_hardware(config.train.device, config.train.precision))


def open_trained_session(
    run_name: str = "", overrides: list[str] | str = "", runs_dir: str | Path = "runs"
) -> Session[Config]:
    """Open a run that has a student, by default the one that was trained last: see `open_trained_run`."""
    config, run = open_trained_run(run_name, overrides, runs_dir)
    return Session(config, run, find_hardware(config.train.device, config.train.precision))


def _join(overrides: list[str] | str, settings: dict[str, object] | None) -> list[str]:
    return [*split_overrides(overrides), *as_overrides(settings or {})]
