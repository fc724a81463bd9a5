"""Run folder, through which the notebooks hand on their results.

    config.yaml (resolved)   env.json   status.json {stage: {state, seconds, message}, ...}
    metrics.jsonl (one JSON object per line)   data/ teacher/ student/ baseline/ figures/ notebooks/

Every file is written whole or not at all. What the files mean is left to the rooms above.
"""

import contextlib
import hashlib
import json
import os
import platform
import re
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from kdkit.errors import UserError
from kdkit.runs.disk import sync_folder, taking_turns, write_text, writing
from kdkit.runs.hashes import hash_file
from kdkit.runs.lines import append_line, parse_object, read_lines
from kdkit.runs.messages import note

RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=-]{0,99}")
PACKAGES = ("kdkit", "torch", "transformers", "tokenizers", "datasets", "accelerate", "numpy", "papermill")


@dataclass(frozen=True)
class Run:
    """The paths of one run, and how its files are read and written."""

    path: Path
    cache_path: Path
    writes: bool = True
    """False: as the others of several processes see it, whose first one writes: what they would write is left out."""

    @property
    def name(self) -> str:
        """Name of the run, which is its folder's."""
        return self.path.name

    @property
    def command(self) -> str:
        """The command that makes what this run lacks, from its own configuration."""
        words = ["run", str(self.path / "config.yaml"), "--name", self.name, "--runs-dir", str(self.path.parent)]
        return f"python -m kdkit {shlex.join(words)}"

    def read_json(self, name: str) -> dict[str, Any]:
        """Read a JSON file of the run.

        Raises:
            UserError: the stage that writes it has not run, or the file is damaged.
        """
        path = self.path / name
        if not path.is_file():
            raise UserError(
                f"run {self.name!r}: expected {name}, got no such file; run the earlier notebooks first: "
                + self.command
            )
        values = parse_object(path.read_bytes())
        if values is None:
            raise UserError(f"{path}: expected a JSON object, got a damaged file; remove it, then {self.go_on_command}")
        return values

    def read_if_whole(self, name: str) -> dict[str, Any] | None:
        """Read a JSON file of the run that can be made again; None where it is missing or damaged."""
        path = self.path / name
        return parse_object(path.read_bytes()) if path.is_file() else None

    def write_json(self, name: str, values: dict[str, Any]) -> Path:
        """Write a JSON file of the run, whole or not at all."""
        if not self.writes:
            return self.path / name
        with writing(self.path, "--runs-dir"):
            return write_text(self.path / name, json.dumps(values, indent=1, ensure_ascii=False) + "\n")

    @property
    def go_on_command(self) -> str:
        """The command that goes on with a training of this run that was stopped."""
        return f"{self.command} --resume"

    def status(self) -> dict[str, dict[str, Any]]:
        """Read the entries of the stages in `status.json`; empty where none has started."""
        return {name: entry for name, entry in self._read_status().items() if isinstance(entry, dict)}

    def set_status(self, stage: str, **values: Any) -> None:
        """Replace the entry of one stage in `status.json`."""
        self.write_json("status.json", self._read_status() | {stage: values})

    def progress(self) -> dict[str, Any]:
        """Read what `status.json` says of the whole run.

        Returns:
            `state` (running, stopped, failed or finished), `resume_needed`, `reason` and, where somebody has said so,
            `phase`, `step`, `total_steps`, `seconds` and, of a run that was stopped, the `command` that goes on.
        """
        return {name: entry for name, entry in self._read_status().items() if not isinstance(entry, dict)}

    def set_progress(self, state: str, *, resume_needed: bool = False, reason: str = "", **values: Any) -> None:
        """Change what `status.json` says of the whole run; see `progress`. A new phase has not made any step."""
        kept = self._read_status()
        is_new = values.get("phase", kept.get("phase")) != kept.get("phase")
        for name in ("command", *(("step", "total_steps", "seconds") if is_new else ())):
            kept.pop(name, None)
        said = {"state": state, "resume_needed": resume_needed, "reason": reason}
        self.write_json("status.json", kept | said | values)

    def _read_status(self) -> dict[str, Any]:
        path = self.path / "status.json"
        if not path.is_file():
            return {}
        if (values := parse_object(path.read_bytes())) is None:
            note(f"{path}: damaged, so it begins anew; checkpoints and models are files of their own")
        return values or {}

    def append_metrics(self, values: dict[str, Any]) -> None:
        """Append one JSON object to `metrics.jsonl`."""
        if not self.writes:
            return
        with writing(self.path, "--runs-dir"):
            append_line(self.path / "metrics.jsonl", values)

    def read_metrics(self) -> list[dict[str, Any]]:
        """Read `metrics.jsonl`; empty where nothing was trained. A torn line is left out, and said."""
        return read_lines(self.path / "metrics.jsonl")

    def drop_metrics(self, phase: str, after_step: int = -1) -> None:
        """Remove a phase's lines past a step: a phase that is trained again writes them anew."""
        if not self.writes:
            return
        kept = [m for m in self.read_metrics() if m.get("phase") != phase or m.get("step", 0) <= after_step]
        with writing(self.path, "--runs-dir"):
            write_text(self.path / "metrics.jsonl", "".join(json.dumps(m) + "\n" for m in kept))


def check_run_name(name: str) -> str:
    """Return a run's name if it can be a folder's.

    Raises:
        UserError: the name holds a path or a character that some file system refuses.
    """
    if not RUN_NAME.fullmatch(name):
        raise UserError(
            f"--name: expected letters, digits, '.', '_', '=', '-' (no path), got {name!r}; "
            "folders of runs are chosen by --runs-dir"
        )
    return name


def default_run_name(config_path: str | Path, overrides: list[str]) -> str:
    """Name a run after its configuration file and the settings that were changed by hand."""
    changed = [
        override.partition("=")[0].rpartition(".")[2] + "=" + override.partition("=")[2] for override in overrides
    ]
    name = "-".join([Path(config_path).stem, *(Path(part).name if "/" in part else part for part in changed)])
    return re.sub(r"[^A-Za-z0-9._=-]", "_", name).lstrip("._=-")[:100] or "run"


def describe_environment() -> dict[str, Any]:
    """Collect what a reader needs to repeat a run: versions, platform, cores."""
    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "packages": versions,
        "kaggle": os.environ.get("KAGGLE_KERNEL_RUN_TYPE", ""),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def is_watched() -> bool:
    """Return whether this notebook runs interactively: a frontend that can take input is attached.

    papermill and nbval run cells with input switched off, Jupyter and Kaggle's editor with it on; IPython in a terminal
    has no kernel. Voila switches input off too, but shows its widgets to a person, and says so in the environment.
    """
    if "ipykernel" not in sys.modules:
        return False
    from ipykernel.zmqshell import ZMQInteractiveShell
    from IPython import get_ipython

    shell = get_ipython()
    is_shown = "VOILA_BASE_URL" in os.environ
    return isinstance(shell, ZMQInteractiveShell) and (is_shown or bool(shell.kernel._allow_stdin))


def is_unwatched_notebook() -> bool:
    """Return whether a kernel runs cells that nobody watches: a progress bar would be saved as it first was, at 0 %."""
    return "ipykernel" in sys.modules and not is_watched()


def fingerprint(*parts: object) -> str:
    """Hash what made something; equal parts give an equal name on every machine."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def fingerprint_files(path: Path) -> str:
    """Hash the content of a file, or names and contents of all files of a folder; compiled Python is left out."""
    digest = hashlib.sha256()
    inside = sorted(p for p in path.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    for file in [path] if path.is_file() else inside:
        digest.update(str(file.relative_to(path)).encode() + b"\0")
        digest.update(bytes.fromhex(hash_file(file)))
    return digest.hexdigest()[:16]


def cached_folder(parent: Path, key: str, build: Callable[[Path], None], *, setting: str = "cache_dir") -> Path:
    """Return the folder `parent/key`, built once; a build that fails or is killed leaves nothing there.

    Of several processes that need it one builds it, and the others wait.

    Args:
        parent: folder of results of one kind.
        key: fingerprint of everything that makes the result.
        build: fills the empty folder that it is given; a file named as the key is added to it.
        setting: what names the parent, for messages.

    Raises:
        UserError: the disk is full, or the folder cannot be written.
    """
    target = parent / key
    if target.is_dir():
        return target
    with writing(parent, setting), taking_turns(parent / f".{key}.lock", f"{parent.name}/{key}"):
        if target.is_dir():  # by the process that was waited for
            return target
        _remove_leftovers(parent, key)
        partial = Path(tempfile.mkdtemp(prefix=f".{key}.", dir=parent))
        try:
            build(partial)
            (partial / key).touch()
            partial.chmod(0o755)
            sync_folder(partial)
            try:
                partial.rename(target)
            except OSError:
                if not target.is_dir():  # else another process finished first, on a disk that knows no locks
                    raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return target


def _remove_leftovers(parent: Path, key: str) -> None:
    """Remove what killed builds of the same result left; nobody builds it now."""
    for path in parent.glob(f".{key}.*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)


def link_folder(source: Path, target: Path) -> None:
    """Make `target` hold the files of a cached folder, sharing disk space where the file system can.

    Nothing is done where the target has them already: the file named as the key tells.
    """

    def link_or_copy(src: str, dst: str) -> None:
        try:
            os.link(src, dst)
        except OSError:
            shutil.copy2(src, dst)

    if (target / source.name).is_file():
        return
    with writing(target.parent, "--runs-dir"):
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            shutil.copytree(source, partial, copy_function=link_or_copy, dirs_exist_ok=True)
            partial.chmod(0o755)
            shutil.rmtree(target, ignore_errors=True)
            partial.rename(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
