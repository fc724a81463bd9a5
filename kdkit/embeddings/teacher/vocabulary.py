"""A vector for every token of the teacher's vocabulary, read alone, and the static student that is made of them.

Sources: model2vec (tokens read alone, principal components, weights by Zipf's law); tokenlearn and SIF (Arora et al.
2017, "A simple but tough-to-beat baseline for sentence embeddings": weights a / (a + p) with counted frequencies).
"""

from pathlib import Path

import numpy as np
import torch

from kdkit.config.embeddings import EmbeddingConfig, StaticConfig
from kdkit.embeddings.data.prepare import SentenceData
from kdkit.embeddings.models.embedder import EmbeddingModel, encode_ids, fingerprint_model, tokenize
from kdkit.embeddings.models.pooling import Reading
from kdkit.embeddings.models.static import TokenTable
from kdkit.embeddings.teacher.probe import load_teacher
from kdkit.errors import UserError
from kdkit.machine.session import Session
from kdkit.runs.folder import cached_folder, fingerprint

FORMAT = 1
"""Raise it when the stored vectors change their meaning."""
FILE = "vectors.npy"
BATCH = 512
"""Tokens that the teacher reads at once."""


def make_static_student(session: Session[EmbeddingConfig], data: SentenceData) -> EmbeddingModel:
    """Make a static student of the teacher's token vectors, on the CPU, in evaluation mode.

    Raises:
        UserError: a width beyond the teacher's.
    """
    settings = session.config.student.static
    vectors = read_vocabulary(session)
    if settings.width > vectors.shape[1]:
        raise UserError(
            f"student.static.width: expected at most the teacher's {vectors.shape[1]}, got {settings.width}; lower it"
        )
    ids = np.concatenate([np.asarray(text, np.int64) for text in data.student_tokens])
    rows = token_rows(vectors, np.bincount(ids, minlength=len(vectors)), settings)
    reading = Reading(pooling="mean", normalize=True, max_length=session.config.data.max_length)
    return EmbeddingModel(TokenTable(torch.from_numpy(rows)), data.student_tokenizer, reading).eval()


def token_rows(vectors: np.ndarray, counts: np.ndarray, settings: StaticConfig) -> np.ndarray:
    """Turn vectors of tokens into the rows of a table: principal components, weighted by how rare a token is.

    Args:
        vectors: `[V, H]`, the teacher's vector of each token.
        counts: int, `[V]`: how often each stands in the training sentences.

    Returns:
        fp32, `[V, settings.width]`.
    """
    size = len(vectors)
    equal = np.full(size, 1 / size)
    ranks = 1 / np.arange(2, size + 2)  # ids of most vocabularies are sorted by frequency
    counted = (counts + 1) / (counts.sum() + size)
    shares = {"corpus": counted, "zipf": ranks / ranks.sum(), "none": equal}[settings.frequencies]
    # directions in which the tokens differ that are read, not the thousands that hardly ever are
    centred_by = counted if settings.frequencies == "corpus" else equal
    centred = vectors.astype(np.float64) - centred_by @ vectors
    _, directions = np.linalg.eigh((centred * centred_by[:, None]).T @ centred)
    rows = centred @ directions[:, ::-1][:, : settings.width]
    if settings.frequencies != "none":
        rows *= (settings.rarity / (settings.rarity + shares))[:, None]
    return rows.astype(np.float32)


def read_vocabulary(session: Session[EmbeddingConfig]) -> np.ndarray:
    """Return the teacher's vector of each token between its special tokens, read once and kept: fp32, `[V, H]`."""
    teacher = session.config.teacher
    model = fingerprint_model(teacher.path, teacher.revision, "teacher.path")
    key = fingerprint(FORMAT, model, teacher.pooling)
    folder = cached_folder(session.run.cache_path / "vocabularies", key, lambda path: _read(session, path))
    return np.load(folder / FILE)


def _read(session: Session[EmbeddingConfig], folder: Path) -> None:
    """Fill a folder with the vectors."""
    model = load_teacher(session.config, session.hardware)
    (framed,) = tokenize(model.tokenizer, ["a"], model.reading.max_length)
    (plain,) = model.tokenizer(["a"], add_special_tokens=False).input_ids
    start = next(place for place in range(len(framed)) if framed[place : place + len(plain)] == plain)
    before, after = framed[:start], framed[start + len(plain) :]
    ids = [[*before, token, *after] for token in range(len(model.tokenizer))]
    np.save(folder / FILE, encode_ids(model, ids, BATCH, autocast_dtype=session.hardware.autocast_dtype))
