"""Documents of several kinds, each held out for itself, read in one mixed order."""

import operator
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np

from kdkit.config.language import DataConfig
from kdkit.data.text.corpora import Corpus, load_corpus, split_documents
from kdkit.data.text.documents import Documents
from kdkit.errors import UserError
from kdkit.runs.folder import fingerprint


class MixedDocuments(Sequence[str]):
    """Documents of several kinds in a mixed order, read from the disk one by one."""

    def __init__(self, parts: list[Documents], places: np.ndarray):
        """Take the documents of each kind.

        Args:
            places: int64, `[num_documents, 2]`: kind and number in its part of each document, in the order of reading.
        """
        self.parts, self.places = parts, places

    @classmethod
    def shuffled(cls, parts: list[Documents], seed: int) -> "MixedDocuments":
        """Mix the documents of all kinds; those of a kind stay in their order."""
        kinds = [kind for kind, part in enumerate(parts) for _ in part]
        random.Random(seed).shuffle(kinds)
        return cls(parts, _number(np.array(kinds, np.int64)))

    @property
    def kinds(self) -> np.ndarray:
        """int64, `[num_documents]`: the kind of each document."""
        return self.places[:, 0]

    @property
    def num_characters(self) -> np.ndarray:
        """int64, `[num_documents]`: characters of each document."""
        sizes = np.zeros(len(self), np.int64)
        for kind, part in enumerate(self.parts):
            chosen = self.kinds == kind
            sizes[chosen] = part.num_characters[self.places[chosen, 1]]
        return sizes

    def select(self, rows: np.ndarray) -> "MixedDocuments":
        """Return some of the documents, given their numbers or a mask."""
        return MixedDocuments(self.parts, self.places[rows])

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, item: int) -> str: ...

    @overload
    def __getitem__(self, item: slice) -> list[str]: ...

    def __getitem__(self, item: int | slice) -> str | list[str]:
        if isinstance(item, slice):
            return list(MixedDocuments(self.parts, self.places[item]))
        kind, number = self.places[item].tolist()
        return self.parts[kind][number]

    def __iter__(self) -> Iterator[str]:
        return (self.parts[kind][number] for kind, number in self.places.tolist())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(map(operator.eq, self, other))

    __hash__ = None


def load_corpora(config: DataConfig, cache_path: Path) -> dict[str, Corpus]:
    """Read the documents of every kind that `data.sources` names.

    Raises:
        UserError: see `load_corpus`; two kinds of the same text.
    """
    corpora = {
        kind: load_corpus(config.model_copy(update={"path": path}), cache_path) for kind, path in config.sources.items()
    }
    seen: dict[str, str] = {}
    for kind, corpus in corpora.items():
        if (before := seen.setdefault(corpus.fingerprint, kind)) != kind:
            raise UserError(
                f"data.sources: expected other text for every kind, got the same for {before!r} and {kind!r}; "
                "correct one of the paths"
            )
    return corpora


def join_corpora(corpora: dict[str, Corpus]) -> Corpus:
    """Return all kinds as one corpus; its documents are not yet mixed.

    Raises:
        UserError: conversations beside text.
    """
    parts = [corpus.documents for corpus in corpora.values()]
    if len({corpus.is_chat for corpus in corpora.values()}) > 1:
        chats = ", ".join(kind for kind, corpus in corpora.items() if corpus.is_chat)
        raise UserError(
            f"data.sources: expected conversations or text, got both ({chats}: conversations); set data.format=text, "
            "or leave one of them out"
        )
    kinds = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    return Corpus(
        documents=MixedDocuments(parts, _number(kinds)),
        source=", ".join(f"{kind}: {corpus.source}" for kind, corpus in corpora.items()),
        fingerprint=join_fingerprints(kinds_of := {kind: corpus.fingerprint for kind, corpus in corpora.items()}),
        num_duplicates=sum(corpus.num_duplicates for corpus in corpora.values()),
        files_left_out=sum(corpus.files_left_out for corpus in corpora.values()),
        kinds=kinds_of,
        is_chat=any(corpus.is_chat for corpus in corpora.values()),
        has_problems=all(corpus.has_problems for corpus in corpora.values()),
        rows_left_out=dict(sum((Counter(corpus.rows_left_out) for corpus in corpora.values()), Counter())),
    )


def join_fingerprints(of_kinds: dict[str, str]) -> str:
    """Fingerprint a corpus of several kinds by those of its kinds."""
    return fingerprint(list(of_kinds.items()))


def split_kinds(documents: MixedDocuments, evaluation_fraction: float, seed: int) -> tuple[MixedDocuments, ...]:
    """Hold out documents of every kind: what is held out of one does not depend on which others there are.

    Raises:
        UserError: a kind of fewer than two documents; see `split_documents`.
    """
    sides = zip(*(split_documents(part, evaluation_fraction, seed) for part in documents.parts), strict=True)
    return tuple(MixedDocuments.shuffled(list(side), seed) for side in sides)


def _number(kinds: np.ndarray) -> np.ndarray:
    """Number the documents of each kind from 0, in their order, int64, `[num_documents, 2]`."""
    numbers = np.zeros(len(kinds), np.int64)
    for kind in np.unique(kinds):
        numbers[kinds == kind] = np.arange((kinds == kind).sum())
    return np.column_stack([kinds, numbers])
