"""Opening of a session: a run on this machine, what a notebook starts with."""

from pathlib import Path

from kdkit.config.embeddings import EmbeddingConfig
from kdkit.config.language import Config
from kdkit.machine.hardware import find_hardware
from kdkit.machine.session import Session
from kdkit.runs.open_run import open_embedding_run, open_run


def open_session(
    config_path: str | Path, overrides: list[str] | str = "", run_name: str = "", runs_dir: str | Path = "runs"
) -> Session[Config]:
    """Open a run for language models, see `open_run`, and find the hardware for it.

    Raises:
        UserError: see `open_run` and `find_hardware`.
    """
    config, run = open_run(config_path, overrides, run_name, runs_dir)
    return Session(config, run, find_hardware(config.train.device, config.train.precision))


def open_embedding_session(
    config_path: str | Path, overrides: list[str] | str = "", run_name: str = "", runs_dir: str | Path = "runs"
) -> Session[EmbeddingConfig]:
    """Do what `open_session` does for a configuration for embeddings: one with `method:`."""
    config, run = open_embedding_run(config_path, overrides, run_name, runs_dir)
    return Session(config, run, find_hardware(config.train.device, config.train.precision))
