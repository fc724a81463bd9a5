"""Metrics of rankings against scikit-learn and sentence-transformers' evaluators."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, ndcg_score

from kdkit.embeddings.evaluate.ranking import (
    average_precision_of_lists,
    ndcg_at_k,
    places_of,
    recall_at_k,
    reciprocal_rank,
)


@pytest.fixture
def judged():
    """Random scores without ties, and grades 0 to 3 of which each query has at least one above 0."""
    generator = np.random.default_rng(0)
    scores = generator.normal(size=(20, 40))
    relevance = generator.integers(0, 4, size=scores.shape) * (generator.random(scores.shape) < 0.2)
    relevance[np.arange(20), generator.integers(0, 40, 20)] = 1
    return scores, relevance


@pytest.mark.parametrize("k", [1, 10, 100])
def test_ndcg_is_that_of_scikit_learn(judged, k):
    scores, relevance = judged
    expected = [ndcg_score(g[None], s[None], k=k) for s, g in zip(scores, relevance, strict=True)]
    np.testing.assert_allclose(ndcg_at_k(scores, relevance, k), expected, atol=1e-12)


def test_average_precision_is_that_of_scikit_learn(judged):
    scores, relevance = judged
    expected = [average_precision_score(g > 0, s) for s, g in zip(scores, relevance, strict=True)]
    np.testing.assert_allclose(average_precision_of_lists(scores, relevance), expected, atol=1e-12)


def test_retrieval_is_that_of_sentence_transformers(judged):
    evaluation = pytest.importorskip("sentence_transformers.evaluation", reason="needs sentence-transformers")
    scores, relevance = judged
    relevance = (relevance > 0).astype(int)  # their evaluator knows no grades
    names = [f"d{column}" for column in range(scores.shape[1])]
    evaluator = evaluation.InformationRetrievalEvaluator(
        {f"q{row}": "" for row in range(len(scores))},
        dict.fromkeys(names, ""),
        {f"q{row}": {names[column] for column in np.flatnonzero(judged)} for row, judged in enumerate(relevance)},
        mrr_at_k=[10],
        ndcg_at_k=[10],
        precision_recall_at_k=[20],
    )
    results = [
        [{"corpus_id": name, "score": float(score)} for name, score in zip(names, row, strict=True)] for row in scores
    ]
    theirs = evaluator.compute_metrics(results)
    assert ndcg_at_k(scores, relevance, 10).mean() == pytest.approx(theirs["ndcg@k"][10], abs=1e-12)
    assert reciprocal_rank(scores, relevance, 10).mean() == pytest.approx(theirs["mrr@k"][10], abs=1e-12)
    assert recall_at_k(scores, relevance, 20).mean() == pytest.approx(theirs["recall@k"][20], abs=1e-12)


def test_of_equal_scores_the_irrelevant_ones_come_first():
    relevance = np.array([[0, 2, 1, 0]])
    assert places_of(np.zeros(4), np.array([1, 2]), np.array([2, 1])).tolist() == [4, 3]
    assert reciprocal_rank(np.zeros((1, 4)), relevance)[0] == pytest.approx(1 / 3)
    assert recall_at_k(np.zeros((1, 4)), relevance, 2)[0] == 0.0


def test_places_without_a_document_and_queries_without_a_relevant_one_count_nothing():
    scores = np.array([[0.1, 0.9, -np.inf, -np.inf], [0.5, 0.4, 0.3, 0.2]])
    relevance = np.array([[1, 0, 0, 0], [0, 0, 0, 0]])
    assert reciprocal_rank(scores, relevance).tolist() == [0.5, 0.0]
    assert ndcg_at_k(scores, relevance).tolist() == pytest.approx([1 / np.log2(3), 0.0])
    assert average_precision_of_lists(scores, relevance).tolist() == [0.5, 0.0]
