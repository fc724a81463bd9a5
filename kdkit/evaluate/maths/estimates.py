"""Numbers that verdicts add up to: shares with their intervals, pass@k, differences in pairs."""

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

from kdkit.evaluate.pairs.score import wilson_interval
from kdkit.evaluate.significance import paired_t_test

Item = TypeVar("Item")


def share(hits: Sequence[bool]) -> dict[str, Any]:
    """Return `count`, `accuracy` and its 95 % interval (Wilson); None for both where nothing was counted."""
    if not hits:
        return {"count": 0, "accuracy": None, "interval_95": None}
    accuracy = sum(hits) / len(hits)
    return {"count": len(hits), "accuracy": accuracy, "interval_95": wilson_interval(accuracy, len(hits))}


def mean(values: Sequence[float]) -> dict[str, Any]:
    """Return a mean of shares and its 95 % interval (Student's t), cut at what is possible."""
    test = paired_t_test(values)
    if test.interval is None:
        return {"mean": test.mean, "interval_95": None}
    return {"mean": test.mean, "interval_95": (max(test.interval[0], 0.0), min(test.interval[1], 1.0))}


def difference(first: Sequence[float], second: Sequence[float]) -> dict[str, Any]:
    """Return the mean of first - second, in pairs of one problem, and its 95 % interval (Student's t)."""
    test = paired_t_test([float(a) - float(b) for a, b in zip(first, second, strict=True)])
    return {"mean": test.mean, "interval_95": test.interval}


def pass_at(num_samples: int, num_right: int, k: int) -> float:
    r"""Estimate the chance that at least one of k samples is right, without bias.

    $1 - \binom{n - c}{k} / \binom{n}{k}$: the share of the choices of k among the n samples that hold a right one.

    Args:
        num_samples: n, at least k.
        num_right: c, those that are right.

    Source: Chen et al. 2021, Evaluating Large Language Models Trained on Code, arXiv:2107.03374, eq. 1.
    """
    if not 1 <= k <= num_samples or not 0 <= num_right <= num_samples:
        raise ValueError(f"pass_at: expected 1 <= k <= n and 0 <= right <= n, got {k=}, {num_samples=}, {num_right=}")
    return 1.0 - math.comb(num_samples - num_right, k) / math.comb(num_samples, k)


def powers_up_to(count: int) -> list[int]:
    """Return 1, 2, 4, ... and the count itself; none for 0."""
    return sorted({2**i for i in range(count.bit_length())} | {count}) if count else []


def by_group(items: Sequence[Item], key: Callable[[Item], Hashable]) -> dict[str, list[int]]:
    """Return the places of the items by what `key` says of them, sorted; those of which it says None are left out."""
    groups: dict[Any, list[int]] = {}
    for place, item in enumerate(items):
        if (name := key(item)) is not None:
            groups.setdefault(name, []).append(place)
    return {str(name): groups[name] for name in sorted(groups)}
