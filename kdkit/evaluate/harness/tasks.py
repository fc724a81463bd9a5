"""Tasks of the harness: by the name that they have there, or from files of one's own."""

import contextlib
import difflib
import importlib.util
import io
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kdkit.data.text.files import is_leftover
from kdkit.errors import UserError
from kdkit.machine.hub import hub_is_reachable

KEY = "--tasks"
"""The option that names them, for messages."""
PARTS = "tasks", "groups", "group_map"
"""Of what the harness calls loaded tasks."""
REASON_LENGTH = 240
"""Characters of another program's reason at most."""


def check_harness() -> None:
    """Check that the harness is there, and let it say only what is wrong.

    Raises:
        UserError: it is not installed.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError("lm-eval: expected the package lm_eval, got none installed; pip install 'kdkit[lm-eval]'")
    logging.getLogger("lm_eval").setLevel(logging.ERROR)


def open_tasks(names: Sequence[str]) -> dict[str, Any]:
    """Load tasks with their data.

    Args:
        names: of tasks, groups or tags of the harness; .yaml files of tasks; folders of such files. Data files that a
            .yaml file names are looked for beside it, and then where the harness looks: in the present folder. Code
            that a file names (`!function`) is run.

    Returns:
        What its `TaskManager.load` returns: `tasks` and `groups` by name, `group_map`.

    Raises:
        UserError: no harness; no name, one that nobody knows, a file without a task, or data that cannot be read.
    """
    if not names:
        raise UserError(f"{KEY}: expected names, .yaml files or folders of tasks, got none; name some: hellaswag,piqa")
    files = [file for name in names if _is_path(name) for file in _files_of(name)]
    named = [name for name in names if not _is_path(name)]
    check_harness()
    from lm_eval.tasks import TaskManager

    # reading the harness's own 14,000 files takes a quarter of a minute
    manager = TaskManager(include_defaults=bool(named))
    _check_names(named, manager)
    with _without_retries(), bars_if_watched():
        loaded = [*(_load_file(manager, file) for file in files), *(_load_name(manager, name) for name in named)]
    return {part: {key: each for one in loaded for key, each in one[part].items()} for part in PARTS}


def _is_path(name: str) -> bool:
    """Return whether a name is that of a file or folder."""
    return name.endswith((".yaml", ".yml")) or "/" in name or Path(name).is_dir()


def _files_of(name: str) -> list[Path]:
    """Return the task files of a file or folder: those that hold a task, not those that tasks include."""
    path = Path(name).expanduser()
    files = [path]
    if path.is_dir():
        found = sorted([*path.glob("**/*.yaml"), *path.glob("**/*.yml")])
        files = [file for file in found if not is_leftover(file, path)]
    if not path.exists() or not files:
        got = "which does not exist" if not path.exists() else "a folder without any"
        raise UserError(
            f"{KEY}: expected a .yaml file of a task or a folder of them, got {name!r}, {got}; name another"
        )
    kept = [file for file in files if not path.is_dir() or _names_task(file)]
    if not kept:
        raise UserError(f"{KEY}: expected files with `task:` in {name!r}, got none; see docs/evaluation.md")
    return kept


def _names_task(file: Path) -> bool:
    """Return whether a file holds a task of its own."""
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    return any(line.startswith(("task:", "group:", "class:")) for line in lines)


def _check_names(names: Sequence[str], manager: Any) -> None:
    """Refuse a name that the harness does not know."""
    for name in names:
        if name not in manager.all_tasks:
            alike = difflib.get_close_matches(name, manager.all_tasks, n=3, cutoff=0.6)
            hint = f"did you mean {', '.join(alike)}?" if alike else "a file of your own: name its .yaml"
            raise UserError(f"{KEY}: expected a task of lm_eval, or a .yaml file of one, got {name!r}; {hint}")


@contextlib.contextmanager
def bars_if_watched() -> Iterator[None]:
    """Keep stderr, where the harness and its libraries draw bars, to a terminal: elsewhere each would be many lines."""
    with contextlib.nullcontext() if sys.stderr.isatty() else contextlib.redirect_stderr(io.StringIO()):
        yield


@contextlib.contextmanager
def _without_retries() -> Iterator[None]:
    """Keep the hub's client from asking six times where there is no network: what is cached is found without."""
    import datasets
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = not hub_is_reachable()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


def _load_file(manager: Any, file: Path) -> dict[str, Any]:
    """Load the task of a file; see `open_tasks` for where its data are looked for."""
    with contextlib.chdir(file.absolute().parent):
        try:
            return _load(manager, file.name, str(file))
        except FileNotFoundError:
            pass
    try:
        return _load(manager, str(file), str(file))
    except FileNotFoundError as error:
        raise _unreadable(str(file), error, "put them beside the file, or write their whole path") from None


def _load_name(manager: Any, name: str) -> dict[str, Any]:
    """Load a task of the harness, whose data come from the hub or its cache."""
    try:
        return _load(manager, name, name)
    except FileNotFoundError as error:
        raise _unreadable(name, error, "check the network, or name a .yaml file with data of your own") from None


def _load(manager: Any, spec: str, name: str) -> dict[str, Any]:
    """Load a task, a group, or the tasks of a tag, with their data.

    Raises:
        UserError: it cannot be made.
        FileNotFoundError: its data are not there.
    """
    try:
        return manager.load([spec])
    except FileNotFoundError:
        raise
    except Exception as error:  # of any kind: a task is code and data of others
        if _is_about_network(error):
            raise FileNotFoundError(str(error)) from None
        remedy = "correct the file" if _is_path(name) else "name another task"
        raise UserError(
            f"{KEY}: expected a task that lm_eval can read, got {name!r}, {_reason(error)}; {remedy}"
        ) from None


def _is_about_network(error: Exception) -> bool:
    """Return whether a task failed since its data are on the hub, and the hub is not there."""
    is_connection = isinstance(error, ConnectionError | TimeoutError) or "onnection" in type(error).__name__
    return is_connection or (not hub_is_reachable() and "ffline" in f"{type(error).__name__}: {error}")


def _unreadable(name: str, error: Exception, remedy: str) -> UserError:
    return UserError(f"{KEY}: expected the data of {name!r} to be readable, got {_reason(error)}; {remedy}")


def _reason(error: Exception) -> str:
    """Write another program's reason on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:REASON_LENGTH]}"
