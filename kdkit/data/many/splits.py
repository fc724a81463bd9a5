"""Both splits of a corpus: documents to train on, and documents that are held out."""

from dataclasses import dataclass

import numpy as np

from kdkit.config.language import DataConfig
from kdkit.data.conversations import texts_of
from kdkit.data.many.documents import MixedDocuments, split_kinds
from kdkit.data.text.corpora import Corpus, split_documents
from kdkit.data.text.documents import Documents
from kdkit.data.text.duplicates import find_near_copies
from kdkit.data.text.problems import find_repeated
from kdkit.errors import UserError


@dataclass(frozen=True)
class HeldOut:
    """Documents of both splits."""

    train: Documents | MixedDocuments
    evaluation: Documents | MixedDocuments
    near_copies: int
    """Training documents that nearly repeat a held-out one."""

    def count_kinds(self, names: list[str]) -> dict[str, dict[str, int]]:
        """Count documents and characters of every kind."""
        return {
            name: {
                f"{split}_{unit}": int(values[documents.kinds == kind].sum())
                for split, documents in (("train", self.train), ("evaluation", self.evaluation))
                for unit, values in (
                    ("documents", np.ones(len(documents), int)),
                    ("characters", documents.num_characters),
                )
            }
            for kind, name in enumerate(names)
        }


def hold_out(data: DataConfig, corpus: Corpus, held_out: Corpus | None, seed: int) -> HeldOut:
    """Hold documents out, and leave those out of training that nearly repeat them.

    Args:
        held_out: documents of their own to evaluate on; None: a part of the others.

    Raises:
        UserError: see `split_documents`; training text that held-out text repeats all of.
    """
    if held_out is not None:
        train, evaluation = corpus.documents, held_out.documents
    else:
        split = split_kinds if isinstance(corpus.documents, MixedDocuments) else split_documents
        train, evaluation = split(corpus.documents, data.evaluation_fraction, seed)
    train, near_copies = _remove_near_copies(data, train, evaluation, corpus)
    return HeldOut(train, evaluation, near_copies)


def _remove_near_copies(
    data: DataConfig, train: Documents, evaluation: Documents, corpus: Corpus
) -> tuple[Documents, int]:
    """Count the training documents that are near-copies of held-out ones, and leave them out unless asked not to."""
    print(f"data: comparing {len(train):,} training documents with {len(evaluation):,} held-out ones", flush=True)
    if corpus.has_problems:
        is_copy = find_repeated(evaluation, train)
    else:
        is_copy = find_near_copies(*(texts_of(documents, corpus.is_chat) for documents in (evaluation, train)))
    count = int(is_copy.sum())
    if count:
        what = "left out" if data.near_duplicates == "remove" else "kept (data.near_duplicates=keep)"
        print(f"data: {count} training document(s) nearly repeat a held-out one: {what}", flush=True)
    if data.near_duplicates == "keep":
        return train, count
    if count == len(train):
        raise UserError(
            f"data.path: expected training text that held-out text does not repeat, got {count} documents which all "
            "nearly do; give other text, or set data.near_duplicates=keep"
        )
    return train.select(~is_copy), count
