"""Batches of late interaction: the token states of queries and documents, and the teacher's scores of all pairs."""

import numpy as np
import torch
import torch.nn.functional as F

from kdkit.embeddings.data.prepare import SentenceData
from kdkit.embeddings.methods.base import SentenceMethod
from kdkit.embeddings.methods.late_interaction import LateViews
from kdkit.embeddings.models.embedder import EmbeddingModel, batches_by_length
from kdkit.embeddings.models.late import LateReading, Role
from kdkit.embeddings.models.token_vectors import role_batch, role_ids
from kdkit.embeddings.teacher.answers import CachedTeacher, LiveTeacher
from kdkit.embeddings.teacher.lists import RankingLists

PARTS = 4
"""Parts in which the texts of a batch are read."""


def make_late_views(
    student: EmbeddingModel,
    method: SentenceMethod,
    data: SentenceData,
    teacher: CachedTeacher | LiveTeacher,
    rows: np.ndarray,
    lists: RankingLists | None,
) -> LateViews:
    """Compute the student's token states and the teacher's scores for some training rows.

    The documents are the partners of all rows and, with `lists`, their hard negatives, each of them once. The teacher's
    scores are MaxSim where it has token vectors, else its cosines; a cross-encoder's are known for each row's own list
    only.

    Args:
        rows: int, `[B]`: training rows, which have partners.
    """
    first, partners = data.rows[rows], data.second[rows]
    listed = None if lists is None else lists.texts[rows]
    documents = np.unique(partners if listed is None else np.concatenate([partners, listed.ravel()]))
    queries, query_mask, query_counts = read_tokens(student, data, first, "query", method.late)
    states, mask, counts = read_tokens(student, data, documents, "document", method.late)
    vectors = teacher.view(np.concatenate([first, documents]).tolist(), student.device).pooled
    if lists is not None and lists.is_crossed:
        found = np.full((len(rows), len(documents)), np.nan, np.float32)
        known = ~np.isnan(lists.scores[rows])
        found[known.nonzero()[0], np.searchsorted(documents, listed[known])] = lists.scores[rows][known]
        scores = torch.from_numpy(found).to(student.device)
    elif isinstance(teacher, CachedTeacher) and teacher.tokens is not None:
        scores = teacher.tokens.score(first, documents, student.device, mean=method.late.mean)
    else:
        with torch.autocast(vectors.device.type, enabled=False):
            scores = vectors[: len(rows)] @ vectors[len(rows) :].mT
    same = first[:, None] == first  # partners of one query are no negatives of each other
    owned = (partners[:, None] == documents).astype(np.int64)
    left_out = (same.astype(np.int64) @ owned > 0) | (documents == first[:, None])
    return LateViews(
        queries=queries,
        query_counts=query_counts,
        documents=states,
        document_counts=counts,
        query_mask=query_mask,
        document_mask=mask,
        partner=torch.from_numpy(np.searchsorted(documents, partners)).to(student.device),
        left_out=torch.from_numpy(left_out).to(student.device),
        teacher_scores=scores,
        teacher_vectors=vectors,
    )


def read_tokens(
    student: EmbeddingModel, data: SentenceData, texts: np.ndarray, role: Role, late: LateReading
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return token states of texts in a role, `[B, S, H]` with gradient, which of them are seen, and which count.

    They are read in parts of about equal length, so that little is computed for padding; queries that are filled up are
    all equally long.
    """
    ids = role_ids(student.tokenizer, [data.texts[text] for text in texts], role, late)
    number = 1 if role == "query" and late.expansion else PARTS
    parts = list(batches_by_length(ids, -(-len(ids) // number)))
    batches = [role_batch(student.tokenizer, [ids[row] for row in rows], role, late) for rows in parts]
    width = max(batch.counts.shape[1] for batch in batches)
    states, masks, counts = [], [], []
    for batch in (batch.to(student.device) for batch in batches):
        output = student.backbone(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
        missing = width - batch.counts.shape[1]
        states.append(F.pad(output.last_hidden_state, (0, 0, 0, missing)))
        masks.append(F.pad(batch.attention_mask, (0, missing)))
        counts.append(F.pad(batch.counts, (0, missing)))
    back = torch.from_numpy(np.argsort(np.concatenate(parts))).to(student.device)
    return torch.cat(states)[back], torch.cat(masks)[back], torch.cat(counts)[back]
