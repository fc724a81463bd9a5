"""Documents of the user's files, read as a stream: .txt, .jsonl, .csv, .parquet, or a folder of them."""

import codecs
import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path

from kdkit.config.language import DataConfig
from kdkit.errors import UserError

FILE_SUFFIXES = (".txt", ".jsonl", ".csv", ".parquet")
PARAGRAPH_DOCUMENT_CHARACTERS = 2_000
"""Paragraphs of a plain text file are gathered into documents of at least this length."""
BLOCK = 1 << 20
"""Bytes, or characters, that are read at once."""

END_OF_TEXT = "<|endoftext|>"
_HEADING = re.compile(r" = [^=\n]+ = \n?")
_LEFTOVER = re.compile(
    r"[.#~].*|~\$.*|.*~|.*[._ -](bak|backup|orig|old|tmp|temp|swp|checkpoint)|.* - copy( \(\d+\))?|copy of .*"
    r"|__macosx|__pycache__|lost\+found|\$recycle\.bin|system volume information",
    flags=re.IGNORECASE,
)
"""Names, without their suffix, that editors, archives and systems leave behind; hidden ones begin with a dot."""
_COPY = re.compile(
    r"(.+?)(-copy\d*| copy( \d+)?| \(\d+\)| \([^)]*conflicted copy[^)]*\)|\.sync-conflict-.*)", flags=re.IGNORECASE
)
"""What Jupyter, macOS, browsers and programs that synchronise add to the name of a file that is there already."""
_SHARD = re.compile(r"(.+?)-?(\d{5})-of-(\d{5})(.*)")


def find_files(path: Path) -> tuple[list[Path], list[Path]]:
    """Return the files of a data set in the order of their names, and those left out: hidden ones and leftovers.

    Raises:
        UserError: neither a file of a known kind nor a folder with one; a numbered part is missing.
    """
    if path.is_file():
        files, left_out = [path], []
    else:
        known = sorted(p for p in path.rglob("*") if p.suffix in FILE_SUFFIXES and p.is_file())
        left_out = [file for file in known if is_leftover(file, path)]
        files = [file for file in known if file not in set(left_out)]
    if not files or files[0].suffix not in FILE_SUFFIXES:
        more = f" ({len(left_out)} hidden or left-over files in it are none)" if left_out else ""
        raise UserError(
            f"data.path: expected {', '.join(FILE_SUFFIXES)} or a folder of them, got {str(path)!r}{more}; "
            "convert the file or name another"
        )
    _check_parts(files)
    return files, left_out


def is_leftover(file: Path, folder: Path) -> bool:
    """Return whether a file, or a folder that it lies in below `folder`, has a name that nobody gave to a text.

    What is named as a copy of another file is one where that other file stands beside it.
    """
    names = file.relative_to(folder).parts
    if any(name.startswith(".") or _LEFTOVER.fullmatch(Path(name).stem) for name in names):
        return True
    match = _COPY.fullmatch(file.stem)
    return match is not None and file.with_name(match[1] + file.suffix).is_file()


def _check_parts(files: list[Path]) -> None:
    """Refuse a data set whose files are numbered `00000-of-00003` and not all there."""
    parts: dict[tuple[Path, str, str, str], set[int]] = {}
    for file in files:
        if match := _SHARD.fullmatch(file.name):
            name, number, total, rest = match.groups()
            parts.setdefault((file.parent, name, total, rest), set()).add(int(number))
    for (folder, name, total, rest), numbers in parts.items():
        first = 0 if 0 in numbers else 1
        if missing := sorted(set(range(first, first + int(total))) - numbers):
            raise UserError(
                f"data.path: expected {int(total)} parts {name}-*-of-{total}{rest} in {str(folder)!r}, got "
                f"{len(numbers)}, without number {missing[0]:05d}; copy the missing one, or rename the files"
            )


def read_files(files: list[Path], config: DataConfig) -> Iterator[str]:
    """Yield the documents of files, one file after the other.

    Raises:
        UserError: not UTF-8 text, not what the suffix says, or without the column.
    """
    for file in files:
        if file.suffix == ".parquet":
            yield from _read_parquet(file, config.text_column)
            continue
        check_text(file)
        if file.suffix == ".txt":
            yield from _split_file(file, config.document_separator)
        else:
            yield from _read_rows(file, config.text_column)


def split_text(text: str, separator: str | None = None) -> list[str]:
    """Cut a text into documents.

    Args:
        text: the whole file.
        separator: what stands between documents, its line ends being any; None: `<|endoftext|>` where it occurs, else
            top headings of the wikitext form, else paragraphs gathered to about 2,000 characters.
    """
    return list(_split(lambda: [text], lambda: io.StringIO(text), separator))


def _split_file(file: Path, separator: str | None) -> Iterator[str]:
    """Do what `split_text` does, without holding the file in memory."""

    def blocks() -> Iterator[str]:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            while block := stream.read(BLOCK):
                yield block

    def lines() -> Iterator[str]:
        with file.open(encoding="utf-8-sig", newline="\n") as stream:
            yield from stream

    return _split(blocks, lines, separator)


def _split(
    blocks: Callable[[], Iterable[str]], lines: Callable[[], Iterable[str]], separator: str | None
) -> Iterator[str]:
    """Choose how a text is cut, and yield the documents that are not blank.

    Args:
        blocks: reads the text from its beginning, in any pieces.
        lines: reads it line by line.
        separator: see `split_text`.
    """
    if separator is None and _holds(blocks(), END_OF_TEXT):
        separator = END_OF_TEXT
    if separator is not None:
        documents = _split_at(blocks(), separator)
    elif any(line.startswith(" = ") and _HEADING.fullmatch(line) for line in lines()):
        documents = _split_before_headings(lines())
    else:
        documents = _gather_paragraphs(lines())
    return (document for document in documents if document.strip())


def _holds(blocks: Iterable[str], mark: str) -> bool:
    """Return whether a text holds a mark."""
    rest = ""
    for block in blocks:
        if mark in rest + block:
            return True
        rest = (rest + block)[-len(mark) :]
    return False


def _split_at(blocks: Iterable[str], separator: str) -> Iterator[str]:
    """Yield what stands between separators; a line end in one is any line end, of this system or of another."""
    pattern = re.compile(re.escape(separator.replace("\r\n", "\n")).replace("\\\n", "\r?\n"))
    rest, seen = "", 0
    for block in blocks:
        text, start = rest + block, 0
        for match in pattern.finditer(text, max(0, seen - 2 * len(separator))):
            yield text[start : match.start()]
            start = match.end()
        rest = text[start:]
        seen = len(rest)
    yield rest


def _split_before_headings(lines: Iterable[str]) -> Iterator[str]:
    """Yield texts that begin with a top heading of the wikitext form, and what stands before the first."""
    current: list[str] = []
    for line in lines:
        if current and line.startswith(" = ") and _HEADING.fullmatch(line):
            yield "".join(current)
            current = []
        current.append(line)
    yield "".join(current)


def _gather_paragraphs(lines: Iterable[str]) -> Iterator[str]:
    """Yield neighbouring paragraphs together; blank lines stand between paragraphs."""
    document, paragraph, size = [], [], 0
    for line in chain(lines, [""]):
        if line.strip():
            paragraph.append(line)
            continue
        if paragraph:
            document.append("".join(paragraph).removesuffix("\n") + "\n\n")
            size += len(document[-1])
            paragraph = []
        if size >= PARAGRAPH_DOCUMENT_CHARACTERS:
            yield "".join(document)
            document, size = [], 0
    yield "".join(document)


def check_text(file: Path) -> None:
    """Refuse a file that is no UTF-8 text, before anything is made of it."""
    decoder, place = codecs.getincrementaldecoder("utf-8")(), 0
    with file.open("rb") as stream:
        while block := stream.read(BLOCK):
            pending = len(decoder.getstate()[0])
            if b"\0" in block:
                raise _not_text(file, "a zero byte", place + block.index(b"\0"))
            try:
                decoder.decode(block)
            except UnicodeDecodeError as error:
                raise _not_text(file, error.reason, place - pending + error.start) from None
            place += len(block)
    if pending := len(decoder.getstate()[0]):
        raise _not_text(file, "unexpected end of data", place - pending)


def _not_text(file: Path, reason: str, place: int) -> UserError:
    return UserError(
        f"data.path: expected UTF-8 text, got {str(file)!r} with {reason} at byte {place}; "
        "convert it to UTF-8 text, or name another file"
    )


def _read_rows(file: Path, column: str) -> Iterator[str]:
    """Yield one column of a .jsonl or .csv file."""
    with file.open(encoding="utf-8-sig", newline="" if file.suffix == ".csv" else "\n") as stream:
        if file.suffix == ".csv":
            csv.field_size_limit(2**31 - 1)
            rows: Iterable[object] = csv.DictReader(stream)
        else:
            rows = (parse_json(line, file, number) for number, line in enumerate(stream, 1) if line.strip())
        for number, row in enumerate(rows, 1):
            if not isinstance(row, dict) or column not in row:
                columns = ", ".join(map(str, row)) if isinstance(row, dict) else type(row).__name__
                raise missing_column(column, columns, f"row {number} of {str(file)!r}")
            yield as_text(row[column], column, f"row {number} of {str(file)!r}")


def parse_json(line: str, file: Path, number: int) -> object:
    """Read one line of a .jsonl file."""
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(
            f"data.path: expected a JSON object a line, got {error} at line {number} of {str(file)!r}; correct the line"
        ) from None


def _read_parquet(file: Path, column: str) -> Iterator[str]:
    """Yield one column of a .parquet file, batch by batch."""
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.ParquetFile(file)
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"data.path: expected a parquet file, got {str(file)!r}: {error}; convert it again") from None
    if column not in table.schema_arrow.names:
        raise missing_column(column, ", ".join(table.schema_arrow.names), repr(str(file)))
    for batch in table.iter_batches(batch_size=1024, columns=[column]):
        yield from (as_text(value, column, repr(str(file))) for value in batch.column(0).to_pylist())


def missing_column(column: str, columns: str, where: str) -> UserError:
    """Return the error of a file or data set without the column that holds the text."""
    return UserError(
        f"data.text_column: expected a column {column!r} in {where}, got the columns {columns}; "
        "set data.text_column to one of them"
    )


def as_text(value: object, column: str, where: str) -> str:
    """Accept text and missing values; anything else is the wrong column."""
    if value is None or isinstance(value, str):
        return value or ""
    raise UserError(f"data.text_column: expected text in {column!r}, got {value!r} in {where}; name a text column")
