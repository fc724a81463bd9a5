"""What it took to make a file or folder of the cache, noted beside it, so that every run that reads it can count it."""

import json
from pathlib import Path
from typing import Any

from kdkit.runs.disk import write_text
from kdkit.runs.lines import parse_object


def write_cost(path: Path, seconds: float, tokens: int, **more: int) -> None:
    """Note what it took to make a file or folder.

    Args:
        tokens: that a model read for it, its own.
        more: other counts.
    """
    write_text(_file(path), json.dumps({"seconds": round(seconds, 2), "tokens": tokens} | more) + "\n")


def read_cost(path: Path) -> dict[str, Any] | None:
    """Return what `write_cost` noted; None where nobody did, as in older builds, or where the note is damaged."""
    file = _file(path)
    return parse_object(file.read_bytes()) if file.is_file() else None


def _file(path: Path) -> Path:
    return path / "cost.json" if path.is_dir() else Path(f"{path}.cost.json")
