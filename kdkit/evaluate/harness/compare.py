"""Scores of several models on the same documents of a task, with intervals in pairs."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdkit.evaluate.significance import paired_t_test

DRAWS = 1_000
"""Bootstrap samples of documents, for figures that are no mean over them, such as a perplexity."""


@dataclass(frozen=True)
class TaskScores:
    """What the harness says of one model on one task or group."""

    name: str
    values: dict[str, float]
    """By `METRIC,FILTER`."""
    items: dict[str, list[Any]]
    """What each document adds to a figure: a number, or for perplexities log-likelihood and weight; none of a group."""
    aggregations: dict[str, Callable[[list[Any]], float]]
    """What makes the figure of them."""
    higher_is_better: dict[str, bool | None]
    num_fewshot: int | None
    version: Any


def compare_models(scores: Mapping[str, Sequence[TaskScores]], reference: str, seed: int) -> dict[str, dict[str, Any]]:
    """Put the scores of models that were asked the same beside each other.

    Args:
        scores: by model, of the same tasks in the same order.
        reference: the model that the others are compared with.
        seed: of the intervals.

    Returns:
        By task: `num_documents`, `num_fewshot`, `version`, `reference` and `metrics`; by `METRIC,FILTER`:
        `higher_is_better`, `models` (`value` and `interval_95`) and `differences` (reference - model, with
        `interval_95` over documents, in pairs). An interval is None where documents add up to no figure.
    """
    found = {}
    for together in zip(*scores.values(), strict=True):
        by_model = dict(zip(scores, together, strict=True))
        first = together[0]
        metrics = {
            key: _compare_metric(key, by_model, reference, seed)
            for key in sorted(first.values)  # the harness's own order changes from run to run
            if all(key in each.values for each in together)
        }
        found[first.name] = {
            "num_documents": max(map(len, first.items.values()), default=None),
            "num_fewshot": first.num_fewshot,
            "version": first.version,
            "reference": reference,
            "metrics": metrics,
        }
    return found


def _compare_metric(key: str, by_model: Mapping[str, TaskScores], reference: str, seed: int) -> dict[str, Any]:
    """Compare one figure of all models."""
    levels = {name: each.values[key] for name, each in by_model.items()}
    first = by_model[reference]
    has_items = all(key in each.items for each in by_model.values())
    if not has_items or not _adds_up(first, key):
        intervals, of_differences = dict.fromkeys(levels), dict.fromkeys(levels)
    elif _is_mean(first, key):
        values = {name: np.array(each.items[key], float) for name, each in by_model.items()}
        intervals = {name: _interval_of_mean(of) for name, of in values.items()}
        of_differences = {
            name: paired_t_test((values[reference] - of).tolist()).interval for name, of in values.items()
        }
    else:
        drawn = {name: _draw(each.items[key], each.aggregations[key], seed) for name, each in by_model.items()}
        intervals = {name: _quantiles(of) for name, of in drawn.items()}
        of_differences = {name: _quantiles(drawn[reference] - of) for name, of in drawn.items()}
    return {
        "higher_is_better": first.higher_is_better.get(key),
        "models": {name: {"value": levels[name], "interval_95": intervals[name]} for name in levels},
        "differences": {
            name: {"value": levels[reference] - levels[name], "interval_95": of_differences[name]}
            for name in levels
            if name != reference
        },
    }


def _adds_up(scores: TaskScores, key: str) -> bool:
    """Return whether the figure is what the aggregation makes of the documents; that of some filters is not."""
    try:
        again = float(scores.aggregations[key](scores.items[key]))
    except (TypeError, ValueError, KeyError, IndexError, ZeroDivisionError):
        return False
    return math.isclose(again, scores.values[key], rel_tol=1e-6, abs_tol=1e-9)


def _is_mean(scores: TaskScores, key: str) -> bool:
    """Return whether the figure is the mean of numbers."""
    items = scores.items[key]
    if not all(isinstance(item, int | float | bool) for item in items):
        return False
    return math.isclose(math.fsum(items) / len(items), scores.values[key], rel_tol=1e-9, abs_tol=1e-12)


def _interval_of_mean(values: np.ndarray) -> tuple[float, float] | None:
    """Return the interval of a mean, by Student's t; of shares it stays between 0 and 1."""
    interval = paired_t_test(values.tolist()).interval
    if interval is None or values.min() < 0.0 or values.max() > 1.0:
        return interval
    return max(interval[0], 0.0), min(interval[1], 1.0)


def _draw(items: list[Any], aggregate: Callable[[list[Any]], float], seed: int) -> np.ndarray:
    """Compute a figure on resampled documents, the same documents for every model: fp64, `[DRAWS]`."""
    rng = np.random.default_rng(seed)
    picks = rng.integers(len(items), size=(DRAWS, len(items)))
    return np.array([aggregate([items[i] for i in row]) for row in picks])


def _quantiles(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)
