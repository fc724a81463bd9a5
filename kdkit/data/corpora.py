"""Documents to learn from: the embedded corpus, the user's files, or a hub data set.

Every source ends as a list of distinct, non-empty texts with a fingerprint. Used by notebook 01.
"""

import ast
import csv
import hashlib
import io
import json
import random
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from kdkit.config.language import DataConfig
from kdkit.errors import UserError
from kdkit.machine.hub import hub_is_reachable
from kdkit.runs.folder import cached_folder, fingerprint, fingerprint_files
from kdkit.runs.paths import resolve_input

PYTHON_DOCS = "python-docs"
FILE_SUFFIXES = (".txt", ".jsonl", ".csv", ".parquet")
PARAGRAPH_DOCUMENT_CHARACTERS = 2_000
"""Paragraphs of a plain text file are gathered into documents of at least this length."""

HUB_NAMES = {
    "wikitext": ("Salesforce/wikitext", "wikitext-103-raw-v1"),
    "openwebtext": ("Skylion007/openwebtext", None),
    "c4": ("allenai/c4", "en"),
}
"""Short names of data sets, and the hub repository and configuration that hold them today."""
LARGE_DATASETS = ("Skylion007/openwebtext", "allenai/c4")
"""Streamed even when all of it is wanted: tens to hundreds of gigabytes."""

_SKIPPED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idle_test", "lib2to3", "pydoc_data"}


@dataclass(frozen=True)
class Corpus:
    """Distinct documents and where they came from."""

    documents: list[str]
    source: str
    fingerprint: str
    num_duplicates: int
    """Documents that were dropped because another one has exactly the same text."""


def load_corpus(config: DataConfig, cache_path: Path) -> Corpus:
    """Read the documents that a configuration names; a second call reads a cached copy.

    Raises:
        UserError: missing, empty or unreadable files, a missing column, no network for a hub name.
    """
    source, key = _identify(config)
    folder = cached_folder(cache_path / "corpora", key, lambda path: _write(path, _read(source, config), source))
    meta = json.loads((folder / "meta.json").read_text())
    documents = [json.loads(line) for line in (folder / "documents.jsonl").open(encoding="utf-8")]
    return Corpus(documents, meta["source"], meta["fingerprint"], meta["num_duplicates"])


def split_documents(documents: list[str], evaluation_fraction: float, seed: int) -> tuple[list[str], list[str]]:
    """Hold out whole documents for evaluation, about `evaluation_fraction` of the characters.

    Raises:
        UserError: there are fewer than two documents.
    """
    if len(documents) < 2:
        raise UserError(
            f"data.path: expected at least 2 documents to hold one out, got {len(documents)}; "
            "give more text, or set data.document_separator"
        )
    order = list(range(len(documents)))
    random.Random(seed).shuffle(order)
    wanted = evaluation_fraction * sum(map(len, documents))
    held_out: set[int] = set()
    size = 0
    for index in order:
        if size + len(documents[index]) <= wanted:
            held_out.add(index)
            size += len(documents[index])
    held_out = held_out or {min(order, key=lambda index: len(documents[index]))}
    train = [documents[i] for i in order if i not in held_out]
    return train, [documents[i] for i in order if i in held_out]


def clean_text(text: str) -> str:
    """Replace lone surrogates, which no tokenizer and no UTF-8 file can hold, by U+FFFD."""
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def _identify(config: DataConfig) -> tuple[str | Path, str]:
    """Decide what `data.path` names, and fingerprint all that decides the documents."""
    path = resolve_input(config.path)
    if config.path == PYTHON_DOCS:
        return PYTHON_DOCS, fingerprint(PYTHON_DOCS, sys.version, config.subset_size)
    if path.exists():
        content = fingerprint_files(path)
        settings = config.text_column, config.document_separator, config.subset_size
        return path, fingerprint(content, path.suffix, *settings)
    if path.suffix in FILE_SUFFIXES or config.path.startswith(("/", ".", "~")):
        raise UserError(
            f"data.path: expected an existing file or folder, got {config.path!r}, which does not exist "
            f"(in {Path.cwd()}); correct the path, or use data.path=python-docs"
        )
    return config.path, fingerprint(config.path, config.name, config.split, config.text_column, config.subset_size)


def _write(folder: Path, texts: Iterable[str], source: str | Path) -> None:
    """Write distinct non-empty documents and what is known of them."""
    seen: set[bytes] = set()
    num_duplicates = 0
    digest = hashlib.sha256()
    with (folder / "documents.jsonl").open("w", encoding="utf-8") as file:
        for text in texts:
            text = clean_text(text).strip()
            key = hashlib.sha256(text.encode()).digest()
            if not text or key in seen:
                num_duplicates += bool(text)
                continue
            seen.add(key)
            digest.update(key)
            file.write(json.dumps(text, ensure_ascii=False) + "\n")
    if not seen:
        raise UserError(f"data.path: expected text, got none in {str(source)!r}; it is empty")
    meta = {"source": str(source), "fingerprint": digest.hexdigest()[:16], "num_duplicates": num_duplicates}
    (folder / "meta.json").write_text(json.dumps(meta))


def _read(source: str | Path, config: DataConfig) -> Iterator[str]:
    """Yield the raw documents of any source, at most `subset_size`."""
    if source == PYTHON_DOCS:
        texts = _read_python_docs()
    elif isinstance(source, Path):
        texts = _read_files(source, config)
    else:
        texts = _read_hub(source, config)
    return islice((text for text in texts if text.strip()), config.subset_size)


def _read_python_docs() -> Iterator[str]:
    """Yield Python's reference topics and, a document per module, the standard library's docstrings."""
    from pydoc_data import topics

    yield from (text for _, text in sorted(topics.topics.items()))
    library = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(library.rglob("*.py")):
        if _SKIPPED_FOLDERS.isdisjoint(path.relative_to(library).parts):
            yield "\n\n".join(_docstrings(path.read_bytes()))


def _docstrings(source: bytes) -> Iterator[str]:
    """Yield the docstrings of a module's source, without running it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from filter(None, [ast.get_docstring(node)])


def _read_files(path: Path, config: DataConfig) -> Iterator[str]:
    """Yield the documents of a file, or of all known files of a folder in the order of their names."""
    inside = sorted(p for p in path.rglob("*") if p.suffix in FILE_SUFFIXES and p.is_file())
    files = [path] if path.is_file() else inside
    if not files or files[0].suffix not in FILE_SUFFIXES:
        raise UserError(
            f"data.path: expected {', '.join(FILE_SUFFIXES)} or a folder of them, got {str(path)!r}; "
            "convert the file or name another"
        )
    for file in files:
        if file.suffix == ".txt":
            yield from split_text(_decode(file), config.document_separator)
        elif file.suffix == ".parquet":
            yield from _read_parquet(file, config.text_column)
        else:
            yield from _read_rows(file, config.text_column)


def split_text(text: str, separator: str | None = None) -> list[str]:
    """Cut a text file into documents.

    Args:
        text: the whole file.
        separator: what stands between documents; None: `<|endoftext|>` where it occurs, else top
            headings of the wikitext form, else paragraphs gathered to about 2,000 characters.
    """
    if separator is None and "<|endoftext|>" in text:
        separator = "<|endoftext|>"
    if separator is not None:
        return [part for part in text.split(separator) if part.strip()]
    if re.search(r"^ = [^=\n]+ = $", text, flags=re.MULTILINE):
        return [part for part in re.split(r"(?m)^(?= = [^=\n]+ = $)", text) if part.strip()]
    documents, current = [], ""
    for paragraph in re.split(r"\n\s*\n", text):
        current += paragraph + "\n\n"
        if len(current) >= PARAGRAPH_DOCUMENT_CHARACTERS:
            documents.append(current)
            current = ""
    return documents + [current] * bool(current.strip())


def _decode(file: Path) -> str:
    """Read a file as UTF-8 text."""
    content = file.read_bytes()
    try:
        if b"\0" in content:
            raise UnicodeDecodeError("utf-8", content, content.index(b"\0"), content.index(b"\0") + 1, "a zero byte")
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"data.path: expected UTF-8 text, got {str(file)!r} with {error.reason} at byte {error.start}; "
            "convert it to UTF-8 text, or name another file"
        ) from None


def _read_rows(file: Path, column: str) -> Iterator[str]:
    """Yield one column of a .jsonl or .csv file."""
    text = _decode(file)
    if file.suffix == ".csv":
        csv.field_size_limit(2**31 - 1)
        rows: Iterable[object] = csv.DictReader(io.StringIO(text, newline=""))
    else:
        rows = (_parse_json(line, file, number) for number, line in enumerate(text.split("\n"), 1) if line.strip())
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or column not in row:
            columns = ", ".join(map(str, row)) if isinstance(row, dict) else type(row).__name__
            raise _missing_column(column, columns, f"row {number} of {str(file)!r}")
        yield _as_text(row[column], column, f"row {number} of {str(file)!r}")


def _parse_json(line: str, file: Path, number: int) -> object:
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
        raise _missing_column(column, ", ".join(table.schema_arrow.names), repr(str(file)))
    for batch in table.iter_batches(columns=[column]):
        yield from (_as_text(value, column, repr(str(file))) for value in batch.column(0).to_pylist())


def _missing_column(column: str, columns: str, where: str) -> UserError:
    return UserError(
        f"data.text_column: expected a column {column!r} in {where}, got the columns {columns}; "
        "set data.text_column to one of them"
    )


def _as_text(value: object, column: str, where: str) -> str:
    """Accept text and missing values; anything else is the wrong column."""
    if value is None or isinstance(value, str):
        return value or ""
    raise UserError(f"data.text_column: expected text in {column!r}, got {value!r} in {where}; name a text column")


def _read_hub(name: str, config: DataConfig) -> Iterator[str]:
    """Yield the documents of a hub data set, streamed when it is large or only a part is wanted."""
    import datasets

    if not hub_is_reachable():
        datasets.config.HF_HUB_OFFLINE = True
    path, default_configuration = HUB_NAMES.get(name, (name, None))
    streaming = path in LARGE_DATASETS or config.subset_size is not None
    try:
        rows = datasets.load_dataset(
            path, config.name or default_configuration, split=config.split, streaming=streaming
        )
        columns = rows.column_names or list(next(iter(rows), {}))
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"data.path: expected the hub data set {path!r} to be readable, got {type(error).__name__}: {reason}; "
            "check the name and the network, or point data.path to a local .txt, .jsonl, .csv or .parquet file"
        ) from None
    if config.text_column not in columns:
        raise _missing_column(config.text_column, ", ".join(columns), f"the hub data set {path!r}")
    texts = (_as_text(row[config.text_column], config.text_column, path) for row in rows)
    return _join_articles(texts) if path == "Salesforce/wikitext" else texts


def _join_articles(lines: Iterable[str]) -> Iterator[str]:
    """Join wikitext's rows, which are lines, into articles: a top heading starts the next one."""
    article: list[str] = []
    for line in lines:
        if re.fullmatch(r" = [^=]+ = \n?", line) and article:
            yield "".join(article)
            article = []
        article.append(line)
    yield "".join(article)
