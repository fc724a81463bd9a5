"""The sets of problems that models are judged on: what the data hold out, or a file."""

from collections.abc import Sequence
from pathlib import Path

from kdkit.config.maths.judging import JudgingConfig
from kdkit.data.problems import HELD_OUT, HELD_OUT_TEMPLATES, open_problems
from kdkit.errors import UserError
from kdkit.maths.files import read_problems
from kdkit.maths.problem import Problem
from kdkit.runs.paths import resolve_input


def find_sets(folder: Path, settings: JudgingConfig) -> dict[str, list[Problem]]:
    """Return the problems to judge by: the file that the settings name, else the held-out sets of prepared data.

    Args:
        folder: of the prepared data.

    Raises:
        UserError: see `read_problems`.
    """
    if settings.path is not None:
        file = find_problem_file(settings.path)
        sets = {file.stem: read_problems(file)}
    else:
        sets = {name: open_problems(folder, name) for name in (HELD_OUT, HELD_OUT_TEMPLATES)}
    return {name: spread(problems, settings.max_problems) for name, problems in sets.items() if problems}


def find_problem_file(path: str) -> Path:
    """Return the file that `maths.judging.path` names.

    Raises:
        UserError: there is none.
    """
    file = resolve_input(path)
    if not file.is_file():
        raise UserError(
            f"maths.judging.path: expected a .json or .jsonl file of problems, got {path!r}, "
            f"{'a folder' if file.is_dir() else 'nothing there'}; name a file, or leave it out"
        )
    return file


def spread(problems: Sequence[Problem], count: int) -> list[Problem]:
    """Return so many problems at most, from all over the list."""
    if len(problems) <= count:
        return list(problems)
    return [problems[number * len(problems) // count] for number in range(count)]
