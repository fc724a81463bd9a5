"""Conversations out of files and rows: recognised by the columns, checked row by row, counted if they are left out."""

import csv
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from kdkit.config.language import DataConfig
from kdkit.data.conversations import ANSWERS, LISTS, QUESTIONS, BadRowError, Layout, find_layout, read_conversation
from kdkit.data.files import check_text, parse_json
from kdkit.errors import UserError

Row = dict[str, Any]
SAMPLE_ROWS = 20
"""First rows whose columns say what a file holds: not every row of a .jsonl file has all."""


@dataclass
class ChatReader:
    """Reads rows as conversations, and counts those that it leaves out."""

    config: DataConfig
    left_out: Counter[str] = field(default_factory=Counter)
    """Rows by the reason: `BadRowError.problem`, or the column of `data.skip_rows_where`."""

    def wants(self, columns: Iterable[str]) -> bool:
        """Return whether rows with such columns are to be read as conversations."""
        config, columns = self.config, list(columns)
        if config.format != "auto":
            return config.format == "chat"
        if config.prompt_template or config.answer_column:
            return True
        layout = find_layout(columns)
        if layout is not None and config.text_column in columns:
            name = layout.messages or f"{layout.question} and {layout.answer}"
            print(
                f"data: text is read from {config.text_column!r}; set data.format=chat to read {name} as conversations",
                flush=True,
            )
        return layout is not None and config.text_column not in columns

    def read(self, rows: Iterable[tuple[str, Row]], columns: Iterable[str], source: str) -> Iterator[str]:
        """Yield conversations as JSON; see `Conversation.to_json`.

        Args:
            rows: each with where it stands.
            columns: of the data set.
            source: its name, for messages.

        Raises:
            UserError: columns that hold no conversation; a bad row, unless such are to be left out.
        """
        config = self.config
        layout = self._find_layout(list(columns), source)
        for where, row in rows:
            if config.skip_rows_where is not None and _is_true(row.get(config.skip_rows_where)):
                self.left_out[config.skip_rows_where] += 1
                continue
            try:
                yield read_conversation(row, layout, where).to_json()
            except BadRowError as error:
                if config.bad_rows == "refuse":
                    raise
                self.left_out[error.problem] += 1

    def _find_layout(self, columns: list[str], source: str) -> Layout:
        """Find the columns of conversations, and that which says what to leave out."""
        config = self.config
        listed = ", ".join(map(str, columns))
        if config.skip_rows_where is not None and config.skip_rows_where not in columns:
            raise UserError(
                f"data.skip_rows_where: expected a column of {source!r}, got {config.skip_rows_where!r} where the "
                f"columns are {listed}; name one of them, or null"
            )
        layout = find_layout(columns, config.prompt_template, config.answer_column)
        if layout is None:
            raise UserError(
                f"data.format: expected rows of conversations (a column {' or '.join(LISTS[:2])}; or one of "
                f"{', '.join(QUESTIONS)} with one of {', '.join(ANSWERS)}), got the columns {listed} in {source!r}; "
                "name them: data.prompt_template='{question}' data.answer_column=answer"
            )
        return layout

    def describe(self) -> str:
        """Say what was left out; empty if nothing was."""
        return ", ".join(f"{count:,} ({reason})" for reason, count in self.left_out.most_common())


def _is_true(value: object) -> bool:
    """Read a flag, as JSON has it or as a .csv file spells it."""
    return value.strip().lower() in ("true", "1", "yes") if isinstance(value, str) else bool(value)


def columns_of(file: Path) -> list[str]:
    """Return the columns of the first rows of a file; none for .txt, and for what cannot be read."""
    if file.suffix == ".txt":
        return []
    names: dict[str, None] = {}
    try:
        for row in islice(_read_parquet(file) if file.suffix == ".parquet" else _read_text(file), SAMPLE_ROWS):
            names |= dict.fromkeys(map(str, row if isinstance(row, dict) else ()))
    except (UserError, UnicodeDecodeError, csv.Error):
        return []  # whoever reads it next says why
    return list(names)


def read_file(file: Path) -> Iterator[tuple[str, Row]]:
    """Yield the rows of a .jsonl, .csv or .parquet file, each with where it stands, without holding the file in memory.

    Raises:
        UserError: not UTF-8 text, not what the suffix says.
    """
    if file.suffix == ".parquet":
        rows = _read_parquet(file)
    else:
        check_text(file)
        rows = _read_text(file)
    for number, row in enumerate(rows, start=1):
        where = f"row {number} of {str(file)!r}"
        if not isinstance(row, dict):
            raise UserError(f"data.path: expected a JSON object a line, got {str(row)[:60]!r} in {where}; correct it")
        yield where, row


def _read_text(file: Path) -> Iterator[Any]:
    with file.open(encoding="utf-8-sig", newline="" if file.suffix == ".csv" else "\n") as stream:
        if file.suffix == ".csv":
            csv.field_size_limit(2**31 - 1)
            yield from csv.DictReader(stream)
        else:
            yield from (parse_json(line, file, number) for number, line in enumerate(stream, 1) if line.strip())


def _read_parquet(file: Path) -> Iterator[Row]:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.ParquetFile(file)
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"data.path: expected a parquet file, got {str(file)!r}: {error}; convert it again") from None
    for batch in table.iter_batches(batch_size=1024):
        yield from batch.to_pylist()
