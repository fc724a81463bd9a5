"""Paths: the project's folder, files named by a relative path, and the folder for output.

A command runs in the caller's folder, a notebook opened by hand in `notebooks/`, Kaggle's in
/kaggle/working with the project mounted read-only elsewhere; the same relative path works in all three.
"""

import os
import sys
from pathlib import Path

from kdkit.errors import UserError


def find_root(start: Path | None = None) -> Path:
    """Find the project: the folder above `start` that holds `notebooks/` and `configs/`.

    Raises:
        UserError: neither the current folder nor the package's own lies in a project.
    """
    here = (start or Path.cwd()).resolve()
    installed = [Path(__file__).resolve().parents[2], Path(sys.prefix) / "share" / "kdkit"]
    for folder in [here, *here.parents, *installed]:
        if (folder / "notebooks" / "01_data.ipynb").is_file() and (folder / "configs").is_dir():
            return folder
    raise UserError(
        f"project: expected a folder with notebooks/ and configs/ above {here}, got none; "
        "run kdkit from a clone of its repository"
    )


def resolve_output(folder: str | Path, root: Path) -> Path:
    """Place a relative output folder in the project, or here where the project is read-only (Kaggle)."""
    folder = Path(folder).expanduser()
    if folder.is_absolute():
        return folder
    return (root if os.access(root, os.W_OK) else Path.cwd()) / folder


def resolve_input(path: str | Path) -> Path:
    """Find what a relative path names: in the current folder, else in the project.

    Returns:
        An existing path where there is one, else the path as given, with `~` resolved.
    """
    given = Path(path).expanduser()
    if given.is_absolute() or given.exists():
        return given
    try:
        in_project = find_root() / given
    except UserError:
        return given
    return in_project if in_project.exists() else given


def make_place_for(path: Path, key: str) -> None:
    """Make the folder of a file that will be written; found before the work, a mistake costs no hours.

    Args:
        key: the setting that names the file, for the message.

    Raises:
        UserError: a folder lies where the file would, or its folder cannot be made.
    """
    try:
        if path.is_dir():
            raise IsADirectoryError("it is a folder")
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{key}: expected a file to write, got {str(path)!r} ({error}); name another file") from None
