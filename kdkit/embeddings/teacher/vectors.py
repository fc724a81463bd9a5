"""Vectors of any teacher out of a file: one that has no weights to load, asked before, by whatever program.

    FILE.parquet, FILE.jsonl   columns `text` and `vector`
    FILE.npy                   an array `[texts, H]`; the texts, in its order, in FILE.txt, .csv, .jsonl or .parquet

Vectors are found by their text, never by a place in the training data.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdkit.data.rows import FILE_SUFFIXES, read_rows
from kdkit.data.text.corpora import clean_text
from kdkit.errors import UserError
from kdkit.runs.paths import resolve_input

KEY = "teacher.vectors"
"""The setting that names the file."""
FORMS = "FILE.parquet or FILE.jsonl with the columns text and vector, or FILE.npy beside its texts in FILE.txt"
SAME = 0.99
"""Cosine from which two vectors of one text count as the same: endpoints answer a little differently each time."""
CHECKED_ROWS = 65536
"""Rows that are looked at together."""


@dataclass(frozen=True)
class TextVectors:
    """The vectors of a file, by text."""

    values: np.ndarray
    """`[rows, H]`, of any length; of an .npy file on disk until it is read."""
    places: dict[str, int]
    """Row of each text."""
    path: Path
    """The file."""

    @property
    def width(self) -> int:
        """H."""
        return self.values.shape[1]

    def of(self, texts: list[str], what: str) -> np.ndarray:
        """Return the vectors of texts at length 1, fp32, `[num_texts, H]`.

        Args:
            what: what the texts are, for the message.

        Raises:
            UserError: there is none for some of them.
        """
        if missing := self.missing(texts):
            names = ", ".join(repr(text[:60]) for text in missing[:3])
            raise UserError(
                f"{KEY}: expected vectors of all {len(texts):,} {what}, got none in {str(self.path)!r} for "
                f"{len(missing):,} of them ({names}{', ...' if len(missing) > 3 else ''}); add them: "
                f"python -m kdkit embed TEXTS {self.path.with_suffix('.parquet')} --url URL --model NAME"
            )
        vectors = self.values[[self.places[text] for text in texts]].astype(np.float32).reshape(-1, self.width)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def missing(self, texts: list[str]) -> list[str]:
        """Return the texts without a vector, each once."""
        return list(dict.fromkeys(text for text in texts if text not in self.places))


def read_vectors(path: str) -> TextVectors:
    """Read and check a file of vectors.

    Raises:
        UserError: no such file, or not one of these forms; vectors of different widths; another number of texts than
            of vectors; NaN, infinite or zero vectors; two vectors of one text that differ.
    """
    file = resolve_input(path)
    if not file.is_file() or file.suffix not in (".npy", ".parquet", ".jsonl"):
        got = "which is none" if file.is_file() else "which is not there"
        raise UserError(f"{KEY}: expected {FORMS}, got {path!r}, {got}; name the file")
    if file.suffix == ".npy":
        texts, values = _read_array(file)
    else:
        texts, values = _read_parquet(file) if file.suffix == ".parquet" else _read_lines(file)
    _check_numbers(texts, values, file)
    places: dict[str, int] = {}
    for row, text in enumerate(texts):
        first = places.setdefault(text, row)
        if first != row and _cosine(values[first], values[row]) < SAME:
            raise UserError(
                f"{KEY}: expected one vector for a text, got two that differ in {str(file)!r}, rows {first + 1} and "
                f"{row + 1}, for {text[:60]!r}; are texts and vectors in the same order?"
            )
    return TextVectors(values, places, file)


def _read_array(file: Path) -> tuple[list[str], np.ndarray]:
    """Open an .npy file and the texts beside it."""
    try:
        values = np.load(file, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise UserError(f"{KEY}: expected an .npy array, got {str(file)!r} ({error}); save it again") from None
    if values.ndim != 2 or values.dtype.kind != "f":
        got = f"{list(values.shape)} of {values.dtype}"
        raise UserError(f"{KEY}: expected an array [texts, width] of floats in {str(file)!r}, got {got}; save it again")
    beside = [file.with_suffix(suffix) for suffix in FILE_SUFFIXES if file.with_suffix(suffix).is_file()]
    if len(beside) != 1:
        got = ", ".join(other.name for other in beside) or "none"
        raise UserError(f"{KEY}: expected one file of texts beside {str(file)!r}, such as {file.stem}.txt, got {got}")
    texts = [_text(row, number, beside[0]) for number, row in enumerate(read_rows(str(beside[0]), KEY), start=1)]
    if len(texts) != len(values):
        raise UserError(
            f"{KEY}: expected a text for each of the {len(values):,} vectors of {str(file)!r}, got {len(texts):,} in "
            f"{beside[0].name}; they belong together row by row"
        )
    return texts, values


def _read_parquet(file: Path) -> tuple[list[str], np.ndarray]:
    """Read a parquet file by its columns."""
    import pyarrow
    from pyarrow import compute, parquet, types

    try:
        names = parquet.read_schema(file).names
        if not {"text", "vector"} <= set(names):
            raise UserError(
                f"{KEY}: expected the columns text and vector in {str(file)!r}, got {', '.join(names)}; rename them"
            )
        table = parquet.read_table(file, columns=["text", "vector"])
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"{KEY}: expected a parquet file, got {str(file)!r}: {error}; convert it again") from None
    texts = [_text(row, number, file) for number, row in enumerate(table.select(["text"]).to_pylist(), start=1)]
    vectors = table["vector"].combine_chunks()
    if not (types.is_list(vectors.type) or types.is_large_list(vectors.type) or types.is_fixed_size_list(vectors.type)):
        raise UserError(f"{KEY}: expected lists of numbers as vector in {str(file)!r}, got {vectors.type}; convert it")
    lengths = compute.list_value_length(vectors).fill_null(0).to_numpy(zero_copy_only=False)
    _check_widths(lengths, file)
    return texts, vectors.flatten().to_numpy(zero_copy_only=False).reshape(len(texts), -1)


def _read_lines(file: Path) -> tuple[list[str], np.ndarray]:
    """Read a .jsonl file."""
    rows = read_rows(str(file), KEY)
    texts = [_text(row, number, file) for number, row in enumerate(rows, start=1)]
    vectors = [row.get("vector") for row in rows]
    _check_widths(np.array([len(vector) if isinstance(vector, list) else 0 for vector in vectors]), file)
    try:
        return texts, np.array(vectors, np.float32)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{KEY}: expected lists of numbers as vector in {str(file)!r}, got others ({error}); correct them"
        ) from None


def _text(row: dict[str, Any], number: int, file: Path) -> str:
    """Return the text of a row as the data step reads it."""
    text = row.get("text")
    if not isinstance(text, str):
        raise UserError(f"{KEY}: expected a text in the column text of {str(file)!r}, got {text!r} in row {number}")
    return clean_text(text)


def _check_widths(lengths: np.ndarray, file: Path) -> None:
    """Refuse vectors that are not as wide as the first."""
    width = int(lengths[0]) if len(lengths) else 0
    other = np.flatnonzero(lengths != width)
    if not width or len(other):
        row = int(other[0]) if len(other) else 0
        raise UserError(
            f"{KEY}: expected vectors of one width in {str(file)!r}, {width or 'above 0'} as in row 1, got "
            f"{int(lengths[row]) if len(lengths) else 0} in row {row + 1}; one model makes vectors of one width"
        )


def _check_numbers(texts: list[str], values: np.ndarray, file: Path) -> None:
    """Refuse vectors that point nowhere."""
    broken: list[int] = []
    for start in range(0, len(values), CHECKED_ROWS):
        lengths = np.linalg.norm(np.asarray(values[start : start + CHECKED_ROWS], np.float32), axis=1)
        broken += [start + int(row) for row in np.flatnonzero(~np.isfinite(lengths) | (lengths == 0.0))]
    if broken:
        names = ", ".join(f"{row + 1} ({texts[row][:40]!r})" for row in broken[:3])
        raise UserError(
            f"{KEY}: expected finite vectors other than zero in {str(file)!r}, got NaN, infinite ones or zeros in "
            f"{len(broken):,} of {len(values):,} rows: {names}; embed these texts again"
        )


def _cosine(first: np.ndarray, second: np.ndarray) -> float:
    """Return the cosine of two vectors."""
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    return float(first @ second / (np.linalg.norm(first) * np.linalg.norm(second)))
