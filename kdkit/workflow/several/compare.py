"""Comparison of runs that are there: what `python -m kdkit compare` and a notebook's cell do. Never imports torch."""

import difflib
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdkit.config.embeddings import EmbeddingConfig, embedding_config_from_values
from kdkit.config.language import config_from_values
from kdkit.config.reading import read_values
from kdkit.config.values import expand_home
from kdkit.errors import UserError
from kdkit.evaluate.between_embeddings import compare_embeddings, why_other_tasks
from kdkit.evaluate.between_runs import Finished, compare_language, differing_settings, why_other_text
from kdkit.runs.folder import Run
from kdkit.runs.paths import find_root, resolve_output

PAGE = "compare.html"
"""File of the page, in the folder of runs; the next comparison writes another one."""
MOST = 26
"""Runs that are compared at once: each has a letter."""


def compare_runs(runs: Sequence[str], runs_dir: str | Path = "runs") -> dict[str, Any]:
    """Compare finished runs with the first of them, on the held-out text or the tasks that they share.

    Args:
        runs: names in the folder of runs, or paths of run folders; the first finished one is the reference.
        runs_dir: folder of runs.

    Returns:
        `kind` (`language` or `embeddings`), `runs` (per compared run its `label`, `name` and what `compare_language`
        or `compare_embeddings` say), `settings` that differ, `text` (in words), `over` (what the intervals were drawn
        over), `notes` on runs that are left out or lack something (`name`, `reason`, `command`) and `asked` (the
        command's arguments).

    Raises:
        UserError: fewer than two runs, one named twice or not there, language with embedding models, or fewer than two
            that can be compared; the message says why.
    """
    folder = resolve_output(runs_dir, find_root())
    found = _find_runs(runs, folder)
    configs = {run.path: _read_config(run) for run in found}
    kinds = {path.name: isinstance(config, EmbeddingConfig) for path, config in configs.items()}
    if len(set(kinds.values())) > 1:
        sides = ("; ".join(name for name, kind in kinds.items() if kind is side) for side in (False, True))
        raise UserError(
            "compare: expected runs of one kind, got language models ({}) and embedding models ({}); compare each "
            "kind alone".format(*sides)
        )
    is_embedding = next(iter(kinds.values()))
    notes, finished = [], []
    for run in found:
        if missing := _what_is_missing(run, runs_dir):
            notes.append(missing)
        else:
            facts = run.read_json("evaluation.json"), run.read_json("data/manifest.json")
            finished.append(Finished(run, configs[run.path], *facts))
    why_other = why_other_tasks if is_embedding else why_other_text
    compared = finished[:1]
    for other in finished[1:]:
        if reason := why_other(finished[0], other):
            notes.append({"name": other.run.name, "reason": f"not comparable: {reason}", "command": ""})
        else:
            compared.append(other)
    if len(compared) < 2:
        raise UserError(_too_few(compared, notes))
    notes += [note for each in compared if (note := _without_scores(each.run, runs_dir))]
    entries = (compare_embeddings if is_embedding else compare_language)(compared)
    labels = [{"label": chr(ord("A") + place), "name": each.run.name} for place, each in enumerate(compared)]
    return {
        "kind": "embeddings" if is_embedding else "language",
        "runs": [label | entry for label, entry in zip(labels, entries, strict=True)],
        "settings": differing_settings(compared),
        "text": _describe_text(compared[0], is_embedding),
        "over": "the rows of the tasks" if is_embedding else entries[0]["over"],
        "notes": notes,
        "asked": [*runs, *_runs_dir_words(folder.name)],
    }


def comparison_page(runs_dir: str | Path) -> Path:
    """Return where the page of a comparison is written."""
    return resolve_output(runs_dir, find_root()) / PAGE


def find_run(name: str, folder: Path) -> Run:
    """Find a run by its name in a folder of runs, or by its path.

    Raises:
        UserError: there is no such run; the nearest name comes first.
    """
    places = [folder / name, expand_home(name)]
    for path in places:
        if (path / "config.yaml").is_file():
            return Run(path, path)
    known = sorted(path.parent.name for path in folder.glob("*/config.yaml"))
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    if not known:
        raise UserError(
            f"compare: expected a run in {folder}, got {name!r} and no run there; name another folder: "
            "--runs-dir FOLDER"
        )
    others = ", ".join([*near, *(other for other in known if other not in near)][:8])
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise UserError(f"compare: expected a run in {folder}, got {name!r}; {hint}runs there: {others}")


def _find_runs(names: Sequence[str], folder: Path) -> list[Run]:
    """Find the runs; refuse fewer than two, too many, and one twice."""
    if isinstance(names, str) or len(names) < 2:
        got = repr(names) if isinstance(names, str) else f"{len(names)}"
        raise UserError(f"compare: expected at least two runs, got {got}; python -m kdkit compare RUN RUN")
    if len(names) > MOST:
        raise UserError(
            f"compare: expected at most {MOST} runs, got {len(names)}; for more: python -m kdkit sweep FILE"
        )
    runs = [find_run(name, folder) for name in names]
    places = [run.path.resolve() for run in runs]
    if twice := [name for name, place in zip(names, places, strict=True) if places.count(place) > 1]:
        raise UserError(f"compare: expected every run once, got {twice[-1]!r} twice; name another run")
    return runs


def _read_config(run: Run) -> Any:
    """Read the configuration that a run was made with, of an older build too."""
    values = read_values(run.path / "config.yaml")
    return embedding_config_from_values(values) if "method" in values else config_from_values(values)


def _what_is_missing(run: Run, runs_dir: str | Path) -> dict[str, str] | None:
    """Say what a run lacks to be compared, with the command that makes it; None if it lacks nothing."""
    is_stopped = any(entry["state"] == "interrupted" for entry in run.status().values())
    command = _run_again(run, runs_dir) + ["--resume"] * is_stopped
    if not (run.path / "student").is_dir():
        return {"name": run.name, "reason": "no student yet", "command": shlex.join(command)}
    if not (run.path / "evaluation.json").is_file():
        return {"name": run.name, "reason": "not evaluated yet", "command": shlex.join(command)}
    return None


def _from_here(path: Path) -> Path:
    """Return a path as a person in the current folder would write it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _without_scores(run: Run, runs_dir: str | Path) -> dict[str, str] | None:
    """Say that a run of an older build has no figures by document, and what makes them."""
    if (run.path / "scores.json").is_file():
        return None
    stage = "06" if (run.path / "notebooks" / "06_embedding_distillation.ipynb").is_file() else "04"
    command = [*_run_again(run, runs_dir), "--only", stage]
    return {"name": run.name, "reason": "no interval: an older build made it", "command": shlex.join(command)}


def _run_again(run: Run, runs_dir: str | Path) -> list[str]:
    """Return the command that goes on with a run."""
    words = ["python", "-m", "kdkit", "run", str(_from_here(run.path / "config.yaml")), "--name", run.name]
    lies_in_another_folder = run.path.parent.resolve() != resolve_output(runs_dir, find_root()).resolve()
    return words + _runs_dir_words(run.path.parent if lies_in_another_folder else runs_dir)


def _runs_dir_words(runs_dir: str | Path) -> list[str]:
    return [] if str(runs_dir) == "runs" else ["--runs-dir", str(runs_dir)]


def _too_few(compared: list[Finished], notes: list[dict[str, str]]) -> str:
    """Say why nothing can be compared."""
    got = f"{compared[0].run.name!r} alone" if compared else "none"
    reasons = "; ".join(f"{entry['name']}: {entry['reason']}" for entry in notes)
    commands = [entry["command"] for entry in notes if entry["command"]]
    return f"compare: expected two runs that can be compared, got {got} ({reasons}); " + (
        f"{commands[0]}" if commands else "name runs of one text: python -m kdkit compare RUN RUN"
    )


def _describe_text(reference: Finished, is_embedding: bool) -> str:
    """Name what all were judged on."""
    if is_embedding:
        tasks = reference.evaluation["tasks"]
        return f"{len(tasks)} tasks: {', '.join(tasks)}" if len(tasks) > 1 else f"one task: {next(iter(tasks))}"
    source, count = reference.manifest["corpus"]["source"], reference.evaluation["evaluated"]["bytes"]
    return f"{count:,} bytes of held-out text ({source})"
