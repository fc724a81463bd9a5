"""Sentences for training or evaluation: of a file, of a hub data set, or cut out of Python's documentation.

Whatever the source, the result is rows of one sentence or two, with a label or a score where the source has them.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from kdkit.config.language import DataConfig
from kdkit.data.rows import Row, read_rows
from kdkit.data.text.corpora import PYTHON_DOCS, clean_text, load_corpus
from kdkit.embeddings.data.prose import cut_sentences
from kdkit.errors import UserError
from kdkit.runs.folder import fingerprint

PAIR_COLUMNS = (("sentence1", "sentence2"), ("premise", "hypothesis"), ("anchor", "positive"))
"""Names that the two sentences of a row go by, the first that are there are taken."""
SCORE_COLUMNS = ("score", "similarity_score", "relatedness_score")


@dataclass(frozen=True)
class Sentences:
    """Rows of one sentence or two, in the order of the source; all lists are equally long."""

    first: list[str]
    """A row's sentence, or the first of two; empty strings are rows as well."""
    second: list[str] | None
    labels: list[str] | None
    """Classes as text, also where the source has numbers; of python-docs the number of a sentence's document."""
    scores: list[float] | None
    """How similar the two are."""
    source: str
    """Where they came from, for messages and reports."""
    fingerprint: str
    """Hash of all of the above except the source."""

    def __len__(self) -> int:
        return len(self.first)

    def take(self, rows: Iterable[int]) -> "Sentences":
        """Return some of the rows."""
        rows = list(rows)
        lists = {name: getattr(self, name) for name in ("first", "second", "labels", "scores")}
        taken = {name: values and [values[row] for row in rows] for name, values in lists.items()}
        return replace(self, **taken, fingerprint=fingerprint(taken))

    def texts(self) -> list[str]:
        """Return all sentences, those of a row one after the other."""
        if self.second is None:
            return self.first
        return [text for row in zip(self.first, self.second, strict=True) for text in row]


def load_sentences(
    path: str,
    cache_path: Path,
    *,
    key: str,
    split: str = "train",
    name: str | None = None,
    revision: str | None = None,
    columns: dict[str, str] | None = None,
    text_ok: bool = True,
) -> Sentences:
    """Read the rows of any source.

    Args:
        path: `python-docs`; a .txt file, a sentence a line; a .csv, .jsonl or .parquet file; or a hub data set.
        key: the setting that named it, for messages.
        split: of a hub data set, as `name` (its configuration) and `revision`.
        columns: what `sentence1` (also of rows with one sentence), `sentence2`, `label` and `score` are called, where
            it is not `text`; the names of `PAIR_COLUMNS`; `label`; or one of `SCORE_COLUMNS`.
        text_ok: whether rows of one sentence will do.

    Raises:
        UserError: nothing there, nothing in it, a column missing, a value of the wrong kind.
    """
    if path == PYTHON_DOCS:
        return _python_docs(cache_path)
    rows = read_rows(path, key, name=name, split=split, revision=revision)
    return _from_rows(rows, path, key, columns or {}, text_ok)


def _python_docs(cache_path: Path) -> Sentences:
    """Cut Python's documentation into sentences, each labelled with its document's number."""
    documents = load_corpus(DataConfig(path=PYTHON_DOCS), cache_path).documents
    cut = [(text, str(number)) for number, document in enumerate(documents) for text in cut_sentences(document)]
    texts, labels = [text for text, _ in cut], [label for _, label in cut]
    return Sentences(texts, None, labels, None, PYTHON_DOCS, fingerprint(texts, labels))


def _from_rows(rows: list[Row], path: str, key: str, columns: dict[str, str], text_ok: bool) -> Sentences:
    """Pick the columns out of rows."""
    found = [column for column in dict.fromkeys(chain.from_iterable(rows)) if column]  # a written index has no name
    first, second = _text_columns(found, path, key, columns, text_ok)
    label = _column("label", ("label",), found, path, key, columns)
    score = _column("score", SCORE_COLUMNS, found, path, key, columns)
    numbered = list(enumerate(rows, start=1))
    values = {
        "first": [_text(row, first, number, path, key) for number, row in numbered],
        "second": second and [_text(row, second, number, path, key) for number, row in numbered],
        "labels": label and [str(_value(row, label, number, path, key)) for number, row in numbered],
        "scores": score and [_number(row, score, number, path, key) for number, row in numbered],
    }
    return Sentences(**values, source=path, fingerprint=fingerprint(values))


def _text_columns(
    found: list[str], path: str, key: str, columns: dict[str, str], text_ok: bool
) -> tuple[str, str | None]:
    """Return the names of the one or two columns of sentences."""
    if "sentence2" in columns:
        pairs = ((columns.get("sentence1", "sentence1"), columns["sentence2"]),)
    elif "sentence1" in columns and text_ok:
        return _column("sentence1", (), found, path, key, columns), None
    else:
        pairs = tuple((columns.get("sentence1", first), second) for first, second in PAIR_COLUMNS)
    if pair := next((pair for pair in pairs if set(pair) <= set(found)), None):
        return pair
    if text_ok and "text" in found and "sentence2" not in columns:
        return "text", None
    wanted = " or ".join([*["text"] * (text_ok and "sentence2" not in columns), *(f"{a}, {b}" for a, b in pairs)])
    raise _missing(wanted, found, path, key)


def _column(
    role: str, names: tuple[str, ...], found: list[str], path: str, key: str, columns: dict[str, str]
) -> str | None:
    """Return the name of the column with a role, if there is one; a name that was given must be there."""
    if role in columns and columns[role] not in found:
        raise _missing(columns[role], found, path, key)
    return columns.get(role) or next((name for name in names if name in found), None)


def _missing(wanted: str, found: list[str], path: str, key: str) -> UserError:
    return UserError(
        f"{key}: expected the column(s) {wanted} in {path!r}, got the columns {', '.join(found)}; "
        f"name yours: {key.rpartition('.')[0]}.columns={{sentence1: NAME, ...}}"
    )


def _value(row: Row, column: str, number: int, path: str, key: str) -> Any:
    """Return a value that must be there."""
    if row.get(column) is None:
        raise UserError(f"{key}: expected a value in {column!r}, got none in row {number} of {path!r}; correct the row")
    return row[column]


def _text(row: Row, column: str, number: int, path: str, key: str) -> str:
    """Accept text and null, which is no text; anything else is the wrong column."""
    value = _value(row, column, number, path, key) if column not in row else row[column]
    if value is None or isinstance(value, str):
        return clean_text(value or "")
    raise UserError(
        f"{key}: expected text in {column!r}, got {value!r} in row {number} of {path!r}; name a text column"
    )


def _number(row: Row, column: str, number: int, path: str, key: str) -> float:
    """Accept finite numbers, also as text."""
    value = _value(row, column, number, path, key)
    try:
        score = float(value)
    except (TypeError, ValueError):
        score = float("nan")
    if abs(score) < float("inf"):
        return score
    raise UserError(
        f"{key}: expected a number in {column!r}, got {value!r} in row {number} of {path!r}; correct the row, or name "
        "another column"
    )
