"""Metrics of embeddings, as functions of arrays: rank correlation, linear probes, average precision.

Scores are in percent, 0 to 100 (correlations: -100 to 100). A resample is drawn as how often it takes each row,
`[resamples, rows]`, so that a score of all resamples is the score with these numbers as weights: rows are sorted once,
and two models that are given the same numbers are compared in pairs (Efron & Tibshirani 1993, An Introduction to the
Bootstrap, chapter 13).
"""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, precision_recall_fscore_support

NUM_DRAWS, DRAW_SEED, DRAW_ITERATIONS = 10, 42, 100
"""The n-shot protocol of MTEB (arXiv 2210.07316): draws of texts, their seed, iterations of a fit."""
PROBE_ITERATIONS = 1000
"""Iterations of the probe on all texts: 200, as some use, do not always converge."""
CONFIDENCE = 0.95
CHUNK_NUMBERS = 2_000_000
"""Weights that are held at once while resampling."""
SMALLEST_SPREAD = 1e-6
"""Values that differ by less are equal: what is left is the rounding of fp32."""


@dataclass(frozen=True)
class Probe:
    """Scores of linear classifiers on frozen vectors."""

    accuracy: float
    """Percent of the test texts, the mean over draws."""
    macro_f1: float
    """Mean of the labels' F1, in percent, the mean over draws."""
    deviation: float
    """Standard deviation of the accuracy over draws; 0 for one."""
    correct: np.ndarray
    """`[rows]`: share of the draws that got each test text right."""
    converged: bool
    """Whether every fit ended before its iterations did."""


@dataclass(frozen=True)
class Decision:
    """Scores of classifying pairs by a threshold on their similarity, in percent."""

    threshold: float
    accuracy: float
    f1: float
    precision: float
    recall: float


def cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the cosine of each row of `first` with that of `second`, in fp64; 0 for a zero row.

    Args:
        first: float, `[rows, H]`.
        second: float, `[rows, H]`.

    Returns:
        `[rows]`.
    """
    first, second = first.astype(np.float64), second.astype(np.float64)
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return np.einsum("rd,rd->r", first, second) / np.where(lengths == 0.0, 1.0, lengths)


def is_constant(values: np.ndarray) -> bool:
    """Return whether values, `[rows]`, give no order."""
    return float(np.ptp(values)) < SMALLEST_SPREAD


def spearman(predicted: np.ndarray, gold: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Return 100 times the rank correlation, ties at their mean rank; 0 where either side is constant.

    Args:
        predicted, gold: one number per row, `[rows]`.
        weights: how often each row counts, `[resamples, rows]`; None: once.

    Returns:
        `[resamples]`; `[1]` for None.

    Source: Spearman 1904, as Pearson's correlation of ranks.
    """
    if weights is None:
        weights = np.ones((1, len(gold)))
    if is_constant(predicted) or is_constant(gold):
        return np.zeros(len(weights))
    return pearson(_ranks(predicted, weights), _ranks(gold, weights), weights)


def pearson(predicted: np.ndarray, gold: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return 100 times the weighted correlation; 0 where a side is constant.

    Args:
        predicted, gold: `[rows]` or `[resamples, rows]`.
        weights: how often each row counts, `[resamples, rows]`.

    Returns:
        `[resamples]`.
    """
    total = weights.sum(axis=1, keepdims=True)
    x = predicted - (weights * predicted).sum(axis=1, keepdims=True) / total
    y = gold - (weights * gold).sum(axis=1, keepdims=True) / total
    size = np.sqrt((weights * x * x).sum(axis=1) * (weights * y * y).sum(axis=1))
    covariance = (weights * x * y).sum(axis=1)
    return np.divide(100.0 * covariance, size, out=np.zeros_like(size), where=size > 0.0)


def average_precision(similarities: np.ndarray, positives: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Return 100 times the mean precision at the related pairs, equal similarities entering together.

    Args:
        similarities: one number per pair, `[rows]`.
        positives: whether the pair is related, `[rows]`, at least one.
        weights: how often each pair counts, `[resamples, rows]`; None: once.

    Returns:
        `[resamples]`; `[1]` for None; 0 for a resample without related pairs.

    Source: sum over thresholds of (gain in recall) times precision, as scikit-learn's `average_precision_score`.
    """
    if weights is None:
        weights = np.ones((1, len(positives)))
    order, starts, _ = _groups(-similarities)
    taken = np.cumsum(np.add.reduceat(weights[:, order], starts, axis=1), axis=1)
    found = np.cumsum(np.add.reduceat((weights * positives)[:, order], starts, axis=1), axis=1)
    precision = np.divide(found, taken, out=np.zeros_like(found), where=taken > 0)
    gained = np.diff(found, axis=1, prepend=0.0)
    return 100.0 * (gained * precision).sum(axis=1) / np.maximum(found[:, -1], 1.0)


def best_threshold(similarities: np.ndarray, positives: np.ndarray) -> float:
    """Return the threshold with the highest accuracy: a pair is called related from it upwards.

    The candidates lie midway between neighbouring similarities, below all and above all; of equally good ones the
    highest is taken.
    """
    order, starts, _ = _groups(-similarities)
    found = np.add.reduceat(np.where(positives[order], 1, -1), starts).cumsum()  # gain over calling none related
    levels = similarities[order][starts]
    between = np.maximum((levels[:-1] + levels[1:]) / 2, np.nextafter(levels[1:], np.inf))  # never the lower one itself
    edges = np.concatenate([[levels[0] + 1.0], between, [levels[-1] - 1.0]])
    return float(edges[np.argmax(np.concatenate([[0], found]))])


def decide(similarities: np.ndarray, positives: np.ndarray, threshold: float) -> Decision:
    """Score the decision `similarity >= threshold` against the truth, both `[rows]`; a figure without any case is 0."""
    called = similarities >= threshold
    precision, recall, f1, _ = precision_recall_fscore_support(positives, called, average="binary", zero_division=0.0)
    accuracy = np.mean(called == positives)
    return Decision(threshold, *(100.0 * float(value) for value in (accuracy, f1, precision, recall)))


def full_probe(train: np.ndarray, train_labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray) -> Probe:
    """Fit logistic regression on all training vectors and score the test vectors.

    Args:
        train, test: `[rows, H]`.
        train_labels, test_labels: `[rows]`.

    Raises:
        ValueError: fewer than two training labels (scikit-learn).
    """
    return _probe([np.arange(len(train))], train, train_labels, test, test_labels, PROBE_ITERATIONS)


def n_shot(
    train: np.ndarray, train_labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray, samples_per_label: int
) -> Probe:
    """Fit logistic regression on a few texts per label, ten times, and score all test vectors each time.

    A label with fewer texts gives those it has. Arguments as for `full_probe`.

    Source: MTEB (arXiv 2210.07316) and its reference implementation's order of drawing.
    """
    draws = list(draw_few(train_labels, samples_per_label))
    return _probe(draws, train, train_labels, test, test_labels, DRAW_ITERATIONS)


def draw_few(labels: np.ndarray, samples_per_label: int) -> Iterator[np.ndarray]:
    """Yield ten draws of rows, each with at most so many rows of every label.

    One list of rows is shuffled again for every draw by the same seed; the first rows of each label are taken.
    """
    rows = np.arange(len(labels))
    for _ in range(NUM_DRAWS):
        np.random.RandomState(DRAW_SEED).shuffle(rows)  # the protocol's own generator
        yield np.sort(np.concatenate([rows[labels[rows] == label][:samples_per_label] for label in np.unique(labels)]))


def bootstrap(
    statistic: Callable[[np.ndarray], np.ndarray], num_rows: int, num_samples: int, seed: list[int]
) -> np.ndarray:
    """Return a statistic of weights, `[resamples, rows]`, for resamples of the rows: `[num_samples]`.

    Equal `num_rows` and `seed` (any numbers) give equal resamples: the difference of two models' results is paired.
    """
    generator, results = np.random.default_rng(seed), []
    chunk = max(1, CHUNK_NUMBERS // num_rows)
    for start in range(0, num_samples, chunk):
        size = min(chunk, num_samples - start)
        drawn = generator.integers(num_rows, size=(size, num_rows)) + num_rows * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * num_rows).reshape(size, num_rows)
        results.append(statistic(counts.astype(np.float64)))
    return np.concatenate(results)


def interval(resampled: np.ndarray) -> list[float]:
    """Return the percentile interval: where 95 % of the resamples' values, `[resamples]`, lie."""
    tail = 50.0 * (1.0 - CONFIDENCE)
    return [float(edge) for edge in np.percentile(resampled, [tail, 100.0 - tail])]


def _probe(
    draws: list[np.ndarray],
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray,
    test_labels: np.ndarray,
    max_iterations: int,
) -> Probe:
    """Fit on every draw of training rows and average what the fits get right."""
    hits, f1_scores, converged = [], [], True
    for rows in draws:
        classifier = LogisticRegression(max_iter=max_iterations, random_state=DRAW_SEED)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # reported in the result
            classifier.fit(train[rows], train_labels[rows])
        converged &= bool(classifier.n_iter_.max() < max_iterations)
        predicted = classifier.predict(test)
        hits.append(predicted == test_labels)
        f1_scores.append(f1_score(test_labels, predicted, average="macro", zero_division=0.0))
    correct = np.mean(hits, axis=0)
    deviation = float(np.std(np.mean(hits, axis=1)))
    return Probe(
        100.0 * float(correct.mean()), 100.0 * float(np.mean(f1_scores)), 100.0 * deviation, correct, converged
    )


def _ranks(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the mean ranks of values, `[rows]`, where each row counts so often: both `[resamples, rows]`."""
    order, starts, groups = _groups(values)
    sizes = np.add.reduceat(weights[:, order], starts, axis=1)
    return (np.cumsum(sizes, axis=1) - (sizes - 1.0) / 2.0)[:, groups]


def _groups(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sort values, `[rows]`: their order, where a new value starts in it, and the number of each row's value."""
    order = np.argsort(values, kind="stable")
    _, starts, groups = np.unique(values[order], return_index=True, return_inverse=True)
    numbers = np.empty(len(values), dtype=np.int64)
    numbers[order] = groups
    return order, starts, numbers
