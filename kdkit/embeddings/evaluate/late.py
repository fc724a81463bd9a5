"""Scores of models with a vector for every token: MaxSim of queries and documents, a block of documents at a time."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from kdkit.config.tasks import RANKED
from kdkit.embeddings.data.tasks import TaskData
from kdkit.embeddings.models.embedder import EmbeddingModel
from kdkit.embeddings.models.token_vectors import encode_tokens, pad_vectors
from kdkit.errors import UserError
from kdkit.losses.ranking.late_interaction import maxsim

DOCUMENT_BLOCK = 256
"""Documents that are filled up to one length together."""


@dataclass(frozen=True)
class TokenVectors:
    """Token vectors of distinct queries and documents; they are found by their texts."""

    queries: dict[str, np.ndarray]
    """fp32, `[T, H]` of each query."""
    documents: dict[str, np.ndarray]
    """fp32, `[T, H]` of each document."""
    mean: bool
    """Whether scores are divided by the number of the query's tokens."""
    device: torch.device
    """Where scores are computed."""

    def score(self, queries: Sequence[str], documents: Sequence[str]) -> np.ndarray:
        """Return MaxSim of all pairs, fp32, `[Q, D]`; documents of about equal length are padded together."""
        asked, counted = (part.to(self.device) for part in pad_vectors([self.queries[text] for text in queries]))
        found = [self.documents[text] for text in documents]
        scores = np.zeros((len(queries), len(found)), np.float32)
        order = np.argsort([len(vectors) for vectors in found], kind="stable")
        for start in range(0, len(order), DOCUMENT_BLOCK):
            block = order[start : start + DOCUMENT_BLOCK]
            values, there = (part.to(self.device) for part in pad_vectors([found[place] for place in block]))
            scores[:, block] = maxsim(asked, values, counted, there, mean=self.mean).cpu().numpy()
        return scores

    def bytes_per_document(self, documents: Sequence[str]) -> float:
        """Return the mean size of the vectors of documents, 4 bytes a number."""
        return float(np.mean([self.documents[text].nbytes for text in documents]))


def check_ranked(tasks: list[TaskData], name: str) -> None:
    """Refuse tasks that a model with a vector for every token cannot do; it is called by its `name`.

    Raises:
        UserError: a task that ranks nothing.
    """
    if others := [data.task for data in tasks if data.task.kind not in RANKED]:
        raise UserError(
            f"evaluate.tasks: expected tasks of kind retrieval or reranking for {name}, which has a vector for every "
            f"token, got {others[0].name!r} of kind {others[0].kind}; leave the task or the model out"
        )


def embed_tokens(
    model: EmbeddingModel, tasks: list[TaskData], name: str, batch_size: int, autocast_dtype: torch.dtype | None
) -> TokenVectors:
    """Encode every distinct query and document of the tasks once, each behind its role's own prompt.

    Raises:
        UserError: see `check_ranked`.
        RuntimeError: the vectors of the model, called by its `name`, are not finite.
    """
    check_ranked(tasks, name)
    found = {}
    for role in ("query", "document"):
        texts = [(data.rankings.queries if role == "query" else data.rankings.documents) for data in tasks]
        distinct = list(dict.fromkeys(text for part in texts for text in part))
        vectors = encode_tokens(model, distinct, role, batch_size, autocast_dtype=autocast_dtype)
        if not all(np.isfinite(part).all() for part in vectors):
            raise RuntimeError(
                f"{name}: expected finite token vectors, got NaN or infinite ones; its training diverged"
            )
        found[role] = dict(zip(distinct, vectors, strict=True))
    return TokenVectors(found["query"], found["document"], model.reading.late.mean, model.device)
