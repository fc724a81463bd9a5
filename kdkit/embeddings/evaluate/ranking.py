"""Metrics of rankings, as functions of arrays: nDCG, reciprocal rank, recall and average precision, 0 to 1 per query.

Q queries, D documents; `scores` and `relevance` are `[Q, D]`. Relevance is a grade of at least 0, and 0 is irrelevant.
Of documents with equal scores the less relevant ones come first, the worst order there is: a model that gives every
document one score earns nothing by it. A score of -inf is a place without a document. A query without a relevant
document has nothing to be found, its figures are 0: leave it out before an average.

All figures follow from the places of the relevant documents, so that a search over many documents needs to keep
nothing else: see `places_of`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kdkit.embeddings.data.retrieval import NONE, Rankings

QUERY_BLOCK = 64
"""Queries whose scores of all documents are held at once: 26 MB for 100,000 documents."""
FIRST, LAST = 10, 100
"""Documents that nDCG and the reciprocal rank look at, and recall."""


@dataclass(frozen=True)
class Figures:
    """Figures of each query, 0 to 1, `[queries]`."""

    ndcg: np.ndarray
    """nDCG@10."""
    reciprocal_rank: np.ndarray
    """1 / place of the first relevant document among the first 10."""
    recall: np.ndarray
    """Share of the relevant documents among the first 100."""
    average_precision: np.ndarray


Score = Callable[[slice, np.ndarray | slice], np.ndarray]
"""Scores, `[Q, D]`, of some queries and documents, given by their places."""


def rank(rankings: Rankings, queries: np.ndarray, documents: np.ndarray) -> Figures:
    """Rank documents by their dot product with each query.

    Args:
        queries: `[queries, H]`.
        documents: `[documents, H]`.
    """
    return rank_by(rankings, lambda asked, found: queries[asked] @ documents[found].T)


def rank_by(rankings: Rankings, score: Score) -> Figures:
    """Rank documents by their scores, a block of queries at a time."""
    results = []
    for start in range(0, len(rankings.queries), QUERY_BLOCK):
        block = range(start, min(start + QUERY_BLOCK, len(rankings.queries)))
        scores = score(slice(block.start, block.stop), slice(None)) if rankings.candidates is None else None
        for query in block:
            found, grades = rankings.relevant[query], rankings.grades[query]
            if rankings.candidates is None:
                row = scores[query - start]
                if rankings.left_out[query] != NONE:
                    row[rankings.left_out[query]] = -np.inf
            else:
                own = rankings.candidates[query]
                row = score(slice(query, query + 1), own)[0]
                found = np.flatnonzero(np.isin(own, found))
            places = places_of(row, found, grades)
            first = ndcg_of_places(places, grades, FIRST), reciprocal_of_places(places, FIRST)
            results.append((*first, recall_of_places(places, LAST), average_precision_of_places(places)))
    return Figures(*np.array(results, dtype=np.float64).T)


def ndcg_at_k(scores: np.ndarray, relevance: np.ndarray, k: int = 10) -> np.ndarray:
    """Return the discounted gain of the first k over that of the best order, `[Q]`; the gain is the grade itself.

    Source: Jarvelin & Kekalainen 2002, with the linear gain of trec_eval, BEIR and scikit-learn's `ndcg_score`.
    """
    return _per_query(lambda places, grades: ndcg_of_places(places, grades, k), scores, relevance)


def reciprocal_rank(scores: np.ndarray, relevance: np.ndarray, k: int = 10) -> np.ndarray:
    """Return 1 / place of the first relevant document, `[Q]`; 0 where it is not among the first k."""
    return _per_query(lambda places, _: reciprocal_of_places(places, k), scores, relevance)


def recall_at_k(scores: np.ndarray, relevance: np.ndarray, k: int) -> np.ndarray:
    """Return the share of the relevant documents that are among the first k, `[Q]`."""
    return _per_query(lambda places, _: recall_of_places(places, k), scores, relevance)


def average_precision_of_lists(scores: np.ndarray, relevance: np.ndarray) -> np.ndarray:
    """Return the mean of the precision at each relevant document, `[Q]`; their mean is MAP."""
    return _per_query(lambda places, _: average_precision_of_places(places), scores, relevance)


def places_of(scores: np.ndarray, found: np.ndarray, grades: np.ndarray) -> np.ndarray:
    """Return the places, from 1, of one query's relevant documents among all.

    Args:
        scores: of all documents, `[D]`.
        found: int, `[R]`: which of them are relevant.
        grades: of those, `[R]`, above 0; all other documents have grade 0.

    Returns:
        int64, `[R]`, in the order of `found`.
    """
    own = scores[found]
    order = np.lexsort((grades, -own))  # by score, and where it is equal the lower grade first
    others = np.delete(scores, found)
    # irrelevant ones that score as much or more, counted: to sort 100,000 documents takes far longer
    ahead = np.array([np.count_nonzero(others >= score) for score in own], dtype=np.int64)
    places = np.empty(len(found), dtype=np.int64)
    places[order] = np.arange(1, len(found) + 1) + ahead[order]
    return places


def ndcg_of_places(places: np.ndarray, grades: np.ndarray, k: int) -> float:
    """Return nDCG@k of one query from the places and grades of its relevant documents, `[R]` each."""
    ideal = np.sort(grades)[::-1][:k]
    best = float((ideal / np.log2(np.arange(2, len(ideal) + 2))).sum())
    gained = float((grades / np.log2(places + 1.0))[places <= k].sum())
    return gained / best if best else 0.0


def reciprocal_of_places(places: np.ndarray, k: int) -> float:
    """Return the reciprocal rank of one query from the places of its relevant documents, `[R]`."""
    first = places.min(initial=k + 1)
    return 1.0 / float(first) if first <= k else 0.0


def recall_of_places(places: np.ndarray, k: int) -> float:
    """Return recall@k of one query from the places of its relevant documents, `[R]`."""
    return float((places <= k).mean()) if len(places) else 0.0


def average_precision_of_places(places: np.ndarray) -> float:
    """Return the average precision of one query from the places of its relevant documents, `[R]`."""
    ranks = np.sort(places)
    return float((np.arange(1, len(ranks) + 1) / ranks).mean()) if len(ranks) else 0.0


def _per_query(
    figure: Callable[[np.ndarray, np.ndarray], float], scores: np.ndarray, relevance: np.ndarray
) -> np.ndarray:
    """Compute a figure of places and grades for every query, `[Q]`."""
    results = []
    for row, judged in zip(np.asarray(scores), np.asarray(relevance), strict=True):
        found = np.flatnonzero(judged > 0)
        results.append(figure(places_of(row, found, judged[found]), judged[found]))
    return np.array(results, dtype=np.float64)
