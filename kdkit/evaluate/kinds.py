"""Held-out text kind by kind: what each model is worth on each."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from kdkit.config.language import Config
from kdkit.data.many.kinds import kinds_of_documents
from kdkit.data.prepare import PreparedData
from kdkit.distill.checkpoints import BASELINE, STUDENT
from kdkit.distill.plan import own_view_of
from kdkit.evaluate.language import Resampled, resample_text
from kdkit.machine.session import Session
from kdkit.models.loading import load_causal_lm
from kdkit.teachers.prepare import prepare_teacher
from kdkit.training.score import Score
from kdkit.training.scoring import score_windows

KINDS_FILE = "kinds.json"
"""In the run: see `compare_kinds`."""
ONLY = "only "
"""Before the name of a teacher: the student that it has taught alone."""
MEAN = "mean of all kinds"
"""Stands among the kinds for their unweighted mean."""


def evaluate_kinds(session: Session[Config], data: PreparedData, scores: dict[str, Score]) -> dict[str, Any]:
    """Compare all models on every kind of held-out text, and write `kinds.json`.

    Args:
        data: of the run, with all of its teachers; those that have no score yet are loaded, one after the other.
        scores: of the run's models; `teacher`, if it is there, is the first teacher.

    Returns:
        See `compare_kinds`; empty where the text is of one kind, or nobody knows its documents.
    """
    if data.kinds is None or any(score.document_nats is None for score in scores.values()):
        return {}
    known = dict(scores)
    if data.members:
        known = score_teachers(session, data, known.pop("teacher", None)) | known
    windows = data.evaluation.first(session.config.evaluate.max_sequences)
    kinds = kinds_of_documents(windows, data.kinds.evaluation)
    by_kind = compare_kinds(known, kinds, data.kinds.names, STUDENT, session.config.seed)
    session.run.write_json(KINDS_FILE, by_kind)
    return by_kind


def evaluate_students(session: Session[Config], data: PreparedData) -> dict[str, Any]:
    """Compare a run's student with those that each of its teachers has taught alone, kind by kind (notebook 07).

    Returns:
        See `evaluate_kinds`; the students of one teacher are named `only NAME`.
    """
    run, options = session.run, (session.config.evaluate.batch_size, session.hardware.autocast_dtype)
    folders = {name: run.path / name for name in (STUDENT, BASELINE)}
    folders |= {f"{ONLY}{name}": run.path / "teachers" / name / STUDENT for name in data.members}
    windows = data.evaluation.first(session.config.evaluate.max_sequences)
    scores = {}
    for name, folder in folders.items():
        if folder.is_dir():
            model = load_causal_lm(str(folder), "student.path", device=session.hardware.device)
            scores[name] = score_windows(model, windows, "student", *options)
    return evaluate_kinds(session, data, scores)


def score_teachers(session: Session[Config], data: PreparedData, first: Score | None = None) -> dict[str, Score]:
    """Score every teacher on the held-out text, one in memory at a time.

    Args:
        first: of the first teacher, if it is known.
    """
    scores = {}
    for name in data.members:
        if first is not None and not scores:
            scores[name] = first
            continue
        view, own = own_view_of(session, data, name)
        windows = own.evaluation.first(session.config.evaluate.max_sequences)
        reader = prepare_teacher(view, own).reader(session.hardware.autocast_dtype)
        scores[name] = score_windows(reader, windows, "teacher", session.config.evaluate.batch_size)
    return scores


def describe_teachers(session: Session[Config], data: PreparedData) -> list[dict[str, Any]]:
    """Say what each teacher is worth on each kind of held-out text: a row per teacher, bits per byte."""
    scores, names = score_teachers(session, data), data.kinds.names if data.kinds is not None else ()
    windows = data.evaluation.first(session.config.evaluate.max_sequences)
    kinds = kinds_of_documents(windows, data.kinds.evaluation) if data.kinds is not None else None
    rows = []
    for teacher, score in scores.items():
        row = {"bits per byte": teacher}
        for number, name in enumerate(names):
            part = scores_of_kind({teacher: score}, kinds, number)[teacher]
            row[name] = f"{part.bits_per_byte:.3f}" if part.window_bytes.sum() else "none held out"
        rows.append(row | {"all text": f"{score.bits_per_byte:.3f}"})
    return rows


def scores_of_kind(scores: Mapping[str, Score], kinds: np.ndarray, kind: int) -> dict[str, Score]:
    """Return the scores on the documents of one kind.

    Args:
        scores: of models on the same windows, which know their documents.
        kinds: int64, `[num_documents]`: the kind of each document that they hold.
    """
    chosen, found = kinds == kind, {}
    for name, score in scores.items():
        assert score.document_nats is not None and score.document_bytes is not None
        nats, sizes = score.document_nats[chosen], score.document_bytes[chosen]
        # windows hold documents of any kind: where too few documents are left, these are drawn in their place
        found[name] = Score(nats, sizes, score.num_tokens, nats, sizes)
    return found


def compare_kinds(
    scores: Mapping[str, Score], kinds: np.ndarray, names: tuple[str, ...], student: str, seed: int
) -> dict[str, dict[str, Any]]:
    """Compare all models with the student on every kind of text, and on the mean of the kinds.

    Args:
        scores: of models on the same windows.
        kinds: of the documents that they hold.
        names: of the kinds; those that are not held out are left out.
        student: name of the model that the others are compared with.
        seed: of the intervals.

    Returns:
        By kind and model: `bits_per_byte` and `interval_95`; `difference` (model - student, above 0: the student is
        better) and `difference_interval_95`; and under `MEAN` the same of the mean of all kinds.
    """
    levels, draws = {}, {}
    for number, kind in enumerate(names):
        of_kind = scores_of_kind(scores, kinds, number)
        if not (kinds == number).any():
            continue
        levels[kind] = {name: score.bits_per_byte for name, score in of_kind.items()}
        draws[kind] = resample_text(of_kind, seed + number)
    compared = {kind: _compare(levels[kind], draws[kind], student) for kind in levels}
    if len(levels) < 2:
        return compared
    mean = {name: float(np.mean([of_kind[name] for of_kind in levels.values()])) for name in scores}
    drawn = {name: np.mean([each.levels[name] for each in draws.values()], axis=0) for name in scores}
    fewest = min(draws.values(), key=lambda each: each.num_units)
    return compared | {MEAN: _compare(mean, Resampled(drawn, fewest.over, fewest.num_units), student)}


def _compare(levels: dict[str, float], draws: Resampled, student: str) -> dict[str, Any]:
    """Describe all models on one kind of text."""
    return {
        name: {
            "bits_per_byte": level,
            "interval_95": draws.interval(draws.levels[name]),
            "difference": level - levels[student],
            "difference_interval_95": draws.difference(name, student),
        }
        for name, level in levels.items()
    }
