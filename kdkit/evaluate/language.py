"""Share of the gap to the teacher that a student closes, and how far the choice of the text moves every figure."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from kdkit.evaluate.significance import t_quantile
from kdkit.training.score import Score

BOOTSTRAP_SAMPLES = 2_000
MIN_DOCUMENTS = 10
"""Fewer documents say too little about others; then stretches of consecutive windows are resampled."""
MIN_EFFECTIVE = 5
"""The same for their number by size: of twenty documents of which one is most of the text, every draw is that one."""

Interval = tuple[float, float]


def gap_closed(teacher: float, student: float, baseline: float) -> float | None:
    """Return (baseline - student) / (baseline - teacher), all in bits per byte.

    1 means as good as the teacher, 0 no better than without one, below 0 worse. None where the
    teacher is no better than the baseline: there is no gap to close.
    """
    return (baseline - student) / (baseline - teacher) if teacher < baseline else None


def paired_interval(first: Score, second: Score, seed: int, confidence: float = 0.95) -> Interval:
    """Return the interval of first - second in bits per byte; see `resample_text`."""
    resampled = resample_text({"first": first, "second": second}, seed)
    return resampled.interval(resampled.levels["first"] - resampled.levels["second"], confidence)


@dataclass(frozen=True)
class Resampled:
    """Bits per byte of several models on resampled texts, the same texts for all."""

    levels: dict[str, np.ndarray]
    """float64, `[samples]`, by model."""
    over: str
    """What was resampled: `documents`, or `blocks of N windows` where these are unknown or too few."""
    num_units: int
    """How many of them there are."""

    def interval(self, values: np.ndarray, confidence: float = 0.95) -> Interval:
        """Return the interval of a figure from its values on the resampled texts, wider the fewer units there are.

        Source: Efron & Tibshirani 1993, An Introduction to the Bootstrap, ch. 13 (percentiles); Hesterberg 2015,
        arXiv:1411.5279, section 4.3 (their expansion, which makes up for few units as Student's t does for a mean).
        """
        units = max(self.num_units, 2)
        reach = math.sqrt(units / (units - 1)) * t_quantile(confidence, units - 1)
        tail = math.erfc(reach / math.sqrt(2)) / 2
        low, high = np.quantile(values, [tail, 1 - tail])
        return float(low), float(high)

    def difference(self, first: str, second: str) -> Interval:
        """Return the interval of first - second, bits per byte."""
        return self.interval(self.levels[first] - self.levels[second])

    def saving(self, first: str, second: str) -> Interval:
        """Return the interval of (first - second) / first: the share of its bits that the second model saves."""
        return self.interval(1 - self.levels[second] / self.levels[first])

    def gap_closed(self, teacher: str, student: str, baseline: str) -> Interval | None:
        """Return the interval of `gap_closed`; None where some of the texts show no gap: it may be of any size then."""
        gaps = self.levels[baseline] - self.levels[teacher]
        if self.interval(gaps)[0] <= 0:
            return None
        gaps = np.where(gaps > 0, gaps, np.nan)
        shares = (self.levels[baseline] - self.levels[student]) / gaps
        return self.interval(shares[np.isfinite(shares)])


def resample_text(scores: Mapping[str, Score], seed: int) -> Resampled:
    """Draw other texts of the same size from what the models were scored on, with replacement.

    Windows of one document are not independent, so whole documents are drawn. It tells how much the choice of
    evaluation text matters, not how much another seed would.

    Args:
        scores: of models on the same windows.
        seed: of the draw.

    Source: Davison & Hinkley 1997, Bootstrap Methods and their Application, section 3.8 (clusters); without documents
    the circular block bootstrap, Politis & Romano 1992.
    """
    rng, (first, *_) = np.random.default_rng(seed), scores.values()
    sizes = first.document_bytes
    if sizes is not None and len(sizes) >= MIN_DOCUMENTS and effective_number(sizes) >= MIN_EFFECTIVE:
        nats = np.stack([score.document_nats for score in scores.values()])
        sums, num_bytes = _draw_documents(np.vstack([nats, sizes]), rng)
        over, num_units = "documents", len(sizes)
    else:
        nats = np.stack([score.window_nats for score in scores.values()])
        length = max(_block_length(series, first.window_bytes) for series in [*nats, *(nats[1:] - nats[0])])
        sums, num_bytes = _draw_blocks(np.vstack([nats, first.window_bytes]), length, rng)
        over, num_units = f"blocks of {length} windows", math.ceil(nats.shape[1] / length)
    levels = sums / np.log(2) / num_bytes
    return Resampled(dict(zip(scores, levels, strict=True)), over, num_units)


def effective_number(sizes: np.ndarray) -> float:
    """Return how many documents of equal size say as much: (sum of sizes)^2 / sum of squared sizes (Kish 1965)."""
    return float(np.sum(sizes, dtype=float) ** 2 / np.sum(np.square(sizes, dtype=float)))


def _draw_documents(values: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Sum values, `[rows, units]`, over units drawn anew in every sample: all rows but the last, and the last."""
    count = values.shape[1]
    # a few samples at a time: how often each of many documents was drawn takes memory
    draws = [rng.multinomial(count, np.full(count, 1 / count), size=100) for _ in range(BOOTSTRAP_SAMPLES // 100)]
    sums = np.concatenate([drawn @ values.T for drawn in draws]).T
    return sums[:-1], sums[-1]


def _draw_blocks(values: np.ndarray, length: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Do the same with stretches of `length` consecutive units; the last unit is followed by the first."""
    count = values.shape[1]
    num_blocks = math.ceil(count / length)
    around = np.pad(values, ((0, 0), (0, length)), mode="wrap").cumsum(axis=1)
    blocks = around[:, length - 1 : length - 1 + count] - np.pad(around, ((0, 0), (1, 0)))[:, :count]
    picks = rng.integers(count, size=(BOOTSTRAP_SAMPLES, num_blocks))
    sums = np.stack([block[picks].sum(axis=1) for block in blocks])
    return sums[:-1], sums[-1]


def _block_length(nats: np.ndarray, num_bytes: np.ndarray) -> int:
    """Choose how many windows make a block, from how far the figure of one window resembles the next ones'.

    Source: Politis & White 2004, Automatic Block-Length Selection for the Dependent Bootstrap, as corrected in 2009.
    """
    count = len(nats)
    values = nats - nats.sum() / num_bytes.sum() * num_bytes  # what each window adds to the ratio's error
    values = values - values.mean()
    if count < 4 or not np.ptp(values) > 1e-9 * np.abs(nats).max(initial=1.0):
        return 1
    last = min(count - 1, math.ceil(math.sqrt(count)) + max(5, math.ceil(math.sqrt(math.log10(count)))))
    covariances = np.array([values[: count - lag] @ values[lag:] for lag in range(last + 1)]) / count
    small = np.abs(covariances / covariances[0]) < 2 * math.sqrt(math.log10(count) / count)
    reach = next((lag for lag in range(1, last + 1) if small[lag : lag + 5].all()), last) - 1
    lags = np.arange(last + 1)
    weights = np.clip(2 * (1 - lags / max(2 * reach, 1)), 0, 1)
    weights[0] = 1.0
    spread = 2 * (weights * lags * covariances).sum()
    density = covariances[0] + 2 * (weights * covariances)[1:].sum()
    length = (1.5 * (spread / density) ** 2 * count) ** (1 / 3) if density > 0 else 1.0
    # few windows show no resemblance that would pass a test, though they may have it
    return min(max(round(count ** (1 / 3)), math.ceil(length)), max(1, count // 3))
