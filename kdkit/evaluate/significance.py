"""Paired t test: whether a difference between two ways of training is larger than the choice of the seed explains.

Every seed gives one difference, from two trainings that share all else. With three seeds a test sees large
differences only; its interval says how large.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

LEVEL = 0.05
"""Probability of a false alarm that is accepted."""


@dataclass(frozen=True)
class PairedTest:
    """Outcome of a two-sided paired t test."""

    num_pairs: int
    mean: float
    """Of the differences."""
    t: float | None
    """None: fewer than two pairs, or differences that do not vary at all."""
    p: float | None
    """Probability of a mean at least as far from 0 if there were no difference; None: fewer than two pairs."""
    interval: tuple[float, float] | None
    """Where the true mean lies with 95 % confidence; None: fewer than two pairs."""


def paired_t_test(differences: Sequence[float]) -> PairedTest:
    """Test whether the mean of paired differences is 0.

    Args:
        differences: one per pair, at least one.

    Source: Student 1908, The Probable Error of a Mean.
    """
    count, mean = len(differences), math.fsum(differences) / len(differences)
    if count < 2:
        return PairedTest(count, mean, None, None, None)
    spread = standard_deviation(differences)
    if spread == 0.0:  # nothing varies, and t would divide by 0
        return PairedTest(count, mean, None, float(mean == 0.0), (mean, mean))
    error = spread / math.sqrt(count)
    half_width = t_quantile(1 - LEVEL, count - 1) * error
    p = 1 - central_probability(mean / error, count - 1)
    return PairedTest(count, mean, mean / error, p, (mean - half_width, mean + half_width))


def standard_deviation(values: Sequence[float]) -> float:
    """Return the sample's standard deviation (divided by n - 1); 0 for one value."""
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / max(len(values) - 1, 1))


def central_probability(t: float, degrees: int) -> float:
    """Return P(|T| <= |t|) for Student's t distribution, exactly, as whole degrees of freedom allow.

    Source: Abramowitz & Stegun 1964, Handbook of Mathematical Functions, eq. 26.7.3 and 26.7.4.
    """
    angle = math.atan(abs(t) / math.sqrt(degrees))
    is_odd = degrees % 2
    term, total = math.cos(angle) ** is_odd, 0.0
    for power in range(is_odd, degrees - 1, 2):
        total += term
        term *= math.cos(angle) ** 2 * (power + 1) / (power + 2)
    return 2 / math.pi * (angle + math.sin(angle) * total) if is_odd else math.sin(angle) * total


def t_quantile(confidence: float, degrees: int) -> float:
    """Return t with P(|T| <= t) = confidence, by bisection.

    The angle of `central_probability` is bisected, not t, which has no upper bound.
    """
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        angle = (low + high) / 2
        if central_probability(math.sqrt(degrees) * math.tan(angle), degrees) < confidence:
            low = angle
        else:
            high = angle
    return math.sqrt(degrees) * math.tan(low)


def correct_for_comparisons(p_values: Sequence[float]) -> list[float]:
    """Raise p values so that the chance of *any* false alarm among them stays below the level.

    Source: Holm 1979, A Simple Sequentially Rejective Multiple Test Procedure.
    """
    corrected, lowest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        lowest = max(lowest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = lowest
    return corrected
