"""Scores of embeddings against scipy, scikit-learn and counting by hand."""

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, average_precision_score, f1_score

from kdkit.embeddings.evaluate.scores import (
    average_precision,
    best_threshold,
    bootstrap,
    cosines,
    decide,
    draw_few,
    full_probe,
    interval,
    n_shot,
    pearson,
    spearman,
)


@pytest.fixture
def draw():
    """Return a generator of random numbers."""
    return np.random.default_rng(0)


@pytest.fixture
def ties(draw):
    """Return similarities and gold scores with ties on both sides."""
    gold = draw.integers(0, 6, 200) / 1.0
    return np.round(gold + draw.normal(0, 2, 200), 1), gold


@pytest.fixture
def pairs(draw):
    """Return similarities, some of them equal, and whether the pairs are related."""
    positives = draw.random(150) < 0.4
    return np.round(draw.normal(positives, 1.0), 1), positives


@pytest.fixture
def clouds(draw):
    """Return vectors around four overlapping centres and their labels: training, then test."""
    centres = draw.normal(0, 1, (4, 6))
    numbers = draw.integers(0, 4, 400)
    vectors = centres[numbers] + draw.normal(0, 1, (400, 6))
    labels = np.array([f"label {number}" for number in numbers])
    return vectors[:300], labels[:300], vectors[300:], labels[300:]


def counts_of(rows, num_rows):
    """Return how often each row was drawn, as weights of one resample."""
    return np.bincount(rows, minlength=num_rows)[None].astype(float)


def test_cosine_is_that_of_the_definition(draw):
    first, second = draw.normal(size=(5, 3)), draw.normal(size=(5, 3))
    expected = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(first, second, strict=True)]
    assert cosines(first, second) == pytest.approx(expected, abs=1e-14)


def test_cosine_of_a_zero_vector_is_zero():
    assert cosines(np.zeros((1, 3)), np.ones((1, 3))) == [0.0]


def test_spearman_is_that_of_scipy_with_ties(ties):
    assert spearman(*ties)[0] == pytest.approx(100 * spearmanr(*ties).statistic, abs=1e-10)


def test_spearman_of_a_resample_is_that_of_its_rows(ties, draw):
    rows = draw.integers(200, size=200)
    expected = 100 * spearmanr(ties[0][rows], ties[1][rows]).statistic
    assert spearman(*ties, counts_of(rows, 200))[0] == pytest.approx(expected, abs=1e-10)


def test_spearman_is_100_for_the_same_order_and_minus_100_for_the_opposite():
    values = np.array([0.1, 0.5, 0.2, 0.9])
    assert spearman(values, np.exp(values))[0] == pytest.approx(100.0)
    assert spearman(values, -values)[0] == pytest.approx(-100.0)


def test_spearman_is_zero_where_all_similarities_are_equal_up_to_rounding():
    similarities = 1.0 + np.array([0.0, 1.2e-7, 0.0, -1.2e-7])
    assert spearman(similarities, np.arange(4.0))[0] == 0.0


def test_spearman_of_a_resample_of_one_row_is_zero(ties):
    assert spearman(*ties, counts_of(np.full(200, 3), 200))[0] == 0.0


def test_pearson_is_that_of_scipy(ties):
    assert pearson(*ties, np.ones((1, 200)))[0] == pytest.approx(100 * pearsonr(*ties).statistic, abs=1e-10)


def test_average_precision_is_that_of_scikit_learn_with_ties(pairs):
    expected = 100 * average_precision_score(pairs[1], pairs[0])
    assert average_precision(*pairs)[0] == pytest.approx(expected, abs=1e-10)


def test_average_precision_of_a_resample_is_that_of_its_rows(pairs, draw):
    rows = draw.integers(150, size=150)
    expected = 100 * average_precision_score(pairs[1][rows], pairs[0][rows])
    assert average_precision(*pairs, counts_of(rows, 150))[0] == pytest.approx(expected, abs=1e-10)


def test_average_precision_of_equal_similarities_is_the_share_of_related_pairs():
    positives = np.array([True, False, False, True, False])
    assert average_precision(np.ones(5), positives)[0] == pytest.approx(40.0)


def test_average_precision_of_a_resample_without_related_pairs_is_zero(pairs):
    row = int(np.flatnonzero(~pairs[1])[0])
    assert average_precision(*pairs, counts_of(np.full(150, row), 150))[0] == 0.0


def test_no_other_threshold_is_more_accurate(pairs):
    similarities, positives = pairs
    found = decide(similarities, positives, best_threshold(similarities, positives)).accuracy
    tried = [np.mean((similarities >= edge) == positives) for edge in np.arange(-5, 5, 0.01)]
    assert found == pytest.approx(100 * max(tried))


def test_threshold_lies_midway_between_the_two_kinds():
    similarities, positives = np.array([0.1, 0.2, 0.6, 0.8]), np.array([False, False, True, True])
    assert best_threshold(similarities, positives) == pytest.approx(0.4)


def test_threshold_between_neighbouring_numbers_tells_them_apart():
    low = np.float64(0.7)
    similarities, positives = np.array([low, np.nextafter(low, 1.0)]), np.array([False, True])
    assert decide(similarities, positives, best_threshold(similarities, positives)).accuracy == 100.0


def test_threshold_calls_none_related_where_that_is_best():
    similarities, positives = np.array([0.9, 0.5, 0.1]), np.array([False, False, True])
    assert best_threshold(similarities, positives) > 0.9


def test_decision_is_scored_by_counting():
    similarities, positives = np.array([0.9, 0.8, 0.7, 0.2]), np.array([True, False, True, True])
    decision = decide(similarities, positives, 0.75)
    assert decision.accuracy == pytest.approx(25.0)
    assert decision.precision == pytest.approx(50.0)
    assert decision.recall == pytest.approx(100 / 3)
    assert decision.f1 == pytest.approx(40.0)


def test_decision_that_finds_nothing_scores_zero():
    decision = decide(np.array([0.1, 0.2]), np.array([True, False]), 0.5)
    assert (decision.accuracy, decision.precision, decision.recall, decision.f1) == (50.0, 0.0, 0.0, 0.0)


def test_full_probe_is_logistic_regression_on_all_texts(clouds):
    train, train_labels, test, test_labels = clouds
    predicted = LogisticRegression(max_iter=1000).fit(train, train_labels).predict(test)
    probe = full_probe(*clouds)
    assert probe.accuracy == pytest.approx(100 * accuracy_score(test_labels, predicted))
    assert probe.macro_f1 == pytest.approx(100 * f1_score(test_labels, predicted, average="macro"))
    assert (probe.deviation, probe.converged) == (0.0, True)


def test_draws_shuffle_one_list_again_and_take_the_first_of_each_label():
    labels, listed = np.array(list("aabbabbbaa")), list(range(10))
    for draw in draw_few(labels, 2):
        np.random.RandomState(42).shuffle(listed)
        first = {label: [row for row in listed if labels[row] == label][:2] for label in "ab"}
        assert sorted(draw) == sorted(first["a"] + first["b"])


def test_ten_draws_differ():
    draws = list(draw_few(np.array(["a", "b"] * 50), 3))
    assert len(draws) == 10
    assert len({tuple(draw) for draw in draws}) == 10


def test_a_label_with_fewer_texts_gives_those_it_has():
    draws = list(draw_few(np.array(["a"] * 30 + ["b"] * 2), 8))
    assert [len(draw) for draw in draws] == [10] * 10


def test_n_shot_is_the_mean_over_draws(clouds):
    train, train_labels, test, test_labels = clouds
    accuracies = []
    for rows in draw_few(train_labels, 4):
        fitted = LogisticRegression(max_iter=100).fit(train[rows], train_labels[rows])
        accuracies.append(100 * accuracy_score(test_labels, fitted.predict(test)))
    probe = n_shot(*clouds, 4)
    assert probe.accuracy == pytest.approx(np.mean(accuracies))
    assert probe.deviation == pytest.approx(np.std(accuracies))
    assert probe.correct.mean() == pytest.approx(probe.accuracy / 100)


def test_a_label_that_only_the_test_has_counts_as_wrong(clouds):
    train, train_labels, test, test_labels = clouds
    unknown = np.where(test_labels == "label 1", "never seen", test_labels)
    right = full_probe(train, train_labels, test, unknown).correct
    assert not right[unknown == "never seen"].any()
    assert right.any()


def test_a_fit_that_ends_too_early_is_reported(clouds, monkeypatch):
    monkeypatch.setattr("kdkit.embeddings.evaluate.scores.PROBE_ITERATIONS", 2)
    assert not full_probe(*clouds).converged


def test_bootstrap_of_a_mean_has_its_standard_error(draw):
    values = draw.normal(0, 1, 400)
    means = bootstrap(lambda weights: weights @ values / 400, 400, 2000, [0])
    assert means.std() == pytest.approx(values.std() / 20, rel=0.05)
    low, high = interval(means)
    assert (low, high) == pytest.approx((values.mean() - 1.96 / 20, values.mean() + 1.96 / 20), abs=0.012)


def test_every_resample_has_as_many_rows_as_the_data():
    assert (bootstrap(lambda weights: weights.sum(axis=1), 7, 50, [1]) == 7).all()


def test_resamples_are_the_same_however_many_are_held_at_once(ties, monkeypatch):
    together = bootstrap(lambda weights: spearman(*ties, weights), 200, 30, [5])
    monkeypatch.setattr("kdkit.embeddings.evaluate.scores.CHUNK_NUMBERS", 1000)
    apart = bootstrap(lambda weights: spearman(*ties, weights), 200, 30, [5])
    assert together == pytest.approx(apart, abs=1e-10)


def test_another_seed_gives_other_resamples(ties):
    first, second = (bootstrap(lambda weights: spearman(*ties, weights), 200, 5, [seed]) for seed in (0, 1))
    assert not np.allclose(first, second)


def test_paired_difference_of_equal_models_is_zero_everywhere(ties):
    first, second = (bootstrap(lambda weights: spearman(*ties, weights), 200, 20, [3]) for _ in range(2))
    assert interval(first - second) == [0.0, 0.0]
