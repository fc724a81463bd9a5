"""Rows of a file or of a hub data set, as they are: a name and a value for every column."""

import csv
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from kdkit.errors import UserError
from kdkit.machine.hub import hub_is_reachable
from kdkit.runs.paths import resolve_input

FILE_SUFFIXES = (".txt", ".csv", ".jsonl", ".parquet")

Row = dict[str, Any]


def read_rows(
    path: str, key: str, *, name: str | None = None, split: str = "train", revision: str | None = None
) -> list[Row]:
    """Read all rows; those of a .txt file are its lines that are not blank, in a column `text`.

    Args:
        path: a file, or a hub data set, whose configuration is `name`.
        key: the setting that named it, for messages.

    Raises:
        UserError: nothing there, or nothing in it; a file that is not what its name says; no network.
    """
    file = resolve_input(path)
    rows = list(_read_file(file, key) if _is_file(path, file, key) else _read_hub(path, name, split, revision, key))
    if not rows:
        raise UserError(f"{key}: expected rows in {path!r}, got none; it is empty")
    return rows


def is_data_file(path: str) -> bool:
    """Return whether a path names a file of a known kind that is there."""
    file = resolve_input(path)
    return file.is_file() and file.suffix in FILE_SUFFIXES


def _is_file(path: str, file: Path, key: str) -> bool:
    """Return whether a path names a file that can be read, rather than a hub data set.

    Raises:
        UserError: it can only mean a file, and there is none of a known kind.
    """
    if file.is_file() and file.suffix in FILE_SUFFIXES:
        return True
    if file.exists() or file.suffix in FILE_SUFFIXES or path.startswith(("/", ".", "~")):
        got = "which does not exist" if not file.exists() else "which is neither"
        raise UserError(
            f"{key}: expected a {', '.join(FILE_SUFFIXES)} file or a hub data set, got {path!r}, {got} "
            f"(in {Path.cwd()}); correct the path"
        )
    return False


def _read_file(file: Path, key: str) -> Iterator[Row]:
    """Yield the rows of a file."""
    if file.suffix == ".parquet":
        yield from _read_parquet(file, key)
        return
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{key}: expected UTF-8 text, got {str(file)!r} with {error.reason} at byte {error.start}; convert the file"
        ) from None
    if file.suffix == ".csv":
        yield from _read_csv(io.StringIO(text, newline=""), file, key)
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield {"text": line.rstrip("\r")} if file.suffix == ".txt" else _parse(line, number, file, key)


def _read_csv(stream: Iterable[str], file: Path, key: str) -> Iterator[Row]:
    """Yield the rows of a CSV file, each with all columns."""
    csv.field_size_limit(2**31 - 1)
    reader = csv.DictReader(stream, strict=True)  # else an unclosed quote swallows the rest of the file
    names = reader.fieldnames or []
    if twice := [name for name in names if name and names.count(name) > 1]:
        raise UserError(
            f"{key}: expected different columns, got {twice[0]!r} twice in {str(file)!r}; rename one of them"
        )
    for number, row in enumerate(_csv_rows(reader, file, key), start=1):
        if None in row or None in row.values():
            raise UserError(
                f"{key}: expected a value for each column, got {'more' if None in row else 'fewer'} in row {number} of "
                f"{str(file)!r}; quote values that hold commas or line ends"
            )
        yield row


def _csv_rows(reader: csv.DictReader, file: Path, key: str) -> Iterator[Row]:
    """Yield the rows of a reader; refuse quotes that do not close."""
    try:
        yield from reader
    except csv.Error as error:
        raise UserError(
            f"{key}: expected CSV, got {error} by line {reader.line_num} of {str(file)!r}; close its quotes"
        ) from None


def _parse(line: str, number: int, file: Path, key: str) -> Row:
    """Read a line of a .jsonl file."""
    try:
        row = json.loads(line)
    except ValueError as error:
        row = str(error)
    if not isinstance(row, dict):
        raise UserError(
            f"{key}: expected a JSON object a line, got {str(row)[:80]!r} at line {number} of {str(file)!r}; correct it"
        )
    return row


def _read_parquet(file: Path, key: str) -> list[Row]:
    import pyarrow
    from pyarrow import parquet

    try:
        return parquet.read_table(file).to_pylist()
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"{key}: expected a parquet file, got {str(file)!r}: {error}; convert it again") from None


def _read_hub(path: str, name: str | None, split: str, revision: str | None, key: str) -> list[Row]:
    """Return the rows of a split of a hub data set."""
    import datasets

    if not hub_is_reachable():
        datasets.config.HF_HUB_OFFLINE = True
    try:
        return datasets.load_dataset(path, name, split=split, revision=revision).to_list()
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{key}: expected the hub data set {path!r} (split {split!r}) to be readable, got {type(error).__name__}: "
            f"{reason}; check name, configuration, revision and network, or name a {', '.join(FILE_SUFFIXES)} file"
        ) from None
