"""Lists of documents for the sentences of a training: the row's partner, hard negatives, and the teacher's scores.

Negatives are partners of other rows that the embedding teacher finds near a row's sentence. One that it finds nearly as
near as the partner is taken for a partner that nobody has marked, and dropped.

Source of that rule: NV-Retriever, arXiv 2407.15831, the percentage of the positive's score (TopK-PercPos).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from kdkit.config.embeddings import EmbeddingConfig, NegativesConfig
from kdkit.embeddings.data.prepare import SentenceData
from kdkit.embeddings.teacher.answers import CachedTeacher, LiveTeacher
from kdkit.embeddings.teacher.cross_encoder import score_pairs
from kdkit.embeddings.teacher.token_store import damaged
from kdkit.errors import UserError
from kdkit.machine.session import Session
from kdkit.runs.folder import cached_folder, fingerprint

ROW_BLOCK = 128
"""Rows that are compared with all documents at once: 50 MB for 100,000 of them, and twice that for their order."""
COSINE_BLOCK = 4096
"""Rows whose lists' vectors are held at once."""
NOTHING = -1
"""No document, where a row has fewer negatives than others."""


@dataclass(frozen=True)
class RankingLists:
    """A list of documents for every training row."""

    texts: np.ndarray
    """int64, `[rows, 1 + negatives]`: number of each document's text, the row's partner first; a place without a
    document repeats the partner."""
    scores: np.ndarray
    """fp32, the same shape: the teacher's scores, spread like its cosines; NaN where there is no document."""
    is_crossed: bool = False
    """Whether the scores are those of a cross-encoder."""

    def scores_of(self, rows: np.ndarray, device: torch.device) -> torch.Tensor:
        """Return the scores of some rows: fp32, `[B, 1 + negatives]`."""
        return torch.from_numpy(self.scores[rows]).to(device)


def open_lists(
    session: Session[EmbeddingConfig], data: SentenceData, teacher: CachedTeacher | LiveTeacher
) -> tuple[RankingLists, dict[str, Any]]:
    """Mine the negatives of all training rows and score the lists.

    Without partners (`data.positives: dropout`) a sentence's partner is itself, and the lists are its neighbours.

    Returns:
        The lists, and the facts `documents`, `negatives_per_row`, `rows_with_fewer`, `dropped_per_row` (documents too
        near to be called negative) and `scorer`.

    Raises:
        UserError: no row has a negative; see `score_pairs`.
    """
    settings = session.config.data.negatives
    partners = data.rows if data.second is None else data.second
    negatives, dropped = mine_negatives(teacher.vectors, data.rows, partners, settings, session.config.seed)
    if (negatives == NOTHING).all():
        raise UserError(
            f"data.negatives: expected documents below (1 - margin) of the partner's similarity, got none for any of "
            f"{len(data.rows)} rows; lower data.negatives.margin, or give more sentences"
        )
    is_there = np.concatenate([np.ones((len(partners), 1), bool), negatives != NOTHING], axis=1)
    texts = np.where(is_there, np.concatenate([partners[:, None], negatives], axis=1), partners[:, None])
    cosines = _cosines(teacher.vectors, data.rows, texts)
    path = session.config.teacher.cross_encoder
    scores = cosines if path is None else _cross_scores(session, data, texts, cosines, is_there)
    facts = {
        "documents": len(np.unique(partners)),
        "negatives_per_row": round(float((negatives != NOTHING).sum(axis=1).mean()), 3),
        "rows_with_fewer": int((negatives == NOTHING).any(axis=1).sum()),
        "dropped_per_row": round(dropped / len(data.rows), 3),
        "scorer": path or "the embedding teacher's cosines",
    }
    return RankingLists(texts, np.where(is_there, scores, np.float32("nan")), path is not None), facts


def mine_negatives(
    vectors: np.ndarray, rows: np.ndarray, partners: np.ndarray, settings: NegativesConfig, seed: int
) -> tuple[np.ndarray, int]:
    """Choose the documents nearest to each row's sentence that are no partners of it and not nearly as near as its own.

    Args:
        vectors: `[texts, H]`, of length 1.
        rows: int, `[rows]`: text of each row.
        partners: int, `[rows]`: text of its partner; all of them are the documents to choose from.

    Returns:
        int64, `[rows, settings.number]`, the nearest first, -1 where there are fewer; and how many documents were
        dropped for being too near, over all rows.
    """
    generator = np.random.default_rng(seed)
    documents = np.unique(partners)
    if len(documents) > settings.pool:
        documents = np.sort(generator.choice(documents, settings.pool, replace=False))
    searched = vectors[documents]
    order = np.argsort(rows, kind="stable")
    owners = rows[order]  # rows of one sentence stand together: each other's partners are no negatives
    negatives, dropped = np.full((len(rows), settings.number), NOTHING), 0
    keep = min(settings.number, len(documents))
    for start in range(0, len(rows), ROW_BLOCK):
        block = np.arange(start, min(start + ROW_BLOCK, len(rows)))
        similarity = vectors[rows[block]] @ searched.T
        own = np.einsum("rh,rh->r", vectors[rows[block]], vectors[partners[block]])
        for place, row in enumerate(block):
            first, last = np.searchsorted(owners, rows[row], "left"), np.searchsorted(owners, rows[row], "right")
            known = np.array([rows[row], *partners[order[first:last]]])
            found = np.searchsorted(documents, known).clip(max=len(documents) - 1)
            similarity[place, found[documents[found] == known]] = -np.inf
        too_near = similarity > (own - settings.margin * np.abs(own))[:, None]
        dropped += int(too_near.sum())
        similarity[too_near] = -np.inf
        rank = similarity
        if settings.choose == "random":
            rank = np.where(np.isinf(similarity), -np.inf, generator.random(similarity.shape, np.float32))
        best = np.argpartition(rank, -keep, axis=1)[:, -keep:]  # a whole order would take ten times as long
        values = np.take_along_axis(rank, best, axis=1)
        nearest = np.argsort(-values, axis=1, kind="stable")
        chosen = np.where(np.isinf(values), NOTHING, documents[best])
        negatives[block, :keep] = np.take_along_axis(chosen, nearest, axis=1)
    return negatives, dropped


def _cosines(vectors: np.ndarray, rows: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """Return the cosines of each row's text with the documents of its list, `[rows, L]`: fp32, of the same shape."""
    cosines = np.zeros(texts.shape, np.float32)
    for start in range(0, len(rows), COSINE_BLOCK):
        block = slice(start, start + COSINE_BLOCK)
        cosines[block] = np.einsum("rh,rlh->rl", vectors[rows[block]], vectors[texts[block]])
    return cosines


def _cross_scores(
    session: Session[EmbeddingConfig],
    data: SentenceData,
    texts: np.ndarray,
    cosines: np.ndarray,
    is_there: np.ndarray,
) -> np.ndarray:
    """Score the lists by the cross-encoder, once; its scores are spread like the cosines, which the student's are."""
    pairs = [
        (data.texts[query], data.texts[document])
        for query, row, there in zip(data.rows, texts, is_there, strict=True)
        for document in row[there]
    ]
    settings = session.config.teacher
    key = fingerprint(settings.cross_encoder, settings.cross_encoder_revision, settings.max_length, pairs)
    folder = cached_folder(
        session.run.cache_path / "list_scores",
        key,
        lambda path: np.save(path / "scores.npy", score_pairs(session.config, session.hardware, pairs)),
    )
    scores = np.zeros(texts.shape, np.float32)
    try:
        scores[is_there] = np.load(folder / "scores.npy")
    except (OSError, ValueError, EOFError):  # no array, or one of another length
        raise damaged(folder, "scores of lists") from None
    return scores * (_spread(cosines, is_there) / max(_spread(scores, is_there), 1e-6))


def _spread(scores: np.ndarray, is_there: np.ndarray) -> float:
    """Return the root mean square of the margins between each list's first document and the others."""
    margins = (scores[:, :1] - scores[:, 1:])[is_there[:, 1:]]
    return float(np.sqrt(np.mean(np.square(margins, dtype=np.float64))))
