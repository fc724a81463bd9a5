"""Comparison of finished runs, each with its own training, on the held-out text that they share. Never imports torch.

The first run is the reference. Differences are reference - other in bits per byte, so above 0 the other is better; of
embedding models other - reference in points, so above 0 the other is better too.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from kdkit.config.embeddings import EmbeddingConfig
from kdkit.config.language import Config
from kdkit.config.values import flatten
from kdkit.evaluate.language import MIN_DOCUMENTS, Resampled, resample_text
from kdkit.evaluate.significance import paired_t_test
from kdkit.evaluate.text_scores import read_scores
from kdkit.runs.folder import Run
from kdkit.training.score import Score

NO_RESULT = ("report.", "cache_dir", "train.wandb", "train.log_every", "train.save_every")
"""Settings that decide no figure, by how their names begin."""
PHASES = ("student", "baseline")
CURVE = "evaluation_bits_per_byte"


@dataclass(frozen=True)
class Finished:
    """A run that was evaluated."""

    run: Run
    config: Config | EmbeddingConfig
    evaluation: dict[str, Any]
    manifest: dict[str, Any]

    @property
    def settings(self) -> dict[str, Any]:
        """All settings that may decide a figure, by their names."""
        return {key: value for key, value in flatten(self.config.model_dump()).items() if not key.startswith(NO_RESULT)}


def differing_settings(runs: list[Finished]) -> dict[str, list[Any]]:
    """Return the settings in which runs differ, one value per run; None where a run's choice has no such option."""
    settings = [finished.settings for finished in runs]
    keys = dict.fromkeys(key for values in settings for key in values)
    columns = {key: [values.get(key) for values in settings] for key in keys}
    return {key: values for key, values in columns.items() if any(value != values[0] for value in values)}


def why_other_text(reference: Finished, other: Finished) -> str:
    """Say why two runs of language models were not judged on the same text; empty if they were."""
    first, second = (finished.manifest["corpus"] for finished in (reference, other))
    if first["fingerprint"] != second["fingerprint"]:
        apart = _name_settings(reference, other, ("data.",)) or " (the same settings, but their content has changed)"
        return "other data" + apart
    deciding = ("seed", "data.", "evaluate.max_sequences", "student.path", "student.build.", "teacher.max_length")
    if reference.config.seed != other.config.seed:
        return (
            f"another part of the text is held out: seed {other.config.seed} against {reference.config.seed}; to "
            "compare over seeds: python -m kdkit sweep FILE"
        )
    facts = [{key: f.evaluation["evaluated"].get(key) for key in ("windows", "bytes")} for f in (reference, other)]
    scores = [read_scores(finished.run) for finished in (reference, other)]
    is_same = facts[0] == facts[1] if None in scores else _read_the_same(*(s["student"] for s in scores))
    if not is_same:
        apart = _name_settings(reference, other, deciding)
        return (
            f"another held-out text, or cut otherwise: {facts[1]['bytes']:,} against {facts[0]['bytes']:,} bytes{apart}"
        )
    reasons = [finished.evaluation["models"]["student"].get("not_comparable") for finished in (reference, other)]
    return "" if reasons[0] == reasons[1] else str(reasons[1] or reasons[0])


def compare_language(runs: list[Finished]) -> list[dict[str, Any]]:
    """Compare runs of language models that were judged on the same text with the first of them.

    Returns:
        Per run `steps`; per phase (`student`, `baseline`) its `bits_per_byte`, its `difference` from the reference's
        and the `interval_95` of it (None for the reference itself, and without `scores.json`); `over`: what the
        intervals were drawn over; `gain` over its own baseline; `gap_closed` with its interval; of conversations the
        student's `answers`: their `rouge_l`, and its `difference` from the reference's over the same prompts, with
        `interval_95` (None as above, or where the prompts are others); and its learning `curves`.
    """
    scores = [read_scores(finished.run) for finished in runs]
    known = {
        f"{phase} {place}": of_run[phase]
        for place, of_run in enumerate(scores)
        if of_run is not None
        for phase in PHASES
    }
    resampled = resample_text(known, runs[0].config.seed) if scores[0] is not None else None
    entries = []
    for place, finished in enumerate(runs):
        evaluation = finished.evaluation
        entry: dict[str, Any] = {"steps": evaluation["models"]["student"].get("training", {}).get("steps")}
        entry["late_gain"] = evaluation.get("late_gain")
        for phase in PHASES:
            level, first = (f.evaluation["models"][phase]["bits_per_byte"] for f in (finished, runs[0]))
            interval = _interval(resampled, place, phase) if place and scores[place] is not None else None
            difference = first - level if place else None
            entry[phase] = {"bits_per_byte": level, "difference": difference, "interval_95": interval}
        entry["answers"] = _compare_answers(finished, runs[0])
        entry |= {"gain": evaluation["differences"]["baseline"], "gap_closed": evaluation["gap_closed"]}
        if "gap_closed_interval_95" in evaluation:  # not in an older build
            entry["gap_closed_interval_95"] = evaluation["gap_closed_interval_95"]
        entry |= {"over": None if resampled is None else f"{resampled.num_units} {resampled.over}".strip()}
        entries.append(entry | {"curves": _curves(finished) if _same_curve(finished, runs[0]) else {}})
    return entries


def _compare_answers(finished: Finished, reference: Finished) -> dict[str, Any] | None:
    """Compare a student's answers to held-out prompts with the reference's; None where it gave none."""
    own, first = (each.evaluation.get("answers") for each in (finished, reference))
    if own is None:
        return None
    values = {"rouge_l": own["models"]["student"]["rouge_l"]["mean"], "num_prompts": own["num_prompts"]}
    if finished is reference or first is None or first["prompts"] != own["prompts"]:
        return values | {"difference": None, "interval_95": None}
    pairs = zip(own["rouge_l"]["student"], first["rouge_l"]["student"], strict=True)
    test = paired_t_test([ours - theirs for ours, theirs in pairs])
    return values | {"difference": test.mean, "interval_95": test.interval}


def _read_the_same(first: Score, second: Score) -> bool:
    """Return whether two students read the same text: the same windows, or at least the same whole documents."""
    if np.array_equal(first.window_bytes, second.window_bytes):
        return True
    documents = [score.document_bytes for score in (first, second)]
    return (
        documents[0] is not None
        and documents[1] is not None
        and len(documents[0]) >= MIN_DOCUMENTS
        and np.array_equal(documents[0], documents[1])
    )


def _interval(resampled: Resampled | None, place: int, phase: str) -> list[float] | None:
    return None if resampled is None else list(resampled.difference(f"{phase} 0", f"{phase} {place}"))


def _same_curve(finished: Finished, reference: Finished) -> bool:
    """Return whether two learning curves were measured on the same windows."""
    keys = "evaluate.curve_sequences", "data.max_length"
    return all(finished.settings.get(key) == reference.settings.get(key) for key in keys)


def _curves(finished: Finished) -> dict[str, list[list[float]]]:
    """Return step, seconds and bits per byte of the student's and the baseline's curve, by phase."""
    lines = [line for line in finished.run.read_metrics() if CURVE in line and line["step"] > 0]
    return {phase: [[m["step"], m["seconds"], m[CURVE]] for m in lines if m["phase"] == phase] for phase in PHASES}


def _name_settings(reference: Finished, other: Finished, beginnings: tuple[str, ...]) -> str:
    """Name the settings of a kind in which two runs differ."""
    found = differing_settings([reference, other])
    named = [f"{key} {values[1]} against {values[0]}" for key, values in found.items() if key.startswith(beginnings)]
    return f" ({', '.join(named)})" if named else ""
