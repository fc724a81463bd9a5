"""Hashes of files, each read once: where nothing about a large file has changed, it is not read again.

They are kept in `.cache/hashes.json` of the project, by path, with all that the system says of a file's state. Every
process of a run, and every later run, needs the hash of the teacher's weights: its answers are found by it.
"""

import contextlib
import hashlib
import json
import re
import time
from pathlib import Path
from typing import Any

from kdkit.errors import UserError
from kdkit.runs.disk import write_text
from kdkit.runs.paths import find_root, resolve_output

SMALL = 2**22
"""Bytes of a file that is hashed sooner than its hash is found."""
MOST_KEPT = 1000
"""Files whose hashes are kept: those that were hashed last."""
SETTLED_SECONDS = 2.0
"""A file that was changed just now may be changed again with the same time, as coarsely as disks keep it."""


_here: dict[str, Any] = {}
"""Found in this process, which may have no place to keep them."""


def hash_file(path: Path) -> str:
    """Return the sha256 of a file's content, in hexadecimal."""
    state = path.stat()
    if state.st_size < SMALL:
        return _read(path)
    name = str(path.resolve())
    known = [state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino]
    kept = _read_kept() | _here
    if name in kept and kept[name]["state"] == known:
        return kept[name]["sha256"]
    found = _read(path)
    if time.time() - state.st_ctime > SETTLED_SECONDS:
        _here[name] = {"state": known, "sha256": found}
        _keep(kept | _here)
    return found


def _read(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _place() -> Path:
    return resolve_output(".cache", find_root()) / "hashes.json"


def _read_kept() -> dict[str, Any]:
    """Return what is known, by path; nothing where it cannot be read: then files are."""
    with contextlib.suppress(OSError, ValueError, UserError):
        values = json.loads(_place().read_text(encoding="utf-8"))
        return {name: entry for name, entry in values.items() if _is_whole(entry)} if isinstance(values, dict) else {}
    return {}


def _is_whole(entry: Any) -> bool:
    """Return whether what is known of a file is a state and a hash; whoever edits the list may leave anything."""
    is_known = isinstance(entry, dict) and isinstance(entry.get("state"), list)
    return is_known and re.fullmatch("[0-9a-f]{64}", str(entry.get("sha256"))) is not None


def _keep(hashes: dict[str, Any]) -> None:
    """Keep the newest hashes, where there is a place for them."""
    newest = dict(list(hashes.items())[-MOST_KEPT:])
    with contextlib.suppress(OSError, UserError):
        write_text(_place(), json.dumps(newest) + "\n")
