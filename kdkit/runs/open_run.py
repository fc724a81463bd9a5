"""Opening of a run: a checked configuration and its folder, what every notebook and command starts with."""

import shlex
from pathlib import Path

import yaml

from kdkit.config.embeddings import EmbeddingConfig, embedding_config_from_values, load_embedding_config
from kdkit.config.language import Config, config_from_values, describe_difference, dump_config, load_config
from kdkit.config.reading import read_values, unread_sizes
from kdkit.config.training import SESSION_SETTINGS
from kdkit.errors import UserError
from kdkit.runs.carried import carry_over
from kdkit.runs.disk import remove_leftovers, write_text, writing
from kdkit.runs.folder import Run, check_run_name, default_run_name, describe_environment
from kdkit.runs.messages import note
from kdkit.runs.paths import find_config, find_root, resolve_output

JUDGING = ("evaluate", "report", "maths.judging")
"""Sections of a language model's settings that say how it is judged, not how it is made: they may change while a run
lives. Embedding models are another matter: sentences that a task tests on leave their training text."""


def open_run(
    config_path: str | Path, overrides: list[str] | str = "", run_name: str = "", runs_dir: str | Path = "runs"
) -> tuple[Config, Run]:
    """Load a configuration for language models and open its run folder, making the folder if there is none.

    Args:
        config_path: a YAML file, relative to the current folder or to the project.
        overrides: `section.key=value` items, as a list or separated by spaces.
        run_name: name of the run; empty: made from the file's name and the overrides.
        runs_dir: folder of runs, relative to the project.

    Raises:
        UserError: a mistake in the configuration, or a run of that name with another one.
    """
    config, run = _plan_and_carry(config_path, overrides, run_name, runs_dir)
    if not isinstance(config, Config):
        raise UserError(
            f"CONFIG: expected a configuration for language models, got {str(config_path)!r}, which has `method:` and "
            "is for embeddings; open notebooks/06_embedding_distillation.ipynb"
        )
    _open(config, run)
    return config, run


def open_embedding_run(
    config_path: str | Path, overrides: list[str] | str = "", run_name: str = "", runs_dir: str | Path = "runs"
) -> tuple[EmbeddingConfig, Run]:
    """Do what `open_run` does for a configuration for embeddings: one with `method:`."""
    config, run = _plan_and_carry(config_path, overrides, run_name, runs_dir)
    if not isinstance(config, EmbeddingConfig):
        raise UserError(
            f"CONFIG: expected a configuration for embeddings, with `method:`, got {str(config_path)!r} without it; "
            "use configs/embedding_demo.yaml, or open notebooks/01_data.ipynb"
        )
    _open(config, run)
    return config, run


def _plan_and_carry(
    config_path: str | Path, overrides: list[str] | str, run_name: str, runs_dir: str | Path
) -> tuple[Config | EmbeddingConfig, Run]:
    """Plan a run; what an earlier session of Kaggle left of it is brought first, and checked like any run."""
    config, run = plan_run(config_path, overrides, run_name, runs_dir)
    if carry_over(run.path.parent, run.name):
        return plan_run(config_path, overrides, run_name, runs_dir)
    return config, run


def _open(config: Config | EmbeddingConfig, run: Run) -> None:
    """Make a run's folder; say once, when it is new, which settings nobody reads."""
    if not (run.path / "config.yaml").is_file():
        for sentence in unread_sizes(config):
            note(sentence)
    with writing(run.path, "--runs-dir"):
        run.path.mkdir(parents=True, exist_ok=True)
        remove_leftovers(run.path)
        write_text(run.path / "config.yaml", dump_config(config))
    if not (run.path / "env.json").is_file():
        run.write_json("env.json", describe_environment())


def open_side_run(name: str, runs_dir: str | Path, cache_dir: str | Path) -> Run:
    """Return a run folder for work that has no configuration of its own, such as repairing a cache; not yet made."""
    root = find_root()
    return Run(resolve_output(runs_dir, root) / check_run_name(name), resolve_output(cache_dir, root))


def plan_run(
    config_path: str | Path, overrides: list[str] | str = "", run_name: str = "", runs_dir: str | Path = "runs"
) -> tuple[Config | EmbeddingConfig, Run]:
    """Check all that opening a run checks, and write nothing; a file with `method:` is for embeddings."""
    root = find_root()
    items = split_overrides(overrides)
    path = find_config(config_path)
    is_embedding = is_for_embeddings(path)
    config = load_embedding_config(path, items) if is_embedding else load_config(path, items)
    # what only judges a student makes no other run, nor does the time that it has
    naming = [item for item in items if item.partition("=")[0] not in SESSION_SETTINGS]
    naming = naming if is_embedding else [item for item in naming if not is_of_judging(item)]
    name = check_run_name(run_name or default_run_name(config_path, naming))
    run = Run(resolve_output(runs_dir, root) / name, resolve_output(config.cache_dir, root))
    saved = run.path / "config.yaml"
    if saved.is_file():
        values = yaml.safe_load(saved.read_text(encoding="utf-8"))
        made_with = embedding_config_from_values(values) if "method" in values else config_from_values(values)
        if isinstance(config, Config) and isinstance(made_with, Config):
            maths = made_with.maths.model_copy(update={"judging": config.maths.judging})
            judging = {"evaluate": config.evaluate, "report": config.report, "maths": maths}
            made_with = made_with.model_copy(update=judging)
        if difference := describe_difference(made_with, config):
            raise UserError(
                f"run {name!r}: expected the configuration it was made with, got another ({difference}); "
                f"choose another --name, or delete {run.path}"
            )
    return config, run


def is_of_judging(item: str) -> bool:
    """Return whether an item `section.key=value` says how a model is judged alone; see `JUDGING`."""
    return any(item.startswith((f"{section}.", f"{section}=")) for section in JUDGING)


def split_overrides(overrides: list[str] | str) -> list[str]:
    """Return `section.key=value` items, from a list or as a shell would split them.

    Raises:
        UserError: an unclosed quote.
    """
    try:
        return shlex.split(overrides) if isinstance(overrides, str) else list(overrides)
    except ValueError as error:
        raise UserError(
            f"OVERRIDES: expected section.key=value items, got {overrides!r} ({error}); close the quote"
        ) from None


def is_for_embeddings(config_path: str | Path) -> bool:
    """Return whether a configuration file is for embedding models: it has `method:`."""
    return "method" in read_values(find_config(config_path))


def run_words(config: str, overrides: list[str], name: str = "", runs_dir: str = "runs") -> list[str]:
    """Write how a run is opened as words of a command line: the file, settings, and what is not the default."""
    words = [config, *(word for override in overrides for word in ("-p", override))]
    words += ["--name", name] if name else []
    return words + (["--runs-dir", runs_dir] if runs_dir != "runs" else [])
