"""Minimal pairs from files of BLiMP's form, or those that are made here."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdkit.data.text.files import is_leftover
from kdkit.errors import UserError
from kdkit.evaluate.pairs.grammar import make_pairs
from kdkit.runs.paths import resolve_input

BUILT_IN = "kdkit-grammar"
"""Value of `evaluate.minimal_pairs`: the pairs that are made here."""
KEY = "evaluate.minimal_pairs"
GOOD, BAD = "sentence_good", "sentence_bad"
PHENOMENON = ("linguistics_term", "phenomenon", "UID")
"""Columns that name a row's phenomenon, the first that is there; else the file's name does."""


@dataclass(frozen=True)
class Pair:
    """Two sentences of which the second one breaks a rule."""

    good: str
    bad: str
    phenomenon: str


def read_pairs(source: str | None) -> list[Pair]:
    """Read minimal pairs; none for None.

    Args:
        source: `kdkit-grammar`; or a .jsonl file, or a folder of them, with the columns `sentence_good` and
            `sentence_bad` and perhaps one of `PHENOMENON`.

    Raises:
        UserError: no such file, no pairs in it, not JSON, a column that is missing, or two sentences that are equal.
    """
    if source is None:
        return []
    if source == BUILT_IN:
        return [Pair(*pair) for pair in make_pairs()]
    pairs = [_pair(row, file, number) for file in find_pair_files(source) for number, row in _rows(file)]
    if not pairs:
        raise UserError(
            f"{KEY}: expected rows with {GOOD} and {BAD}, got none in {source!r}; name another file, or {BUILT_IN}"
        )
    return pairs


def find_pair_files(source: str) -> list[Path]:
    """Return the files that a setting names.

    Raises:
        UserError: there are none.
    """
    path = resolve_input(source)
    files = [path] if path.is_file() else [file for file in sorted(path.glob("*.jsonl")) if not is_leftover(file, path)]
    if not files or files[0].suffix != ".jsonl":
        got = "a file of another kind" if files else "a folder without one" if path.is_dir() else "nothing there"
        raise UserError(
            f"{KEY}: expected {BUILT_IN}, a .jsonl file or a folder of them, got {source!r}, {got}; write one pair a "
            f'line: {{"{GOOD}": "The cats run.", "{BAD}": "The cats runs.", "phenomenon": "agreement"}}'
        )
    return files


def _rows(file: Path) -> Iterator[tuple[int, Any]]:
    """Yield the number and the content of every line that holds something."""
    try:
        for number, line in enumerate(file.read_text(encoding="utf-8-sig").split("\n"), 1):
            if line.strip():
                yield number, json.loads(line)
    except UnicodeDecodeError as error:
        raise UserError(f"{KEY}: expected UTF-8 text in {file.name}, got {error}; convert the file") from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"{KEY}: expected a JSON object a line in {file.name}, got line {number}, which is none ({error.msg}); "
            "correct it"
        ) from None


def _pair(row: Any, file: Path, number: int) -> Pair:
    """Check a row."""
    where = f"line {number} of {file.name}"
    columns = list(row) if isinstance(row, dict) else []
    if missing := [name for name in (GOOD, BAD) if name not in columns]:
        raise UserError(
            f"{KEY}: expected the columns {GOOD} and {BAD}, got {where} without {missing[0]} "
            f"({', '.join(columns[:8]) or 'no columns'}); rename the columns"
        )
    for name in (GOOD, BAD):
        if not isinstance(row[name], str) or not row[name].strip():
            raise UserError(f"{KEY}: expected a sentence as {name}, got {row[name]!r} in {where}; correct the row")
    if row[GOOD] == row[BAD]:
        raise UserError(
            f"{KEY}: expected two sentences that differ, got {row[GOOD]!r} twice in {where}; correct or remove the row"
        )
    term = next((str(row[name]) for name in PHENOMENON if row.get(name)), file.stem)
    return Pair(row[GOOD], row[BAD], term.replace("_", " "))
