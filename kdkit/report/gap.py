"""The gap to the teacher in words: a share of it is told only where the choice of the text does not explain the gap."""

from typing import Any

LEVEL = "level"
"""Stands in place of a share where teacher and baseline cannot be told apart: a ratio to nothing may be of any size."""


def is_level(facts: dict[str, Any]) -> bool:
    """Return whether teacher and baseline are level: the 95 % interval of the gap between them holds 0.

    Args:
        facts: with `gap_closed` and `gap_closed_interval_95`, which is None exactly where the gap's own holds 0: an
            evaluation, one of its differences, or a bin of places. Of an older build, which noted no interval, False.
    """
    return facts.get("gap_closed") is not None and facts.get("gap_closed_interval_95", ()) is None


def write_share(facts: dict[str, Any], missing: str) -> str:
    """Write the share of the gap that was closed, or that there is none to speak of.

    Args:
        facts: see `is_level`.
        missing: stands where the teacher is no better than the baseline.
    """
    closed = facts.get("gap_closed")
    return LEVEL if is_level(facts) else missing if closed is None else f"{closed:.2f}"


def write_gap(evaluation: dict[str, Any]) -> str:
    """Write by how much the teacher is better than the baseline, with its interval; empty in an older build."""
    if (gap := evaluation.get("gap")) is None:
        return ""
    low, high = gap["interval_95"]
    return f"{gap['bits_per_byte']:+.3f}, 95 % interval {low:+.3f} to {high:+.3f}"
