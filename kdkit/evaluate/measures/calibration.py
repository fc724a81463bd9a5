"""Calibration: whether a model that is sure of the next token is as often right as it says."""

from typing import Any

import numpy as np

from kdkit.evaluate.language import Units
from kdkit.evaluate.measures.tokens import Predictions, sum_by_unit


def measure_calibration(predictions: Predictions, unit: np.ndarray, units: Units, num_bins: int) -> dict[str, Any]:
    """Compare how sure a model is of its most likely next token with how often that one follows.

    Args:
        unit: int64, `[num_windows, S]`; see `find_units`.
        num_bins: bins of equally many tokens, from the least to the most sure.

    Returns:
        `ece` (expected calibration error: mean distance of confidence and accuracy in a bin, 0 to 1), `confidence`,
        `accuracy` (of the most likely token) and `brier`, means over tokens, each with `..._interval_95` over
        documents; `bins`: of each its `share` of the tokens, `confidence`, `accuracy` and `accuracy_interval_95`;
        `num_tokens`.

    Source: Naeini, Cooper & Hauskrecht 2015, Obtaining Well Calibrated Probabilities Using Bayesian Binning; with bins
    of equal size, as in Nixon et al. 2019, Measuring Calibration in Deep Learning (arXiv:1904.01685).
    """
    chosen = predictions.is_target
    confidence, right, brier = (
        each[chosen] for each in (predictions.confidence, predictions.is_right, predictions.brier)
    )
    ones, unit = np.ones_like(confidence), unit[chosen]
    edges = np.unique(np.quantile(confidence, np.linspace(0, 1, num_bins + 1)[1:-1]))
    edges = edges[edges > confidence.min()]  # no bin is empty
    bins = np.searchsorted(edges, confidence, side="right")
    # per unit and bin: tokens, sure, right
    place, size = unit * (len(edges) + 1) + bins, len(edges) + 1
    sums = sum_by_unit(np.stack([ones, confidence, right]), place, units.count * size)
    sums = sums.reshape(3, units.count, size).transpose(0, 2, 1)
    drawn = units.sums(sums.reshape(3 * size, units.count)).reshape(3, size, -1)
    whole = sum_by_unit(np.stack([confidence, right, brier, ones]), unit, units.count)
    means = {name: (row, float(row.sum() / len(ones))) for name, row in zip(MEANS, whole, strict=False)}
    return {
        "num_tokens": len(ones),
        "ece": _error(sums.sum(axis=2)[:, :, None])[0],
        "ece_interval_95": units.interval(_error(drawn)),
        **{name: value for name, (_, value) in means.items()},
        **{f"{name}_interval_95": units.interval_of_ratio(row, whole[3]) for name, (row, _) in means.items()},
        "bins": [_bin(sums[:, i], drawn[:, i], len(ones), units) for i in range(size)],
    }


MEANS = "confidence", "accuracy", "brier"


def _error(sums: np.ndarray) -> np.ndarray:
    """Return the expected calibration error, `[samples]`, of `[3, bins, samples]`: tokens, sure, right."""
    return np.abs(sums[1] - sums[2]).sum(axis=0) / sums[0].sum(axis=0)


def _bin(sums: np.ndarray, drawn: np.ndarray, num_tokens: int, units: Units) -> dict[str, Any]:
    """Describe one bin, from its sums by unit, and by sample."""
    count, sure, right = sums.sum(axis=1)
    there = drawn[0] > 0
    return {
        "share": float(count / num_tokens),
        "confidence": float(sure / count),
        "accuracy": float(right / count),
        "accuracy_interval_95": units.interval(drawn[2][there] / drawn[0][there]),
    }
