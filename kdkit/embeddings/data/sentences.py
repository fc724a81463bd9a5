"""Sentences for training or evaluation: of a file, of a hub data set, or cut out of Python's documentation.

Whatever the source, the result is rows of one sentence or two, with a label or a score where the source has them.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from itertools import compress
from pathlib import Path
from typing import Any, Literal

from kdkit.config.language import DataConfig
from kdkit.config.tasks import as_label
from kdkit.config.types import Section
from kdkit.data.rows import Columns, read_columns
from kdkit.data.text.corpora import PYTHON_DOCS, clean_text, load_corpus
from kdkit.embeddings.data.prose import cut_sentences
from kdkit.errors import UserError
from kdkit.runs.folder import fingerprint

PAIR_COLUMNS = (("sentence1", "sentence2"), ("premise", "hypothesis"), ("anchor", "positive"))
"""Names that the two sentences of a row go by, the first that are there are taken."""
SCORE_COLUMNS = ("score", "similarity_score", "relatedness_score")
HASHED_ROWS = 65_536
"""Rows that are hashed together."""


Role = Literal["label", "score"]
OnBad = Literal["refuse", "skip"]


@dataclass(frozen=True)
class Sentences:
    """Rows of one sentence or two, in the order of the source; all lists are equally long."""

    first: list[str]
    """A row's sentence, or the first of two; none is empty."""
    second: list[str] | None
    labels: list[str] | None
    """Classes as text, also where the source has numbers; of python-docs the number of a sentence's document."""
    scores: list[float] | None
    """How similar the two are."""
    source: str
    """Where they came from, for messages and reports."""
    fingerprint: str
    """Hash of all of the above except the source."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Rows of the source that are left out, by the reason in words."""

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
    roles: tuple[Role, ...] = ("label", "score"),
    bad_rows: OnBad = "refuse",
) -> Sentences:
    """Read the rows of any source; those with an empty sentence, or with none, are left out and counted.

    Args:
        path: `python-docs`; a .txt file, a sentence a line; a .csv, .tsv, .json, .jsonl or .parquet file; or a hub
            data set.
        key: the setting that named it, for messages.
        split: of a hub data set, as `name` (its configuration) and `revision`.
        columns: what `sentence1` (also of rows with one sentence), `sentence2`, `label` and `score` are called, where
            it is not `text`; the names of `PAIR_COLUMNS`; `label`; or one of `SCORE_COLUMNS`.
        text_ok: whether rows of one sentence will do.
        roles: what is read beside the sentences where it is there.
        bad_rows: `skip` leaves out and counts rows without a label or a number that is read, or with a sentence that is
            no text.

    Raises:
        UserError: nothing there, nothing in it, a column missing, a value of the wrong kind.
    """
    if path == PYTHON_DOCS:
        return _python_docs(cache_path)
    found = read_columns(path, key, name=name, split=split, revision=revision)
    return _from_columns(found, path, key, columns or {}, text_ok, roles, bad_rows == "skip")


def dropped_words(sentences: Sentences) -> str:
    """Say how many rows of a source were left out, and why; empty where none was."""
    reasons = ", ".join(f"{count:,} with {reason}" for reason, count in sentences.dropped.items())
    total = sum(sentences.dropped.values())
    return f"{total:,} of {len(sentences) + total:,} rows are left out ({reasons})" if total else ""


def refuse_hub_settings(section: Section, names: tuple[str, ...], key: str, path: str) -> None:
    """Refuse settings of a hub data set that were changed for a file, where they would do nothing."""
    for name in names:
        if (value := getattr(section, name)) != type(section).model_fields[name].default:
            raise UserError(f"{key}.{name}: expected a hub data set, got the file {path!r}, so {value!r}; leave it out")


def _python_docs(cache_path: Path) -> Sentences:
    """Cut Python's documentation into sentences, each labelled with its document's number."""
    documents = load_corpus(DataConfig(path=PYTHON_DOCS), cache_path).documents
    cut = [(text, str(number)) for number, document in enumerate(documents) for text in cut_sentences(document)]
    texts, labels = [text for text, _ in cut], [label for _, label in cut]
    return Sentences(texts, None, labels, None, PYTHON_DOCS, fingerprint(texts, labels))


def _from_columns(
    columns: Columns,
    path: str,
    key: str,
    names: dict[str, str],
    text_ok: bool,
    roles: tuple[Role, ...],
    skips: bool,
) -> Sentences:
    """Pick columns out of those of a source, and the rows that can be used."""
    found = list(columns)
    first, second = _text_columns(found, path, key, names, text_ok)
    label = _column("label", ("label",), found, path, key, names)
    score = _column("score", SCORE_COLUMNS, found, path, key, names)
    chosen = [("first", first, _text), ("second", second, _text)]
    chosen += [("labels", label, _label)] * ("label" in roles) + [("scores", score, _number)] * ("score" in roles)
    values: dict[str, Any] = dict.fromkeys(("first", "second", "labels", "scores"))
    reasons: dict[int, str] = {}
    for name, column, convert in chosen:
        if column is not None:
            values[name] = [
                _convert(convert, value, column, row, (path, key, skips), reasons)
                for row, value in enumerate(columns[column])
            ]
    if len(reasons) == len(values["first"]):
        why = "; ".join(sorted(set(reasons.values())))
        raise UserError(f"{key}: expected rows that can be used in {path!r}, got none: {why}; check its columns")
    if reasons:
        kept = [row not in reasons for row in range(len(values["first"]))]
        values = {name: column and list(compress(column, kept)) for name, column in values.items()}
    return Sentences(**values, source=path, fingerprint=_hash(values), dropped=dict(Counter(reasons.values())))


def _convert(
    convert: Callable[[Any], Any],
    value: Any,
    column: str,
    row: int,
    source: tuple[str, str, bool],
    reasons: dict[int, str],
) -> Any:
    """Read one value; a row that is left out gets a reason, and stands in no message."""
    try:
        read = convert(value)
    except ValueError as error:
        path, key, skips = source
        if not skips:
            raise UserError(
                f"{key}: expected {error} in {column!r}, got {'none' if _is_missing(value) else repr(value)} in row "
                f"{row + 1} of {path!r}; correct the row, name another column, or leave such rows out: "
                f"{key.rpartition('.')[0]}.bad_rows=skip"
            ) from None
        reasons.setdefault(row, f"no {str(error).removeprefix('a ')} in {column!r}")
        return None
    if read == "":
        reasons.setdefault(row, f"no sentence in {column!r}")
    return read


def _hash(values: dict[str, list[Any] | None]) -> str:
    """Fingerprint lists, piece by piece: a million sentences are not put together for it."""
    parts = []
    for name, column in sorted(values.items()):
        pieces = [] if column is None else range(0, len(column), HASHED_ROWS)
        parts.append([name, column is None, *(fingerprint(column[start : start + HASHED_ROWS]) for start in pieces)])
    return fingerprint(parts)


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


def _is_missing(value: Any) -> bool:
    """Return whether a source has no value: null, an empty cell, or what pandas writes for one."""
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _text(value: Any) -> str:
    """Accept text, blanks around it aside, and nothing, which is empty text; anything else is the wrong column."""
    if _is_missing(value):
        return ""
    if not isinstance(value, str):
        raise ValueError("text")
    return "" if value.isspace() else clean_text(value)


def _label(value: Any) -> str:
    """Accept what `as_label` makes a label of."""
    if _is_missing(value) or (label := as_label(value)) == "":
        raise ValueError("a value")
    return label


def _number(value: Any) -> float:
    """Accept finite numbers, also as text."""
    try:
        score = float(value)
    except (TypeError, ValueError):
        score = math.nan
    if not math.isfinite(score):
        raise ValueError("a number")
    return score
