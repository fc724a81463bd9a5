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
    return gains_still(evaluation.get("late_gain"), evaluation["differences"]["baseline"]["bits_per_byte"], steps)


def gains_still(late_gain: float | None, difference: float, steps: int) -> str:
    """Say that a student still gains more than a difference to another one; empty if not, or nobody knows.

    Args:
        late_gain: bits per byte that it gained in the last fifth of its steps.
    """
    if late_gain is None or late_gain <= abs(difference):
        return ""
    return (
        f"the student still gained {late_gain:.3f} bits per byte in the last fifth of its {steps:,} steps, more than "
        "the difference"
    )
