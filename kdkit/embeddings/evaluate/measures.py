"""Scores of a model's vectors on one task: similarity, classification, pairs or rankings.

All vectors are compared by their cosine and have length 1 before a probe is fitted on them, whatever the model does by
itself.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from kdkit.config.tasks import RANKED
from kdkit.embeddings.data.sentences import Sentences
from kdkit.embeddings.data.tasks import TaskData
from kdkit.embeddings.evaluate.late import TokenVectors
from kdkit.embeddings.evaluate.ranking import rank, rank_by
from kdkit.embeddings.evaluate.scores import (
    NUM_DRAWS,
    Probe,
    average_precision,
    best_threshold,
    cosines,
    decide,
    full_probe,
    is_constant,
    n_shot,
    pearson,
    spearman,
)
from kdkit.errors import UserError

Statistic = Callable[[np.ndarray], np.ndarray]
"""A task's main score, `[resamples]`, under weights of its rows, `[resamples, rows]`."""

PromptedText = tuple[str, str]
"""A prompt as tasks name it (`Task.query_prompt`; empty: what the model always reads), and a text."""


@dataclass(frozen=True)
class Vectors:
    """Vectors of distinct texts."""

    values: np.ndarray
    """fp32, `[num_texts, H]`, each of length 1."""
    places: dict[PromptedText, int]
    """The line of each text."""

    def of(self, texts: list[str], prompt: str = "") -> np.ndarray:
        """Return the vectors of texts behind a prompt, in their order: `[num_texts, H]`."""
        return self.values[[self.places[prompt, text] for text in texts]]

    def cut(self, width: int) -> "Vectors":
        """Keep the first numbers of every vector (Matryoshka), at length 1 again."""
        values = self.values[:, :width]
        lengths = np.linalg.norm(values, axis=1, keepdims=True)
        return Vectors(values / np.where(lengths == 0.0, 1.0, lengths), self.places)


def check_tasks(tasks: list[TaskData]) -> None:
    """Refuse tasks that have no score, before anything is trained or encoded.

    Raises:
        UserError: no tasks; gold scores that are all equal; pairs of one kind only; a classification without texts to
            fit on, or with one label only.
    """
    if not tasks:
        raise UserError("evaluate.tasks: expected a task, got none; name a data set to judge the embeddings by")
    for data in tasks:
        rows = f"evaluate.tasks {data.task.name!r}: expected"
        if data.task.kind == "sts" and is_constant(np.array(data.test.scores)):
            raise UserError(f"{rows} scores that differ, got {data.test.scores[0]:g} only; check score and max_rows")
        if data.task.kind == "classification" and data.fit is None:
            raise UserError(f"{rows} texts to fit a probe on, got none; set fit_path or fit_split")
        if data.task.kind == "classification" and len(labels := set(data.fit.labels)) < 2:
            raise UserError(f"{rows} two labels to fit on, got only {labels.pop()!r}; check label and max_rows")
        if data.task.kind == "pairs" and len(kinds := set(_positives(data, data.test))) < 2:
            found = f"label {data.task.positive_label!r} only" if kinds.pop() else f"no {data.task.positive_label!r}"
            raise UserError(f"{rows} related and unrelated pairs, got {found}; check positive_label and max_rows")


def texts_of(tasks: list[TaskData]) -> list[PromptedText]:
    """Return all texts of the tasks, each with its prompt."""
    texts: list[PromptedText] = []
    for data in tasks:
        if data.rankings is not None:
            texts += [(data.task.query_prompt, text) for text in data.rankings.queries]
            texts += [(data.task.document_prompt, text) for text in data.rankings.documents]
        else:
            texts += [("", text) for split in (data.test, data.fit) if split is not None for text in split.texts()]
    return texts


def main_score(statistic: Statistic, data: TaskData) -> float:
    """Return the main score of all rows as they are."""
    return float(statistic(np.ones((1, len(data.test))))[0])


def measure(data: TaskData, vectors: Vectors | TokenVectors, full: bool) -> tuple[dict[str, Any], Statistic]:
    """Measure a task: its numbers, and its main score as a function of the rows' weights.

    Args:
        full: false leaves out what the main score does not need.
    """
    by_kind = {"sts": _measure_sts, "classification": _measure_classification, "pairs": _measure_pairs}
    by_kind |= dict.fromkeys(RANKED, _measure_rankings)
    return by_kind[data.task.kind](data, vectors, full)


def _measure_sts(data: TaskData, vectors: Vectors, full: bool) -> tuple[dict[str, Any], Statistic]:
    """Correlate cosines with gold scores."""
    similarities, gold = _similarities(data.test, vectors), np.array(data.test.scores)
    statistic = partial(spearman, similarities, gold)
    numbers: dict[str, Any] = {"protocol": "rank correlation of cosines and scores, all pairs together"}
    if full:
        constant = is_constant(similarities)
        numbers["spearman"] = main_score(statistic, data)
        numbers["pearson"] = 0.0 if constant else float(pearson(similarities, gold, np.ones((1, len(gold))))[0])
        if constant:
            numbers["note"] = "all similarities are equal: no correlation is defined, counted as 0"
    return numbers, statistic


def _measure_classification(data: TaskData, vectors: Vectors, full: bool) -> tuple[dict[str, Any], Statistic]:
    """Fit linear probes on frozen vectors."""
    arrays = [array for split in (data.fit, data.test) for array in (vectors.of(split.first), np.array(split.labels))]
    few = n_shot(*arrays, data.task.samples_per_label)
    numbers: dict[str, Any] = {"protocol": _probe_protocol(data)}
    if full:
        numbers["n_shot"], numbers["full_probe"] = _probe_numbers(few), _probe_numbers(full_probe(*arrays))
    return numbers, lambda weights: 100.0 * (weights @ few.correct) / weights.sum(axis=1)


def _measure_pairs(data: TaskData, vectors: Vectors, full: bool) -> tuple[dict[str, Any], Statistic]:
    """Classify pairs as related by their cosine."""
    similarities, positives = _similarities(data.test, vectors), _positives(data, data.test)
    statistic = partial(average_precision, similarities, positives)
    other = "no threshold was chosen" if data.fit is None else f"threshold chosen on {len(data.fit):,} other pairs"
    numbers: dict[str, Any] = {"protocol": f"average precision of cosines; {other}"}
    if full:
        oracle = decide(similarities, positives, best_threshold(similarities, positives))
        numbers["average_precision"] = main_score(statistic, data)
        numbers |= dict.fromkeys(asdict(oracle))
        if data.fit is not None:
            chosen = best_threshold(_similarities(data.fit, vectors), _positives(data, data.fit))
            numbers |= asdict(decide(similarities, positives, chosen))
        numbers |= {"oracle_accuracy": oracle.accuracy, "oracle_threshold": oracle.threshold}
    return numbers, statistic


def _measure_rankings(data: TaskData, vectors: Vectors | TokenVectors, full: bool) -> tuple[dict[str, Any], Statistic]:
    """Rank documents by their cosine with the query, or by MaxSim where there is a vector for every token."""
    task, rankings = data.task, data.rankings
    if isinstance(vectors, TokenVectors):
        documents = np.array(rankings.documents, object)
        figures = rank_by(rankings, partial(_score_texts, vectors, rankings.queries, documents))
        by, size = "MaxSim of token vectors", vectors.bytes_per_document(rankings.documents)
    else:
        asked, found = (
            vectors.of(texts, prompt)
            for texts, prompt in ((rankings.queries, task.query_prompt), (rankings.documents, task.document_prompt))
        )
        figures, by, size = rank(rankings, asked, found), "cosine", 4.0 * found.shape[1]
    is_search = task.kind == "retrieval"
    values = 100.0 * (figures.ndcg if is_search else figures.average_precision)
    what = (
        f"nDCG@10, all {len(rankings.documents):,} documents" if is_search else "mean average precision, its own list"
    )
    numbers: dict[str, Any] = {"protocol": f"{what} ranked by {by} for each query; equal ones in the worst order"}
    if full:
        numbers |= {"documents": len(rankings.documents), "bytes_per_document": size}
        numbers |= {name: 100.0 * float(value.mean()) for name, value in vars(figures).items()}
    return numbers, lambda weights: (weights @ values) / weights.sum(axis=1)


def _score_texts(
    vectors: TokenVectors, queries: list[str], documents: np.ndarray, asked: slice, found: np.ndarray | slice
) -> np.ndarray:
    """Return MaxSim of some queries and documents, given by their places: `[Q, D]`."""
    return vectors.score(queries[asked], documents[found].tolist())


def _similarities(split: Sentences, vectors: Vectors) -> np.ndarray:
    """Return the cosine of every pair, `[rows]`."""
    return cosines(vectors.of(split.first), vectors.of(split.second))


def _positives(data: TaskData, split: Sentences) -> np.ndarray:
    """Return whether each pair is related, `[rows]`."""
    return np.array([label == data.task.positive_label for label in split.labels])


def _probe_protocol(data: TaskData) -> str:
    """Describe in words how the probes were fitted."""
    wanted, (rarest, found) = data.task.samples_per_label, Counter(data.fit.labels).most_common()[-1]
    fewer = f" ({found} of {rarest!r}, which has no more)" if found < wanted else ""
    return (
        f"n-shot: {wanted} texts per label{fewer}, {NUM_DRAWS} draws, mean; full probe: all {len(data.fit):,} texts; "
        "logistic regression on vectors of length 1"
    )


def _probe_numbers(probe: Probe) -> dict[str, Any]:
    """Return the numbers of a probe that a report shows."""
    names = ("accuracy", "macro_f1", "deviation", "converged")
    return {name: getattr(probe, name) for name in names}
