"""Paths: the project's folder, files named by a relative path, bundled configurations, and the folder for output.

A command runs in the caller's folder, a notebook opened by hand in `notebooks/`, Kaggle's in
/kaggle/working with the project mounted read-only elsewhere; the same relative path works in all three.
"""

import difflib
import errno
import os
import sysconfig
from pathlib import Path

from kdkit.config.values import expand_home
from kdkit.errors import UserError

MOST_SHOWN = 100
"""Characters of a path that is too long, in a message."""


def find_root(start: Path | None = None) -> Path:
    """Find the notebooks and configurations: in a folder above `start`, in the package's clone, or where pip put them.

    Raises:
        UserError: neither the current folder nor the package's own lies in a project.
    """
    here = (start or Path.cwd()).resolve()
    for folder in [here, *here.parents, Path(__file__).resolve().parents[2], *_installed()]:
        if (folder / "notebooks" / "01_data.ipynb").is_file() and (folder / "configs").is_dir():
            return folder
    raise UserError(
        f"project: expected a folder with notebooks/ and configs/ above {here}, got none; "
        "run kdkit from a clone of its repository, or install it: pip install FOLDER"
    )


def _installed() -> list[Path]:
    """Return where pip may have put the notebooks and configurations: of this environment, or of the user."""
    places = sysconfig.get_path("data"), sysconfig.get_path("data", sysconfig.get_preferred_scheme("user"))
    return [Path(place).resolve() / "share" / "kdkit" for place in places]


def resolve_output(folder: str | Path, root: Path) -> Path:
    """Place a relative output folder: in the project around the current folder, else in the current folder itself.

    So runs lie beside the notebooks and configurations of a clone in which one works, and nothing is written to a clone
    or an installation elsewhere, nor to a project that is read-only (Kaggle).

    Args:
        root: the project, from `find_root`.

    Raises:
        UserError: the current folder is one of the installation's own; no folder can have such a name.
    """
    folder, here = _as_path(folder), Path.cwd().resolve()
    if folder.is_absolute():
        return folder
    if installed := next((place for place in _installed() if here.is_relative_to(place)), None):
        raise UserError(
            f"runs: expected a folder of your own to write {folder} to, got one of the installed package; copy the "
            f"notebooks: cp -r {installed / 'notebooks'} ~/kdkit-notebooks"
        )
    return (root if here.is_relative_to(root.resolve()) and os.access(root, os.W_OK) else here) / folder


def resolve_input(path: str | Path) -> Path:
    """Find what a relative path names: in the current folder, else in the project.

    Returns:
        An existing path where there is one, else the path as given, with `~` resolved.

    Raises:
        UserError: no file can have such a name.
    """
    given = _as_path(path)
    if given.is_absolute() or given.exists():
        return given
    try:
        in_project = find_root() / given
    except UserError:
        return given
    return in_project if in_project.exists() else given


def _as_path(name: str | Path) -> Path:
    """Resolve `~`, and refuse what no file can be called: what is too long, or holds a zero byte."""
    path = expand_home(name)
    try:
        path.stat()
    except (OSError, ValueError) as error:
        if isinstance(error, ValueError) or error.errno == errno.ENAMETOOLONG:
            shown = str(name) if len(str(name)) < MOST_SHOWN else f"{str(name)[:MOST_SHOWN]}..."
            reason = error.strerror if isinstance(error, OSError) else error
            raise UserError(
                f"path: expected the name of a file or folder, got {shown!r} ({reason}); name another"
            ) from None
    return path


def find_config(name: str | Path) -> Path:
    """Find a YAML file by its path, or a bundled configuration by its name: `smoke` for configs/smoke.yaml.

    Raises:
        UserError: there is none; the nearest bundled name is the first suggestion.
    """
    given = resolve_input(name)
    if given.is_file():
        return given
    bundled = {path.stem: path for path in sorted((find_root() / "configs").glob("*.yaml"))}
    stem = given.name.removesuffix(".yaml")
    if given.name == str(given) and stem in bundled:
        return bundled[stem]
    near = difflib.get_close_matches(stem, bundled, n=1)
    hint = f"did you mean {near[0]}? Bundled: " if near else "bundled: "
    raise UserError(
        f"config: expected a YAML file, got {str(name)!r}, which does not exist; {hint}{', '.join(bundled)}"
    )


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
