"""A run that goes on in a later session of Kaggle, whose disk is empty but for read-only inputs.

What an earlier session left at /kaggle/working/P lies at INPUT/P now. Where INPUT is, Kaggle decides:
/kaggle/input/SLUG, or /kaggle/input/datasets/OWNER/SLUG; so it is looked for. A run is copied, not read in place: it is
written to, and what one session leaves must be the whole run again for the next.
"""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import yaml

from kdkit.errors import UserError
from kdkit.runs.disk import write_text, writing
from kdkit.runs.messages import note

KAGGLE = Path("/kaggle")
"""The folder that holds `input` and `working` in a session of Kaggle."""
MARKER = "config.yaml"
"""Every run has it from its first moment on."""
CARRIED = "carried.json"
"""How many sessions a run has behind it, written when it is carried over."""
DEPTH = 4
"""Folders between /kaggle/input and an earlier session's output, at most: datasets/OWNER/SLUG, and one to spare."""


def carry_over(folder: Path, name: str = "", kaggle: Path = KAGGLE) -> list[Path]:
    """Bring runs of an earlier session, and their caches, to where this session writes.

    Of several copies of a run the one with the most sessions behind it is taken. Nothing is done for a run that is here
    already, for a folder that is not in Kaggle's working folder, or where no input holds such a run.

    Args:
        folder: of runs, in this session: `/kaggle/working/runs`.
        name: of the run; empty: every run that the inputs hold.
        kaggle: the folder that holds `input` and `working`.

    Returns:
        The runs that were brought.

    Raises:
        UserError: two inputs hold the run after as many sessions, or the disk is too small.
    """
    working = kaggle / "working"
    if not folder.is_relative_to(working) or not (kaggle / "input").is_dir():
        return []
    found: dict[str, list[tuple[Path, Path]]] = {}
    for output in _folders(kaggle / "input", DEPTH):
        for marker in sorted((output / folder.relative_to(working)).glob(f"{name or '*'}/{MARKER}")):
            found.setdefault(marker.parent.name, []).append((output, marker.parent))
    brought = []
    for run, copies in found.items():
        target = folder / run
        if not (target / MARKER).is_file():
            output, source = _furthest(copies)
            _bring(output, source, target, working)
            brought.append(target)
    return brought


def _folders(folder: Path, depth: int) -> Iterator[Path]:
    """Yield a folder and those below it; data sets of a million files are not listed below the depth."""
    yield folder
    if depth:
        with os.scandir(folder) as entries:
            inside = sorted(entry.path for entry in entries if entry.is_dir())
        for path in inside:
            yield from _folders(Path(path), depth - 1)


def _furthest(copies: list[tuple[Path, Path]]) -> tuple[Path, Path]:
    """Return the copy with the most sessions behind it; the times of files say nothing, a mount has its own."""
    different = list({run.resolve(): (output, run) for output, run in copies}.values())
    different.sort(key=lambda copy: _sessions(copy[1]), reverse=True)
    if len(different) > 1 and _sessions(different[0][1]) == _sessions(different[1][1]):
        places = " and ".join(str(run) for _, run in different[:2])
        raise UserError(
            f"run {different[0][1].name!r}: expected one input that holds it, got two after as many sessions: "
            f"{places}; detach one of them"
        )
    return different[0]


def _sessions(run: Path) -> int:
    """Return how many sessions a run had behind it when its last one began."""
    file = run / CARRIED
    return int(json.loads(file.read_text(encoding="utf-8"))["sessions"]) if file.is_file() else 0


def _bring(output: Path, source: Path, target: Path, working: Path) -> None:
    """Copy a run whole or not at all, its caches first: a run that is here is not looked for again."""
    config = yaml.safe_load((source / MARKER).read_text(encoding="utf-8"))
    cache = Path(config.get("cache_dir", ".cache"))
    entries = [] if cache.is_absolute() else sorted((output / cache).glob("[!.]*/[!.]*"))
    pairs = [(entry, working / entry.relative_to(output)) for entry in entries] + [(source, target)]
    pairs = [(old, new) for old, new in pairs if not new.exists()]
    needed = sum(file.stat().st_size for old, _ in pairs for file in (old, *old.rglob("*")) if file.is_file())
    if needed > (free := shutil.disk_usage(working).free):
        raise UserError(
            f"run {source.name!r}: expected {needed / 1e9:.1f} GB in {working} for what {output} holds of it, got "
            f"{free / 1e9:.1f} GB; remove files there, or checkpoints in the session before"
        )
    with writing(working, "--runs-dir"):
        for old, new in pairs:
            _copy(old, new)
        write_text(target / CARRIED, json.dumps({"sessions": _sessions(source) + 1, "from": str(source)}) + "\n")
    note(f"run {source.name}: goes on from {source}")


def _copy(source: Path, target: Path) -> None:
    """Copy a file or a folder under another name first; what is copied can be written, what it came from cannot."""
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    try:
        if source.is_dir():
            shutil.copytree(source, partial)
        else:
            shutil.copy2(source, partial)
        for path in (partial, *partial.rglob("*")):
            path.chmod(path.stat().st_mode | (0o700 if path.is_dir() else 0o600))
        partial.rename(target)
    finally:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        partial.unlink(missing_ok=True)
