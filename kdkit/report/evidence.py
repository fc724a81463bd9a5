"""When a run is too short for any verdict, whatever its interval says: an interval covers the text, not the steps."""

from typing import Any

MIN_STEPS = 50
"""Optimizer steps below which no result is called better or worse: by then two models of one start differ in how fast
they learn which tokens are frequent, and the learning rate has hardly left its warm-up."""


def too_few_steps(steps: int | None) -> str:
    """Say why so many steps are too few; empty if they are not, or nobody knows them."""
    if steps is None or steps >= MIN_STEPS:
        return ""
    return f"{steps:,} steps are fewer than the {MIN_STEPS} below which a difference says little"


def too_short(evaluation: dict[str, Any]) -> str:
    """Say why a language model's training is too short to compare it with its baseline; empty if it is not.

    It is with few steps, and while what the student still gains in the last fifth of its steps is more than the
    difference: a few steps more or less would make another result.

    Args:
        evaluation: `evaluation.json`; older builds did not note what was gained late.
    """
    steps = evaluation["models"]["student"].get("training", {}).get("steps")
    if reason := too_few_steps(steps):
        return reason
    late, difference = evaluation.get("late_gain"), evaluation["differences"]["baseline"]["bits_per_byte"]
    if late is None or late <= abs(difference):
        return ""
    return (
        f"the student still gained {late:.3f} bits per byte in the last fifth of its {steps:,} steps, more than the "
        "difference"
    )
