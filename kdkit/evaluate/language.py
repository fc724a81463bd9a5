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
class Units:
    """What is drawn anew to see how far the choice of text moves a figure: whole documents, or stretches of windows."""

    count: int
    """Documents, or windows, that there are."""
    length: int | None
    """Windows of a stretch; None: documents are drawn."""
    seed: int

    @property
    def over(self) -> str:
        """What is resampled, in words: `documents`, or `blocks of N windows` where these are unknown or too few."""
        return "documents" if self.length is None else f"blocks of {self.length} windows"

    @property
    def number(self) -> int:
        """How many of them there are."""
        return self.count if self.length is None else math.ceil(self.count / self.length)

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Sum values over resampled units, the same ones at every call.

        Args:
            values: `[rows, count]`.

        Returns:
            `[rows, BOOTSTRAP_SAMPLES]`.
        """
        rng = np.random.default_rng(self.seed)
        return _draw_documents(values, rng) if self.length is None else _draw_blocks(values, self.length, rng)

    def interval(self, values: np.ndarray, confidence: float = 0.95) -> Interval:
        """Return the interval of a figure from its values on the resampled texts; see `percentiles`."""
        return percentiles(values, self.number, confidence)

    def interval_of_ratio(self, parts: np.ndarray, wholes: np.ndarray) -> Interval:
        """Return the interval of a ratio of sums.

        Args:
            parts: `[count]`.
            wholes: `[count]`, not all 0.
        """
        drawn, of = self.sums(np.stack([parts, wholes]))
        return self.interval(drawn[of > 0] / of[of > 0])


def percentiles(values: np.ndarray, num_units: int, confidence: float = 0.95) -> Interval:
    """Return the interval of a figure from its values on resampled texts, wider the fewer units there are.

    Source: Efron & Tibshirani 1993, An Introduction to the Bootstrap, ch. 13 (percentiles); Hesterberg 2015,
    arXiv:1411.5279, section 4.3 (their expansion, which makes up for few units as Student's t does for a mean).
    """
    units = max(num_units, 2)
    reach = math.sqrt(units / (units - 1)) * t_quantile(confidence, units - 1)
    tail = math.erfc(reach / math.sqrt(2)) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


@dataclass(frozen=True)
class Resampled:
    """Bits per byte of several models on resampled texts, the same texts for all."""

    levels: dict[str, np.ndarray]
    """float64, `[samples]`, by model."""
    over: str
    """See `Units.over`."""
    num_units: int
    """How many of them there are."""

    def interval(self, values: np.ndarray, confidence: float = 0.95) -> Interval:
        """Return the interval of a figure from its values on the resampled texts; see `percentiles`."""
        return percentiles(values, self.num_units, confidence)

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


def choose_units(scores: Mapping[str, Score], seed: int) -> Units:
    """Choose what is drawn to make other texts of the same size from what the models were scored on.

    Windows of one document are not independent, so whole documents are drawn. It tells how much the choice of
    evaluation text matters, not how much another seed would.

    Args:
        scores: of models on the same windows.
        seed: of the draw.

    Source: Davison & Hinkley 1997, Bootstrap Methods and their Application, section 3.8 (clusters); without documents
    the circular block bootstrap, Politis & Romano 1992.
    """
    first, *_ = scores.values()
    sizes = first.document_bytes
    if sizes is not None and len(sizes) >= MIN_DOCUMENTS and effective_number(sizes) >= MIN_EFFECTIVE:
        return Units(len(sizes), None, seed)
    nats = np.stack([score.window_nats for score in scores.values()])
    length = max(_block_length(series, first.window_bytes) for series in [*nats, *(nats[1:] - nats[0])])
    return Units(nats.shape[1], length, seed)


def resample_text(scores: Mapping[str, Score], seed: int) -> Resampled:
    """Draw other texts of the same size from what the models were scored on, with replacement; see `choose_units`."""
    units, (first, *_) = choose_units(scores, seed), scores.values()
    unit = "document" if units.length is None else "window"
    values = [getattr(score, f"{unit}_nats") for score in scores.values()]
    *nats, num_bytes = units.sums(np.vstack([*values, getattr(first, f"{unit}_bytes")]))
    levels = {name: sums / np.log(2) / num_bytes for name, sums in zip(scores, nats, strict=True)}
    return Resampled(levels, units.over, units.number)


def effective_number(sizes: np.ndarray) -> float:
    """Return how many documents of equal size say as much: (sum of sizes)^2 / sum of squared sizes (Kish 1965)."""
    return float(np.sum(sizes, dtype=float) ** 2 / np.sum(np.square(sizes, dtype=float)))


def _draw_documents(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Sum values, `[rows, units]`, over units drawn anew in every sample."""
    count = values.shape[1]
    # a few samples at a time: how often each of many documents was drawn takes memory
    draws = [rng.multinomial(count, np.full(count, 1 / count), size=100) for _ in range(BOOTSTRAP_SAMPLES // 100)]
    return np.concatenate([drawn @ values.T for drawn in draws]).T


def _draw_blocks(values: np.ndarray, length: int, rng: np.random.Generator) -> np.ndarray:
    """Do the same with stretches of `length` consecutive units; the last unit is followed by the first."""
    count = values.shape[1]
    num_blocks = math.ceil(count / length)
    around = np.pad(values, ((0, 0), (0, length)), mode="wrap").cumsum(axis=1)
    blocks = around[:, length - 1 : length - 1 + count] - np.pad(around, ((0, 0), (1, 0)))[:, :count]
    picks = rng.integers(count, size=(BOOTSTRAP_SAMPLES, num_blocks))
    return np.stack([block[picks].sum(axis=1) for block in blocks])


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
