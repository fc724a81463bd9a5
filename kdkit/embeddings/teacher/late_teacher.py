"""A teacher with a vector for every token, asked once for those of all queries and documents of a training."""

from functools import partial
from pathlib import Path

import numpy as np

from kdkit.config.embeddings import EmbeddingConfig
from kdkit.embeddings.data.prepare import SentenceData
from kdkit.embeddings.models.late import Role
from kdkit.embeddings.models.token_vectors import encode_tokens
from kdkit.embeddings.teacher.cache import describe_answers
from kdkit.embeddings.teacher.probe import load_teacher
from kdkit.embeddings.teacher.token_store import TokenStore, open_tokens
from kdkit.errors import UserError
from kdkit.machine.session import Session
from kdkit.runs.folder import cached_folder, fingerprint

CHUNK_TEXTS = 1024
"""Texts that are encoded before they are written."""
ROLES: tuple[Role, Role] = ("query", "document")


def open_token_store(session: Session[EmbeddingConfig], data: SentenceData) -> TokenStore:
    """Return the teacher's token vectors of all training rows, from the cache or from the teacher.

    Raises:
        UserError: `teacher.cache: false`.
    """
    if not session.config.teacher.cache:
        raise UserError(
            "teacher.cache: expected true for a teacher with a vector for every token, got false; set "
            "teacher.cache=true"
        )
    texts: dict[Role, np.ndarray] = {"query": np.unique(data.rows), "document": np.unique(data.second)}
    key = fingerprint("token vectors", describe_answers(session, data), data.key)  # texts are named by their numbers
    folder = cached_folder(session.run.cache_path / "token_vectors", key, partial(_build, session, data, texts))
    return TokenStore(*(open_tokens(folder, role) for role in ROLES))


def _build(session: Session[EmbeddingConfig], data: SentenceData, texts: dict[Role, np.ndarray], folder: Path) -> None:
    """Ask the teacher for the token vectors of the texts of both roles."""
    model = load_teacher(session.config, session.hardware)
    for role, numbers in texts.items():
        print(f"teacher: token vectors of {len(numbers):,} texts as {role}", flush=True)
        lengths: list[int] = []
        with (folder / f"{role}.bin").open("wb") as file:
            for start in range(0, len(numbers), CHUNK_TEXTS):
                chunk = [data.texts[number] for number in numbers[start : start + CHUNK_TEXTS]]
                for vectors in encode_tokens(model, chunk, role, session.config.teacher.batch_size):
                    if not np.isfinite(vectors).all():
                        raise UserError(
                            "teacher.path: expected finite token vectors, got NaN or inf; set train.precision=fp32"
                        )
                    vectors.astype(np.float16).tofile(file)
                    lengths.append(len(vectors))
        np.save(folder / f"{role}_texts.npy", numbers)
        np.save(folder / f"{role}_ends.npy", np.cumsum(lengths, dtype=np.int64))
        np.save(folder / "width.npy", model.width)
