"""Documents on disk, read one by one: a corpus may be larger than memory."""

import hashlib
import json
import operator
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import overload

import numpy as np


class Documents(Sequence[str]):
    """Distinct, non-empty texts in a file, one JSON string a line."""

    def __init__(self, folder: Path, places: np.ndarray | None = None):
        """Open the folder that `write_documents` filled.

        Args:
            places: int64, `[num_documents, 3]`, of those wanted: first byte, bytes of the line, characters; None: all.
        """
        self.folder = folder
        self.places = np.load(folder / "index.npy") if places is None else places

    @property
    def num_characters(self) -> np.ndarray:
        """int64, `[num_documents]`: characters of each document."""
        return self.places[:, 2]

    def select(self, rows: np.ndarray) -> "Documents":
        """Return some of the documents, given their numbers or a mask."""
        return Documents(self.folder, self.places[rows])

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, item: int) -> str: ...

    @overload
    def __getitem__(self, item: slice) -> list[str]: ...

    def __getitem__(self, item: int | slice) -> str | list[str]:
        if isinstance(item, slice):
            return list(Documents(self.folder, self.places[item]))
        return next(iter(Documents(self.folder, self.places[item][None])))

    def __iter__(self) -> Iterator[str]:
        with (self.folder / "documents.jsonl").open("rb") as file:
            for start, size, _ in map(np.ndarray.tolist, self.places):
                file.seek(start)
                yield json.loads(file.read(size))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(map(operator.eq, self, other))

    __hash__ = None


class DocumentWriter(AbstractContextManager):
    """Writes the folder that `Documents` opens; whole once the `with` block is left."""

    def __init__(self, folder: Path):
        """Start with no documents."""
        self.folder, self._index, self._place = folder, array("q"), 0
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / "documents.jsonl").open("wb")

    def add(self, text: str) -> None:
        """Write a document."""
        line = json.dumps(text, ensure_ascii=False).encode() + b"\n"
        self._index.extend((self._place, len(line), len(text)))
        self._place += self._file.write(line)

    def __exit__(self, *_: object) -> None:
        self._file.close()
        np.save(self.folder / "index.npy", np.array(self._index, np.int64).reshape(-1, 3))


def write_documents(folder: Path, texts: Iterable[str]) -> tuple[int, int, str]:
    """Write distinct non-empty texts.

    Returns:
        The number of documents, the number of texts left out because they are exactly another one, and a fingerprint
        of all that was written.
    """
    seen: set[bytes] = set()
    num_duplicates, digest = 0, hashlib.sha256()
    with DocumentWriter(folder) as writer:
        for text in texts:
            text = clean_text(text).strip()
            key = hashlib.sha256(text.encode()).digest()
            if not text or key[:16] in seen:
                num_duplicates += bool(text)
                continue
            seen.add(key[:16])
            digest.update(key)
            writer.add(text)
    return len(seen), num_duplicates, digest.hexdigest()[:16]


def clean_text(text: str) -> str:
    """Replace lone surrogates, which no tokenizer and no UTF-8 file can hold, by U+FFFD."""
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
