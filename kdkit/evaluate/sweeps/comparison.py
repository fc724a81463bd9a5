"""Comparison of training variants with a reference variant, in pairs of one seed each: the figures of a sweep.

Levels are bits per byte of language models, or mean scores of embedding models; a difference above 0 means in both
cases that the variant is better.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

from kdkit.evaluate.language import gap_closed, paired_interval
from kdkit.evaluate.significance import LEVEL, correct_for_comparisons, paired_t_test, standard_deviation
from kdkit.training.score import Score


@dataclass(frozen=True)
class Trial:
    """Result of one variant with one seed; levels are bits per byte on the same held-out text."""

    MEASURE: ClassVar[dict[str, Any]] = {
        "name": "bits per byte",
        "of": "held-out text",
        "is_score": False,
        "digits": 3,
        "baseline": "baseline: no teacher, equal steps",
        "teacher": "teacher, as it routes itself",
        "over": "text",
        "drawn": "held-out documents of all seeds",
    }
    """What levels are, for a report."""

    teacher: float
    baseline: float | None
    """None in a search, which trains none."""
    student: float
    seconds: float
    """Wall time of the student's steps."""
    steps: int
    window_nats: list[float]
    """Of the student, one per window."""
    window_bytes: list[int]
    document_nats: list[float] | None = None
    """Of the student, one per document; None where nobody knows them."""
    document_bytes: list[int] | None = None
    parameters: int | None = None
    """Of the student; None in older sweeps."""

    @property
    def gap(self) -> float | None:
        """By how much the teacher is better than the baseline."""
        return None if self.baseline is None else self.baseline - self.teacher

    @property
    def gap_closed(self) -> float | None:
        """See `kdkit.evaluate.language.gap_closed`."""
        return None if self.baseline is None else gap_closed(self.teacher, self.student, self.baseline)

    def gain_over(self, other: "Trial") -> float:
        """Return by how much this student is better."""
        return other.student - self.student

    @staticmethod
    def interval_of_gain(trials: "Sequence[Trial]", others: "Sequence[Trial]") -> tuple[float, float] | None:
        """Bootstrap the mean gain over the documents of all seeds; None if two variants read other windows."""
        if any(first.window_bytes != second.window_bytes for first, second in zip(trials, others, strict=True)):
            return None
        return paired_interval(_pool(others), _pool(trials), seed=0)


@dataclass(frozen=True)
class ScoreTrial:
    """Result of one variant of an embedding model with one seed; levels are mean scores of the same tasks."""

    MEASURE: ClassVar[dict[str, Any]] = {
        "name": "points",
        "of": "mean score of the tasks",
        "is_score": True,
        "digits": 2,
        "baseline": "student before its first step",
        "teacher": "teacher",
        "over": "rows",
        "drawn": "rows of the tasks",
    }

    teacher: float | None
    """None where it is a file without vectors for the tasks."""
    baseline: float
    """The student before its first step."""
    student: float
    seconds: float
    steps: int
    resamples: list[float]
    """The student's level on resampled rows, the same rows for all variants of a seed."""
    parameters: int | None = None
    """Of the student; None in older sweeps."""

    @property
    def gap(self) -> float | None:
        """By how much the teacher is better than the untrained student."""
        return None if self.teacher is None else self.teacher - self.baseline

    @property
    def gap_closed(self) -> float | None:
        """Share of the way from the untrained student to the teacher; None where there is no way to go."""
        return None if self.teacher is None else gap_closed(-self.teacher, -self.student, -self.baseline)

    def gain_over(self, other: "ScoreTrial") -> float:
        """Return by how much this student is better."""
        return self.student - other.student

    @staticmethod
    def interval_of_gain(trials: "Sequence[ScoreTrial]", others: "Sequence[ScoreTrial]") -> tuple[float, float] | None:
        """Return an interval of the mean gain over the tasks' rows, as wide as that of one seed.

        Seeds share the rows, but not the draws: to average over draws of several seeds would hide how much the rows
        matter.
        """
        pairs = list(zip(trials, others, strict=True))
        if any(len(first.resamples) != len(second.resamples) for first, second in pairs):
            return None
        drawn = [np.subtract(first.resamples, second.resamples) for first, second in pairs]
        gains = [first.gain_over(second) for first, second in pairs]
        centred = np.concatenate([values - gain for values, gain in zip(drawn, gains, strict=True)])
        low, high = np.mean(gains) + np.quantile(centred, [0.025, 0.975])
        return float(low), float(high)


AnyTrial = Trial | ScoreTrial
Trials = Mapping[tuple[str, int], AnyTrial | None]
"""By variant and seed; None where it has not finished."""


def compare_variants(trials: Trials, reference: str, measure: dict[str, Any] = Trial.MEASURE) -> dict[str, Any]:
    """Summarise every variant and test it against the reference.

    Args:
        trials: of every variant and seed.
        reference: a variant.
        measure: of the trials.

    Returns:
        `measure`, `reference`, `seeds`, `num_comparisons` (tests that the p values are corrected for), `level` (below
        which a corrected p value counts) and `variants`, in their order: lists with one entry per seed (None
        where it is missing), means, and `difference` (None for the reference, and without a shared seed).
    """
    names, seeds = (list(dict.fromkeys(key[i] for key in trials)) for i in (0, 1))
    variants = [_summarise(name, [trials[name, seed] for seed in seeds]) for name in names]
    for entry in variants:
        is_other = entry["name"] != reference
        pairs = [(trials[reference, seed], trials[entry["name"], seed]) for seed in seeds]
        entry["difference"] = _difference(pairs) if is_other else None
    tested = [e["difference"] for e in variants if e["difference"] and e["difference"]["p"] is not None]
    corrected = correct_for_comparisons([difference["p"] for difference in tested])
    for difference, p in zip(tested, corrected, strict=True):
        difference["p_corrected"] = p
    facts = {"measure": measure, "reference": reference, "seeds": seeds, "num_comparisons": len(tested), "level": LEVEL}
    return facts | {"variants": variants}


def _summarise(name: str, trials: list[AnyTrial | None]) -> dict[str, Any]:
    """List a variant's figures by seed, with their means; no mean share of a gap that seeds alone may explain."""
    finished = [trial for trial in trials if trial is not None]
    levels = [trial.student for trial in finished]
    gaps = [trial.gap_closed for trial in finished if trial.gap_closed is not None]
    found = [trial.gap for trial in finished if trial.gap is not None]
    if found and (of_gap := paired_t_test(found).interval) is not None and of_gap[0] <= 0:
        gaps = []  # teacher and baseline are level: a ratio to nothing may be of any size
    return {
        "name": name,
        "levels": [trial and trial.student for trial in trials],
        "teacher": [trial and trial.teacher for trial in trials],
        "baseline": [trial and trial.baseline for trial in trials],
        "gap_closed": [trial and trial.gap_closed for trial in trials],
        "steps": max((trial.steps for trial in finished), default=None),
        "mean": _mean(levels),
        "spread": standard_deviation(levels) if len(levels) > 1 else None,
        "mean_gap_closed": _mean(gaps),
        "gap_closed_interval_95": paired_t_test(gaps).interval if gaps else None,
        "seconds": [trial and trial.seconds for trial in trials],
        "mean_seconds": _mean([trial.seconds for trial in finished]),
        "parameters": next((trial.parameters for trial in finished), None),
    }


def _difference(pairs: list[tuple[AnyTrial | None, AnyTrial | None]]) -> dict[str, Any] | None:
    """Compare a variant with the reference over the seeds that both have finished."""
    per_seed = [second.gain_over(first) if first and second else None for first, second in pairs]
    shared = [value for value in per_seed if value is not None]
    if not shared:
        return None
    test = asdict(paired_t_test(shared))
    spread = standard_deviation(shared) if len(shared) > 1 else None
    finished = [(second, first) for first, second in pairs if first and second]
    over_text = type(finished[0][0]).interval_of_gain(*zip(*finished, strict=True))
    return {
        "per_seed": per_seed,
        "num_better": sum(value > 0 for value in shared),
        "num_pairs": len(shared),
        "mean": test["mean"],
        "spread": spread,
        "t": test["t"],
        "p": test["p"],
        "p_corrected": None,
        "interval_95": test["interval"],
        "interval_95_over_text": over_text,
    }


def _pool(trials: Sequence[Trial]) -> Score:
    """Join the windows and documents of several trials."""

    def join(name: str) -> np.ndarray | None:
        """Put one measure of all trials behind each other; None where a trial lacks it."""
        parts = [getattr(trial, name) for trial in trials]
        return None if None in parts else np.concatenate([np.array(part) for part in parts])

    return Score(join("window_nats"), join("window_bytes"), 0, join("document_nats"), join("document_bytes"))


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
