"""What a run and its cache leave on disk: whether every file can be read, and whether two runs have made the same.

Times, speeds and memory differ from run to run, and so does what is drawn from them; all else must not.
"""

import hashlib
import json
from collections import defaultdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import yaml
from PIL import Image
from safetensors import safe_open

MEASURED = ("second", "memory", "speed", "hardware", "finished", "created", "rounds", "by_round", "generation", "costs")
"""Words in the names of values that are measured anew in every run."""
LEFTOVERS = ("*.partial", ".*.partial", "*.parts", "*.lock", "tmp-*", ".[0-9a-f]*", "*.checkpoints", "checkpoint-*")
"""What a writer leaves beside its target while it is at work."""


def unreadable(folder: Path) -> list[str]:
    """Return the files of a folder that cannot be read to their end; what is not finished has another name."""
    found = []
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        inside = file.relative_to(folder).parts
        if any(part.startswith(".") or part.endswith((".parts", ".partial")) for part in inside):
            continue
        if any(part.startswith("checkpoint") or part.endswith(".checkpoints") for part in inside):
            continue
        try:
            _read(file)
        except Exception as error:
            found.append(f"{file.relative_to(folder)}: {type(error).__name__}: {error}"[:200])
    return found


def _read(file: Path) -> None:
    """Read a file to its end, as its kind is read."""
    match file.suffix:
        case ".json" | ".ipynb":
            json.loads(file.read_text(encoding="utf-8"))
        case ".yaml":
            yaml.safe_load(file.read_text(encoding="utf-8"))
        case ".jsonl":
            lines = file.read_bytes().split(b"\n")
            for line in lines[:-1]:  # the last one may be torn: its readers leave it out, and its writer cuts it
                json.loads(line)
        case ".safetensors":
            with safe_open(file, "np") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - it is no dict
                    tensors.get_tensor(name)
        case ".npy" | ".npz":
            np.load(file)
        case ".h5":
            with h5py.File(file, "r") as stored:
                stored.visititems(lambda _, item: item[()] if isinstance(item, h5py.Dataset) else None)
        case ".png":
            with Image.open(file) as picture:
                picture.load()
        case ".html":
            page = file.read_text(encoding="utf-8")
            HTMLParser().feed(page)
            assert page.rstrip().endswith("</html>"), "no end"


def leftovers(*folders: Path) -> list[str]:
    """Return what writers have left beside their targets."""
    found = {path for folder in folders for pattern in LEFTOVERS for path in folder.rglob(pattern)}
    return sorted(str(path) for path in found if path.name != ".ipynb_checkpoints")


def differences(run: Path, cache: Path, other: Path, other_cache: Path) -> list[str]:
    """Return what two runs have not made alike: weights, answers, losses, evaluation, counts."""
    mine, theirs = (_facts(*pair) for pair in ((run, cache), (other, other_cache)))
    return [name for name in sorted(mine.keys() | theirs.keys()) if mine.get(name) != theirs.get(name)]


def _facts(run: Path, cache: Path) -> dict[str, Any]:
    """Collect all that must be alike, by name."""
    facts: dict[str, Any] = {}
    for file in sorted([*run.rglob("*.safetensors"), *run.glob("data/**/*.npy")]):
        facts[str(file.relative_to(run))] = _digest(file)
    for file in sorted(cache.rglob("*.h5")):
        facts[str(file.relative_to(cache))] = _digest(file)
    lines = defaultdict(list)
    for line in (run / "metrics.jsonl").read_text().splitlines():
        values = json.loads(line)
        lines[f"metrics.jsonl: {values['phase']}"].append(_settled(values))
    facts |= lines
    for name in ("evaluation.json", "scores.json", "training.json", "teacher/probe.json", "teacher/pair.json"):
        values = json.loads((run / name).read_text().replace(str(run), "RUN"))
        facts |= {f"{name}: {key}": _settled(value) for key, value in values.items() if not _is_measured(key)}
    status = json.loads((run / "status.json").read_text())
    facts["status.json"] = {key: value for key, value in status.items() if isinstance(value, str | bool)}
    facts["states"] = {key: value["state"] for key, value in status.items() if isinstance(value, dict)}
    names = [file.relative_to(run) for file in run.rglob("*") if file.is_file()]
    facts["files"] = sorted(str(name) for name in names if name.parts[0] != "wandb")  # named by time and chance
    facts["copies"] = len(list((run / "wandb").glob("offline-run-*")))
    return facts


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _settled(value: Any) -> Any:
    """Return nested values without those that are measured anew in every run."""
    if isinstance(value, dict):
        return {key: _settled(inner) for key, inner in value.items() if not _is_measured(key)}
    return [_settled(inner) for inner in value] if isinstance(value, list) else value


def _is_measured(name: str) -> bool:
    return any(word in name for word in MEASURED)
