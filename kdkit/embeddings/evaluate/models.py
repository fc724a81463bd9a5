"""The evaluation stage of embedding models: all on the same tasks, held-out sentences and clock (notebook 06)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from kdkit.embeddings.data.tasks import TaskData
from kdkit.embeddings.evaluate.embed import embed_tasks
from kdkit.embeddings.evaluate.late import TokenVectors
from kdkit.embeddings.evaluate.measures import Vectors, check_tasks, main_score, measure, texts_of
from kdkit.embeddings.evaluate.quantised import Storage, add_stored_scores
from kdkit.embeddings.evaluate.scores import bootstrap, interval, spearman
from kdkit.embeddings.evaluate.speed import measure_speeds
from kdkit.embeddings.evaluate.stored import describe_vectors, look_up
from kdkit.embeddings.models.doctor import mean_off_diagonal_cosine
from kdkit.embeddings.models.embedder import EmbeddingModel
from kdkit.embeddings.teacher.vectors import TextVectors
from kdkit.errors import UserError
from kdkit.evaluate.compression import count_bytes, count_parameters

Role = Literal["teacher", "untrained", "off_the_shelf", "student", "compared"]
"""A model's role in a run; `compared`: another method's student, from the same start."""
METRICS = {"sts": "Spearman", "classification": "accuracy", "pairs": "AP", "retrieval": "nDCG@10", "reranking": "MAP"}
"""Main score of each kind of task."""
SMALLEST_SAMPLE = 3
"""Sentences without which there is no agreement to measure."""


@dataclass(frozen=True)
class Candidate:
    """A model of a run, or why it is not there."""

    role: Role
    model: EmbeddingModel | None
    skipped: str = ""
    """Why there is no model, in words."""
    vectors: TextVectors | None = None
    """Instead of a model, vectors of texts: a teacher without weights."""


def evaluate_embeddings(
    candidates: dict[str, Candidate],
    tasks: list[TaskData],
    sentences: list[str],
    *,
    batch_size: int,
    bootstrap_samples: int,
    seed: int,
    dimensions: Iterable[int] = (),
    quantisations: Sequence[Storage] = (),
    autocast_dtype: torch.dtype | None = None,
) -> dict[str, Any]:
    """Measure every model of a run: the content of evaluation.json.

    Args:
        candidates: by their names in tables; exactly one `teacher` and one `student`. A teacher of vectors is there if
            it has one for every text of the tasks; sentences without one cost the agreement only.
        tasks: at least one.
        sentences: held-out ones, on which agreement with the teacher, collapse and speed are measured.
        dimensions: so many numbers of the students' vectors are also scored alone.
        quantisations: ways of storing in which the students' vectors are scored too, see `add_stored_scores`.
        autocast_dtype: None: in the weights' own precision, as scores should be.

    Returns:
        `models`: per name, in the order given, its `role`, and either `skipped` (why there is no model) or `tasks` (per
            task, see `score_tasks`); `average` of the tasks' main scores and its `interval_95`; `share_of_teacher` (of
            the teacher's average; null where that is not above 0); `parameters`; `size_bytes`; `width`; `num_layers`;
            `sentences_per_second`, tokenizing included; `mean_off_diagonal_cosine` of held-out sentences (1: all point
            the same way); `agreement` with the teacher (see `agreement`; null for itself); `pooling`,
            `token_vectors` (whether there is one for every token; held-out sentences are then compared by their mean),
            `normalize`, `prompt`, `max_length`, `device`, `precision`.
        `tasks`: per task `kind`, `metric`, `rows`, `fit_rows` (null: nothing to fit on), `source`, `revision`, `notes`.
        `differences`: per model other than the student, `average` and `tasks` (per task), each with `difference`
            (student minus that model, in points) and `interval_95` (paired bootstrap over the tasks' rows).
        `resamples`: per task the student's main scores on the resampled rows, the same rows for all of one seed.
        `evaluated`: `sentences`, `batch_size`, `bootstrap_samples`, `seed`, `threads`.

    Raises:
        UserError: see `check_tasks`; a dimension above the student's width.
        RuntimeError: a model's vectors are not finite.
    """
    check_tasks(tasks)
    present = {name: candidate for name, candidate in candidates.items() if candidate.model is not None}
    speeds = measure_speeds({name: c.model for name, c in present.items()}, sentences, batch_size, autocast_dtype)
    candidates, models, resamples, held_out = _score_files(candidates, tasks, sentences, bootstrap_samples, seed)
    for name, candidate in present.items():
        vectors, held_out[name] = embed_tasks(candidate.model, tasks, name, batch_size, autocast_dtype, sentences)
        cuts = (list(dimensions), quantisations) if candidate.role in ("student", "compared") else ([], [])
        models[name], resamples[name] = _score_model(vectors, held_out[name], tasks, bootstrap_samples, seed, *cuts)
        models[name] |= _describe_model(candidate.model, autocast_dtype) | {"sentences_per_second": speeds[name]}
    return {
        "models": _compare_with_teacher(candidates, models, held_out),
        "tasks": {data.task.name: _describe_task(data) for data in tasks},
        "differences": _differences(candidates, models, resamples),
        "resamples": {task: values.tolist() for task, values in resamples[_student_of(candidates)].items()},
        "evaluated": {"sentences": len(sentences), "batch_size": batch_size, "bootstrap_samples": bootstrap_samples}
        | {"seed": seed, "threads": torch.get_num_threads()},
    }


def score_tasks(
    model: EmbeddingModel,
    tasks: list[TaskData],
    *,
    batch_size: int,
    bootstrap_samples: int,
    seed: int,
    autocast_dtype: torch.dtype | None = None,
    dimensions: Iterable[int] = (),
    name: str = "model",
) -> dict[str, dict[str, Any]]:
    """Score one model on every task.

    Returns:
        Per task: `main` (0 to 100; sts: -100 to 100), `interval_95` (bootstrap over its rows), `protocol` in words;
        with `dimensions`, `dimensions` (width -> main score of so many first numbers); and by kind
        sts: `spearman`, `pearson`, and `note` where all similarities are equal, which scores 0;
        classification: `n_shot` and `full_probe`, each `accuracy`, `macro_f1`, `deviation` (of the accuracy over
        draws), `converged`;
        retrieval and reranking: `ndcg`, `reciprocal_rank` (both of the first 10), `recall` (of the first 100),
        `average_precision`, in percent, `documents`, their number, and `bytes_per_document`, of fp32 vectors;
        pairs: `average_precision`; `accuracy`, `f1`, `precision`, `recall` at a `threshold` chosen on other pairs (null
        without them); `oracle_accuracy` and `oracle_threshold`, chosen on the very pairs that are scored.

    Raises:
        UserError: see `check_tasks`; a dimension above the model's width.
        RuntimeError: the vectors of the model, called by its `name`, are not finite.
    """
    check_tasks(tasks)
    vectors, _ = embed_tasks(model, tasks, name, batch_size, autocast_dtype)
    return _score(vectors, tasks, bootstrap_samples, seed, list(dimensions))[0]


def main_scores(
    model: EmbeddingModel,
    tasks: list[TaskData],
    *,
    batch_size: int,
    autocast_dtype: torch.dtype | None = None,
    name: str = "model",
) -> dict[str, float]:
    """Return every task's main score and nothing else: after an epoch, where time counts. Raises: see `score_tasks`."""
    check_tasks(tasks)
    vectors, _ = embed_tasks(model, tasks, name, batch_size, autocast_dtype)
    return {data.task.name: main_score(measure(data, vectors, full=False)[1], data) for data in tasks}


def agreement(teacher_vectors: np.ndarray, student_vectors: np.ndarray) -> dict[str, float] | None:
    """Measure how far two models agree on the similarity of the same sentences.

    Args:
        teacher_vectors: `[num_sentences, H_teacher]`.
        student_vectors: `[num_sentences, H_student]`, of the same sentences.

    Returns:
        `similarity_spearman`: rank correlation (-100 to 100) of the cosines of all pairs of sentences;
        `same_neighbour_share`: share (0 to 1) of the sentences whose nearest other one is the same for both.
        None for fewer than three sentences.
    """
    if len(teacher_vectors) < SMALLEST_SAMPLE:
        return None
    upper = np.triu_indices(len(teacher_vectors), k=1)
    pairs, neighbours = [], []
    for vectors in (teacher_vectors, student_vectors):
        units = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        similarities = (units @ units.T).astype(np.float64)
        pairs.append(similarities[upper])
        np.fill_diagonal(similarities, -np.inf)
        neighbours.append(similarities.argmax(axis=1))
    return {
        "similarity_spearman": float(spearman(*pairs)[0]),
        "same_neighbour_share": float(np.mean(neighbours[0] == neighbours[1])),
    }


def _score_files(
    candidates: dict[str, Candidate], tasks: list[TaskData], sentences: list[str], bootstrap_samples: int, seed: int
) -> tuple[dict[str, Candidate], dict[str, Any], dict[str, Any], dict[str, np.ndarray]]:
    """Score what is known by its vectors only.

    Returns:
        The candidates, one that lacks vectors with the reason; entries, resamples and vectors of `sentences`, by name.
    """
    models, resamples, held_out = {}, {}, {}
    for name, file in {name: c.vectors for name, c in candidates.items() if c.vectors is not None}.items():
        if not file.missing(sentences):
            held_out[name] = file.of(sentences, "held-out sentences")
        if missing := file.missing([text for _, text in texts_of(tasks)]):
            skipped = f"no vectors of {len(missing):,} texts of the tasks"
            candidates = candidates | {name: replace(candidates[name], skipped=skipped)}
            continue
        scores, resamples[name] = _score(look_up(file, tasks), tasks, bootstrap_samples, seed, [])
        models[name] = {"tasks": scores} | _average(scores, resamples[name]) | describe_vectors(file)
    return candidates, models, resamples, held_out


def _score(
    vectors: Vectors | TokenVectors, tasks: list[TaskData], bootstrap_samples: int, seed: int, dimensions: list[int]
) -> tuple[dict[str, dict[str, Any]], dict[str, np.ndarray]]:
    """Score all tasks: their numbers, and their main scores under resampled rows, `[bootstrap_samples]`."""
    width = vectors.values.shape[1] if dimensions else 0
    if too_wide := [number for number in dimensions if number > width]:
        raise UserError(f"evaluate.dimensions: expected at most the width {width}, got {too_wide[0]}; leave it out")
    scores, resamples = {}, {}
    for place, data in enumerate(tasks):
        name, num_rows = data.task.name, len(data.test)
        numbers, statistic = measure(data, vectors, full=True)
        # seeded by the task's place, not by the model: the same resamples for every model
        resamples[name] = bootstrap(statistic, num_rows, bootstrap_samples, [seed, place])
        scores[name] = {"main": main_score(statistic, data), "interval_95": interval(resamples[name])} | numbers
        if dimensions:
            cuts = {number: measure(data, vectors.cut(number), full=False)[1] for number in dimensions}
            scores[name]["dimensions"] = {str(number): main_score(cut, data) for number, cut in cuts.items()}
    return scores, resamples


def _score_model(
    vectors: Vectors | TokenVectors,
    held_out: np.ndarray,
    tasks: list[TaskData],
    bootstrap_samples: int,
    seed: int,
    widths: list[int],
    quantisations: Sequence[Storage],
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Score all tasks by whole vectors, some first numbers and stored ones: a model's entry, and its resamples."""
    scores, resamples = _score(vectors, tasks, bootstrap_samples, seed, widths)
    stored = add_stored_scores(scores, tasks, vectors, held_out, widths, quantisations)
    return {"tasks": scores} | _average(scores, resamples) | stored, resamples


def _average(scores: dict[str, dict[str, Any]], resamples: dict[str, np.ndarray]) -> dict[str, Any]:
    """Average a model's main scores over the tasks, each task counting the same."""
    return {
        "average": float(np.mean([numbers["main"] for numbers in scores.values()])),
        "interval_95": interval(np.mean(list(resamples.values()), axis=0)),
    }


def _describe_model(model: EmbeddingModel, autocast_dtype: torch.dtype | None) -> dict[str, Any]:
    """Describe a model: its size, and how it is read."""
    reading, dtype = model.reading, autocast_dtype or next(model.parameters()).dtype
    return {
        "parameters": count_parameters(model),
        "size_bytes": count_bytes(model),
        "width": model.width,
        "num_layers": model.num_layers,
        "pooling": reading.pooling if reading.late is None else "none, MaxSim of tokens",
        "token_vectors": reading.late is not None,
        "normalize": reading.normalize,
        "prompt": reading.prompt,
        "max_length": reading.max_length,
        "device": model.device.type,
        "precision": str(dtype).removeprefix("torch."),
    }


def _describe_task(data: TaskData) -> dict[str, Any]:
    """Describe the rows on which a task's scores were measured."""
    return {
        "kind": data.task.kind,
        "metric": METRICS[data.task.kind],
        "rows": len(data.test),
        "fit_rows": None if data.fit is None else len(data.fit),
        "source": data.test.source,
        "revision": data.task.revision,
        "notes": list(data.notes),
    }


def _compare_with_teacher(
    candidates: dict[str, Candidate], models: dict[str, dict[str, Any]], held_out: dict[str, np.ndarray]
) -> dict[str, Any]:
    """Put every candidate's entry in order, with what it shares with the teacher."""
    teacher = next(name for name in candidates if candidates[name].role == "teacher")
    level = models[teacher]["average"] if teacher in models else 0.0
    entries: dict[str, Any] = {}
    for name, candidate in candidates.items():
        if name not in models:
            entries[name] = {"role": candidate.role, "skipped": candidate.skipped}
            continue
        entries[name] = {"role": candidate.role} | models[name]
        entries[name]["share_of_teacher"] = models[name]["average"] / level if level > 0 else None
        sees = name in held_out
        entries[name]["mean_off_diagonal_cosine"] = mean_off_diagonal_cosine(held_out[name]) if sees else None
        compared = name != teacher and teacher in held_out
        entries[name]["agreement"] = agreement(held_out[teacher], held_out[name]) if compared else None
    return entries


def _student_of(candidates: dict[str, Candidate]) -> str:
    return next(name for name, candidate in candidates.items() if candidate.role == "student")


def _differences(
    candidates: dict[str, Candidate],
    models: dict[str, dict[str, Any]],
    resamples: dict[str, dict[str, np.ndarray]],
) -> dict[str, Any]:
    """Subtract every other model's main scores from the student's, resample by resample."""
    student = _student_of(candidates)
    differences: dict[str, Any] = {}
    for name in models:
        if name == student:
            continue
        gained = {task: resamples[student][task] - values for task, values in resamples[name].items()}
        gain = {
            task: numbers["main"] - models[name]["tasks"][task]["main"]
            for task, numbers in models[student]["tasks"].items()
        }
        differences[name] = {
            "average": {
                "difference": float(np.mean(list(gain.values()))),
                "interval_95": interval(np.mean(list(gained.values()), axis=0)),
            },
            "tasks": {task: {"difference": gain[task], "interval_95": interval(gained[task])} for task in gain},
        }
    return differences
