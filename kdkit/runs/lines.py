"""Files of JSON lines that only ever grow: a process that is killed while it writes leaves its last line torn."""

import json
import os
from pathlib import Path
from typing import Any


def append_line(path: Path, values: dict[str, Any]) -> None:
    """Append an object; what a killed process left of a line is cut first, and said."""
    with path.open("ab+") as file:
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(size - 1)
            if file.read(1) != b"\n":
                _mend_end(path)
        file.write(json.dumps(values).encode() + b"\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read all objects; lines that are none are left out, and said: how many, which, and in which file."""
    content = path.read_bytes() if path.is_file() else b""
    found = [(number, line, parse_object(line)) for number, line in enumerate(content.split(b"\n"), 1) if line.strip()]
    broken = [(number, line) for number, line, values in found if values is None]
    if broken:
        numbers = ", ".join(str(number) for number, _ in broken[:5])
        size = sum(len(line) for _, line in broken)
        print(
            f"{path}: left out {len(broken)} torn line(s) of {size} bytes (line {numbers}): "
            "a process was killed while it wrote",
            flush=True,
        )
    return [values for _, _, values in found if values is not None]


def _mend_end(path: Path) -> None:
    """Cut a torn last line, or end a whole one that only lacks its line end."""
    content = path.read_bytes()
    last = content[content.rfind(b"\n") + 1 :]
    if parse_object(last) is not None:
        with path.open("ab") as file:
            file.write(b"\n")
        return
    os.truncate(path, len(content) - len(last))
    print(f"{path}: cut 1 torn line of {len(last)} bytes from its end: a process was killed while it wrote", flush=True)


def parse_object(line: bytes) -> dict[str, Any] | None:
    """Return the object that a line, or a file, holds; None where it is none, as in one that was cut or left empty."""
    try:
        values = json.loads(line)
    except ValueError:  # also bytes that are no text
        return None
    return values if isinstance(values, dict) else None
