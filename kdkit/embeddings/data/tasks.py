"""The data sets on which embeddings are evaluated: files, hub data sets, and two made of held-out sentences."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kdkit.config.embeddings import EmbeddingConfig
from kdkit.config.tasks import RANKED, Task
from kdkit.data.rows import is_data_file
from kdkit.data.text.corpora import PYTHON_DOCS
from kdkit.embeddings.data.retrieval import Rankings, load_rankings
from kdkit.embeddings.data.sentences import Sentences, dropped_words, load_sentences, refuse_hub_settings
from kdkit.errors import UserError
from kdkit.runs.folder import fingerprint
from kdkit.runs.paths import resolve_input

NUM_TOPICS = 10
"""Most classes of `python-docs topics`: the largest held-out documents."""
MIN_TOPIC_SENTENCES = 6
"""Shorter documents are no topic."""


@dataclass(frozen=True)
class TaskData:
    """The rows of one task."""

    task: Task
    test: Sentences
    """Rows that are scored; of rankings, the queries."""
    fit: Sentences | None
    """Rows that a probe is fitted on, or that a threshold is chosen on; None: only what needs no fitting."""
    notes: list[str] = field(default_factory=list)
    """Caveats for a reader of the scores."""
    rankings: Rankings | None = None
    """Documents and judgements of a task that ranks."""


def load_tasks(config: EmbeddingConfig, cache_path: Path) -> list[TaskData]:
    """Read the data sets of `evaluate.tasks`.

    Raises:
        UserError: see `load_sentences`, `load_rankings`; a column that the kind of task needs is missing; no pair, or
            no other, has the label of a related pair; fewer than two labels to classify.
    """
    return [_load(task, cache_path) for task in config.evaluate.tasks]


def embedded_tasks(sentences: list[str], documents: list[int] | None, seed: int) -> list[TaskData]:
    """Make two small tasks of held-out sentences of Python's documentation; no benchmark, but there without any file.

    `python-docs neighbours` (pairs): two sentences that follow each other in a document, label 1, against two of
    different documents, label 0. `python-docs topics` (classification): which document a sentence comes from.

    Args:
        sentences: held-out sentences, in the order of the text.
        documents: number of each one's document; None: there are none, and no tasks.
        seed: of the draws.

    Returns:
        The tasks that there are enough documents for, each with halves to fit on and to test on.
    """
    tasks = [] if documents is None else [_neighbours(sentences, documents, seed), _topics(sentences, documents, seed)]
    return [task for task in tasks if task is not None]


def _load(task: Task, cache_path: Path) -> TaskData:
    """Read one task and check that it can be scored."""
    if task.kind in RANKED:
        rankings = load_rankings(task)
        return TaskData(task, rankings.as_sentences(), None, rankings.notes, rankings)
    key = f"evaluate.tasks.{task.name}"
    if is_data_file(task.path):
        refuse_hub_settings(task, ("split", "configuration", "revision"), key, task.path)
    shared = {"columns": dict(task.columns), "text_ok": task.kind == "classification", "bad_rows": task.bad_rows}
    shared["roles"] = ("score",) if task.kind == "sts" else ("label",)
    hub = {"name": task.configuration, "revision": task.revision}
    read = load_sentences(task.path, cache_path, key=f"{key}.path", split=task.split, **hub, **shared)
    test = read.take(range(len(read))[: task.max_rows])
    fit = None
    if task.fit_path is not None:
        if is_data_file(task.path) and resolve_input(task.fit_path) == resolve_input(task.path):
            raise UserError(
                f"{key}.fit_path: expected other rows than are tested on, got {task.path!r} again; split it"
            )
        fit = load_sentences(task.fit_path, cache_path, key=f"{key}.fit_path", **shared)
    elif task.fit_split is not None:
        if is_data_file(task.path):
            raise UserError(f"{key}.fit_split: expected a hub data set, got the file {task.path!r}; set fit_path")
        fit = load_sentences(task.path, cache_path, key=f"{key}.fit_split", split=task.fit_split, **hub, **shared)
    for part, which in ((test, "path"), (fit, "fit_path" if task.fit_path else "fit_split")):
        if part is not None:
            _check(task, part, f"{key}.{which}")
    return TaskData(task, test, fit, _notes(task, test, fit))


def _check(task: Task, rows: Sentences, key: str) -> None:
    """Refuse rows that lack what the kind of task needs."""
    values, role = (rows.scores, "score") if task.kind == "sts" else (rows.labels, "label")
    if values is None:
        raise UserError(
            f"{key}: expected a column {role!r} for a task of kind {task.kind!r}, got none in {rows.source!r}; name "
            f"it: evaluate.tasks.{task.name}.columns={{{role}: NAME}}"
        )
    found = Counter(values)
    if task.kind == "pairs" and (task.positive_label not in found or len(found) < 2):
        raise UserError(
            f"{key}: expected pairs with the label {task.positive_label!r} (positive_label) and with others, got the "
            f"labels {', '.join(sorted(found)[:8])} in {rows.source!r}; set evaluate.tasks.{task.name}.positive_label"
        )
    if len(found) < 2:
        raise UserError(
            f"{key}: expected at least 2 different {role}s, got {values[0]!r} alone in {rows.source!r}; "
            "name another file, or read more rows"
        )


def _notes(task: Task, test: Sentences, fit: Sentences | None) -> list[str]:
    """Return notes on what is odd about the rows."""
    parts = {"to test on": test} | ({} if fit is None else {"to fit on": fit})
    notes = [f"{task.name}: {dropped_words(part)} {use}" for use, part in parts.items() if part.dropped]
    if fit is None:
        return notes
    if task.kind == "sts":
        return [*notes, f"{task.name}: nothing is fitted to similarities; {fit.source!r} is not used"]
    known_labels = set(fit.labels or [])
    unseen = Counter(label for label in test.labels or [] if label not in known_labels)
    if task.kind == "classification" and unseen:
        names = ", ".join(repr(label) for label in sorted(unseen)[:5])
        notes.append(
            f"{task.name}: {sum(unseen.values())} of {len(test)} test rows have a label that no row to fit on has "
            f"({names}); they count as wrong"
        )
    texts = set(fit.texts())
    if task.kind == "classification" and (known := sum(text in texts for text in test.first)):
        notes.append(f"{task.name}: {known} of {len(test)} test texts are also among the texts to fit on")
    return notes


def _neighbours(sentences: list[str], documents: list[int], seed: int) -> TaskData | None:
    """Pairs of neighbours and as many of strangers, half of the documents to fit on, half to test on."""
    places = np.array(documents)
    found, sizes = np.unique(places, return_counts=True)
    drawn = np.random.default_rng(seed).permutation(len(found))
    order = found[drawn[np.argsort(-sizes[drawn], kind="stable")]]  # by size, so that both halves are about as large
    halves = [_pairs(sentences, places, half, seed) for half in (order[::2], order[1::2])]
    if None in halves:
        return None
    fit, test = halves
    return TaskData(Task(name=f"{PYTHON_DOCS} neighbours", kind="pairs", path=PYTHON_DOCS), test, fit)


def _pairs(sentences: list[str], places: np.ndarray, chosen: np.ndarray, seed: int) -> Sentences | None:
    """Return the neighbours of some documents, and equally many pairs of sentences of two of these documents."""
    rows = np.flatnonzero(np.isin(places, chosen))
    near = rows[np.isin(rows + 1, rows)]
    near = near[places[near] == places[near + 1]]
    if len(near) < 2 or len(np.unique(places[rows])) < 2:
        return None
    generator = np.random.default_rng(seed)
    partners = [generator.choice(rows[places[rows] != places[row]]) for row in near]
    first = [sentences[row] for row in near] * 2
    second = [sentences[row] for row in (*(near + 1), *partners)]
    labels = ["1"] * len(near) + ["0"] * len(near)
    return Sentences(first, second, labels, None, PYTHON_DOCS, fingerprint(first, second, labels))


def _topics(sentences: list[str], documents: list[int], seed: int) -> TaskData | None:
    """The largest documents as classes; of each, a half drawn by the seed to fit on, the rest to test on."""
    largest = [d for d, count in Counter(documents).most_common(NUM_TOPICS) if count >= MIN_TOPIC_SENTENCES]
    if len(largest) < 2:
        return None
    generator, fit_rows, test_rows = np.random.default_rng(seed), [], []
    for document in largest:
        rows = generator.permutation(np.flatnonzero(np.array(documents) == document))
        fit_rows += rows[: len(rows) // 2].tolist()
        test_rows += rows[len(rows) // 2 :].tolist()
    labels = [str(document) for document in documents]
    every = Sentences(sentences, None, labels, None, PYTHON_DOCS, "")
    task = Task(name=f"{PYTHON_DOCS} topics", kind="classification", path=PYTHON_DOCS, samples_per_label=3)
    return TaskData(task, every.take(test_rows), every.take(fit_rows))
