"""Columns of a file or of a hub data set, as they are: a name and a value for every row."""

import csv
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from kdkit.errors import UserError
from kdkit.machine.hub import hub_is_reachable
from kdkit.runs.folder import is_unwatched_notebook
from kdkit.runs.paths import resolve_input

FILE_SUFFIXES = (".txt", ".csv", ".tsv", ".json", ".jsonl", ".parquet")
DELIMITERS = ",;\t|"
"""What may stand between the values of a table; where a header has as many of two, the first of them counts."""

Columns = dict[str, list[Any]]
"""Values by the name of their column, all lists equally long; None where a row has no value."""
Row = dict[str, Any]
"""Values of one row by the name of their column."""


def read_columns(
    path: str, key: str, *, name: str | None = None, split: str = "train", revision: str | None = None
) -> Columns:
    """Read all columns; the lines of a .txt file that are not blank are a column `text`.

    Args:
        path: a file, or a hub data set, whose configuration is `name`.
        key: the setting that named it, for messages.

    Raises:
        UserError: nothing there, or nothing in it; a file that is not what its name says; no network.
    """
    file = resolve_input(path)
    found = _read_file(file, key) if _is_file(path, file, key) else _read_hub(path, name, split, revision, key)
    columns: Columns = {}
    for column, values in found.items():
        bare = str(column).strip()
        if bare and bare in columns:
            raise UserError(f"{key}: expected different columns, got {bare!r} twice in {path!r}; rename one of them")
        columns[bare] = values
    columns.pop("", None)  # a written index has no name
    if not columns or not next(iter(columns.values())):
        raise UserError(f"{key}: expected rows in {path!r}, got none; it is empty")
    return columns


def read_rows(
    path: str, key: str, *, name: str | None = None, split: str = "train", revision: str | None = None
) -> list[Row]:
    """Read the same as one mapping for every row; see `read_columns`."""
    columns = read_columns(path, key, name=name, split=split, revision=revision)
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def is_data_file(path: str) -> bool:
    """Return whether a path names a file of a known kind that is there."""
    file = resolve_input(path)
    return file.is_file() and file.suffix.lower() in FILE_SUFFIXES


def _is_file(path: str, file: Path, key: str) -> bool:
    """Return whether a path names a file that can be read, rather than a hub data set.

    Raises:
        UserError: it can only mean a file, and there is none of a known kind.
    """
    known = file.suffix.lower() in FILE_SUFFIXES
    if file.is_file() and known:
        return True
    if file.exists() or known or path.startswith(("/", ".", "~")):
        got = "which does not exist" if not file.exists() else "which is neither"
        raise UserError(
            f"{key}: expected a {', '.join(FILE_SUFFIXES)} file or a hub data set, got {path!r}, {got} "
            f"(in {Path.cwd()}); correct the path"
        )
    return False


def _read_file(file: Path, key: str) -> Columns:
    """Read the columns of a file, whatever the case of its ending."""
    suffix = file.suffix.lower()
    try:
        if suffix == ".parquet":
            return _read_parquet(file, key)
        if suffix in (".csv", ".tsv"):
            return _read_table(file, key)
        if suffix == ".txt":
            with file.open(encoding="utf-8-sig", newline="\n") as lines:
                return {"text": [line.rstrip("\r\n") for line in lines if line.strip()]}
        return _gather(_read_json(file, key) if suffix == ".json" else _read_json_lines(file, key))
    except UnicodeDecodeError:
        pass
    try:
        file.read_bytes().decode("utf-8")  # a stream counts from the start of its buffer
    except UnicodeDecodeError as error:
        reason = f"{error.reason} at byte {error.start}"
    raise UserError(f"{key}: expected UTF-8 text, got {str(file)!r} with {reason}; convert the file")


def _read_table(file: Path, key: str) -> Columns:
    """Read a table; where its quotes make no sense and tabs part its values, quotes are text."""
    csv.field_size_limit(2**31 - 1)
    with file.open(encoding="utf-8-sig", newline="") as lines:
        delimiter = _find_delimiter(lines.readline())
    try:
        return _read_values(file, delimiter, csv.QUOTE_MINIMAL, key)
    except UserError:
        if delimiter != "\t":
            raise
        return _read_values(file, delimiter, csv.QUOTE_NONE, key)


def _find_delimiter(header: str) -> str:
    """Return what parts the names of a header: whatever it has most of outside quotes; a comma where it has none."""
    outside = "".join(header.split('"')[::2])
    return max(DELIMITERS, key=outside.count)


def _read_values(file: Path, delimiter: str, quoting: Any, key: str) -> Columns:
    """Read the values of a table, each row with all columns."""
    with file.open(encoding="utf-8-sig", newline="") as lines:
        # strict, else an unclosed quote swallows the rest of the file
        reader = csv.reader(lines, strict=True, delimiter=delimiter, quoting=quoting)
        try:
            names = [name.strip() for name in next(reader, [])]
            if twice := [name for name in names if name and names.count(name) > 1]:
                raise UserError(
                    f"{key}: expected different columns, got {twice[0]!r} twice in {str(file)!r}; rename one of them"
                )
            columns: list[list[str]] = [[] for _ in names]
            for number, row in enumerate(filter(None, reader), start=1):
                if len(row) != len(names):
                    raise UserError(
                        f"{key}: expected a value for each column, got {'more' if len(row) > len(names) else 'fewer'} "
                        f"in row {number} of {str(file)!r}; quote values that hold {delimiter!r} or line ends"
                    )
                for column, value in zip(columns, row, strict=True):
                    column.append(value)
        except csv.Error as error:
            raise UserError(
                f"{key}: expected CSV, got {error} by line {reader.line_num} of {str(file)!r}; close its quotes"
            ) from None
    return dict(zip(names, columns, strict=True))


def _gather(rows: Iterator[dict[str, Any]]) -> Columns:
    """Turn rows into columns; what a row does not have is None."""
    columns: Columns = {}
    for number, row in enumerate(rows):
        for name, value in row.items():
            if name not in columns:
                columns[name] = [None] * number
            columns[name].append(value)
        if len(row) != len(columns):
            for values in columns.values():
                values.extend([None] * (number + 1 - len(values)))
    return columns


def _read_json_lines(file: Path, key: str) -> Iterator[dict[str, Any]]:
    """Yield the objects of a .jsonl file, one a line."""
    with file.open(encoding="utf-8-sig", newline="\n") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield _parse(line, number, file, key)


def _parse(line: str, number: int, file: Path, key: str) -> dict[str, Any]:
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


def _read_json(file: Path, key: str) -> Iterator[dict[str, Any]]:
    """Yield the objects of a .json file: of a list of them, or one a line as in a .jsonl file."""
    with file.open(encoding="utf-8-sig") as lines:
        is_list = next((line for line in islice(lines, 100) if line.strip()), "").lstrip().startswith("[")
    if not is_list:
        yield from _read_json_lines(file, key)
        return
    try:
        rows = json.loads(file.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        if isinstance(error, UnicodeDecodeError):
            raise
        raise UserError(f"{key}: expected a list of JSON objects, got {error} in {str(file)!r}; correct it") from None
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise UserError(
                f"{key}: expected a list of JSON objects, got {str(row)[:80]!r} as item {number} of {str(file)!r}; "
                "correct it"
            )
        yield row


def _read_parquet(file: Path, key: str) -> Columns:
    import pyarrow
    from pyarrow import parquet

    try:
        return parquet.read_table(file).to_pydict()
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"{key}: expected a parquet file, got {str(file)!r}: {error}; convert it again") from None


def _read_hub(path: str, name: str | None, split: str, revision: str | None, key: str) -> Columns:
    """Return the columns of a split of a hub data set."""
    import datasets

    if not hub_is_reachable():
        datasets.config.HF_HUB_OFFLINE = True
    if is_unwatched_notebook():
        datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(path, name, split=split, revision=revision).to_dict()
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{key}: expected the hub data set {path!r} (split {split!r}) to be readable, got {type(error).__name__}: "
            f"{reason}; check name, configuration, revision and network, or name a {', '.join(FILE_SUFFIXES)} file"
        ) from None
