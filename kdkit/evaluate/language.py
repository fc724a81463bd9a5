"""Share of the gap to the teacher that a student closes, and the interval of a difference in bits per byte."""

import numpy as np

from kdkit.training.scoring import Score

BOOTSTRAP_SAMPLES = 2_000


def gap_closed(teacher: float, student: float, baseline: float) -> float | None:
    """Return (baseline - student) / (baseline - teacher), all in bits per byte.

    1 means as good as the teacher, 0 no better than without one, below 0 worse. None where the
    teacher is no better than the baseline: there is no gap to close.
    """
    return (baseline - student) / (baseline - teacher) if teacher < baseline else None


def paired_interval(first: Score, second: Score, seed: int, confidence: float = 0.95) -> tuple[float, float]:
    """Bootstrap the difference first - second in bits per byte over the windows that both were scored on.

    It tells how much the choice of evaluation text matters, not how much another seed would.

    Args:
        first: score of one model.
        second: score of another on the same windows.
        seed: of the resampling.
        confidence: share of resampled differences inside the interval.

    Source: Efron & Tibshirani 1993, An Introduction to the Bootstrap, ch. 13 (percentile interval).
    """
    rng = np.random.default_rng(seed)
    nats = first.window_nats - second.window_nats
    picks = rng.integers(len(nats), size=(BOOTSTRAP_SAMPLES, len(nats)))
    differences = nats[picks].sum(axis=1) / np.log(2) / first.window_bytes[picks].sum(axis=1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(differences, [tail, 1 - tail])
    return float(low), float(high)
