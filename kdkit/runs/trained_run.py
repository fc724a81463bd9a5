"""Opening of a run that has a student: what notebooks 04 and 05 judge."""

import difflib
from pathlib import Path

import yaml

from kdkit.config.language import ALIASES, Config, config_from_values, dump_config
from kdkit.config.reading import apply_overrides
from kdkit.errors import UserError
from kdkit.runs.carried import carry_over
from kdkit.runs.disk import write_text, writing
from kdkit.runs.folder import Run, check_run_name
from kdkit.runs.open_run import is_of_judging, split_overrides
from kdkit.runs.paths import find_root, resolve_output

TRAINED = "training.json"
"""Written by 03 whenever a training of the run has ended."""


def open_trained_run(
    run_name: str = "", overrides: list[str] | str = "", runs_dir: str | Path = "runs"
) -> tuple[Config, Run]:
    """Open a run as it was trained.

    Args:
        run_name: name of the run; empty: the one that was trained last.
        overrides: settings of `evaluate`, `report` and `maths.judging` to change; the run keeps them.
        runs_dir: folder of runs, relative to the project.

    Raises:
        UserError: no such run, one without a student, or a setting that was decided by its training.
    """
    root = find_root()
    folder = resolve_output(runs_dir, root)
    if run_name:
        check_run_name(run_name)
    carry_over(folder, run_name)
    path = folder / run_name if run_name else _trained_last(folder)
    if not _is_trained(path):
        raise UserError(without_student(path))
    values = yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8"))
    if "method" in values:
        raise UserError(
            f"run {path.name!r}: expected a language model, got an embedding model; notebook 06 has judged it already: "
            f"open {path.name}/report.html"
        )
    items = split_overrides(overrides)
    for item in items:
        if not is_of_judging(item):
            raise UserError(
                f"OVERRIDES: expected settings of evaluate, report or maths.judging, got {item!r}; a run is judged as "
                f"it was trained, so train another one: python -m kdkit run {path / 'config.yaml'} -p {item} "
                "--name another"
            )
    config = config_from_values(apply_overrides(Config, values, items, ALIASES))
    run = Run(path, resolve_output(config.cache_dir, root))
    if items:
        with writing(path, "--runs-dir"):
            write_text(path / "config.yaml", dump_config(config))
    return config, run


def _trained_last(folder: Path) -> Path:
    """Return the run of a language model that was trained last; a folder that is none where there is no such run."""
    found = [
        path
        for path in (folder.iterdir() if folder.is_dir() else ())
        if _is_trained(path) and "method" not in yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8"))
    ]
    return max(found, key=lambda path: (path / TRAINED).stat().st_mtime, default=folder / "")


def _is_trained(path: Path) -> bool:
    needed = (path / "config.yaml", path / TRAINED, path / "student" / "config.json")
    return all(file.is_file() for file in needed)


def without_student(path: Path) -> str:
    """Say what is missing where a run has no student, and what makes it."""
    if (path / "config.yaml").is_file():
        return f"run {path.name!r}: expected a trained student, got none; train it: {Run(path, path).command}"
    runs = [run.name for run in sorted(path.parent.iterdir()) if _is_trained(run)] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, runs, n=1)
    if near or runs:
        names = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(runs)}"
        return f"RUN: expected a run in {path.parent}, got {path.name!r}; {names}"
    return f"RUN: expected a run with a student in {path.parent}, got none; make one: python -m kdkit run quick"
