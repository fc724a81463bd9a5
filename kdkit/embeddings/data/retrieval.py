"""Queries, documents and judgements: of a folder in the shape of BEIR, of a hub data set, or of lists to be reranked.

What cannot be scored is left out and counted in `notes`: queries without a relevant document, judgements of unknown
ids, documents and queries without text.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdkit.config.tasks import Task
from kdkit.data.rows import Row, read_rows
from kdkit.data.text.corpora import clean_text
from kdkit.embeddings.data.sentences import Sentences
from kdkit.errors import UserError
from kdkit.runs.folder import fingerprint
from kdkit.runs.paths import resolve_input

NONE = -1
"""In `Rankings.left_out`: nothing is."""
Judgements = dict[str, dict[str, float]]
"""Grade by query id and document id."""


@dataclass(frozen=True)
class Rankings:
    """Queries and the documents that are ranked for each of them."""

    queries: list[str]
    documents: list[str]
    relevant: list[np.ndarray]
    """int64, `[R]` for each query: its relevant documents, at least one."""
    grades: list[np.ndarray]
    """`[R]` for each query: their grades, above 0."""
    candidates: list[np.ndarray] | None
    """int64 for each query: the documents that are ranked; None: all."""
    left_out: np.ndarray
    """int64, `[queries]`: the document that is the query itself, by its id, and is not ranked; -1: none."""
    source: str
    notes: list[str]

    def as_sentences(self) -> Sentences:
        """Return the queries as the rows of a task."""
        return Sentences(self.queries, None, None, None, self.source, fingerprint(self.queries, self.documents))


def load_rankings(task: Task) -> Rankings:
    """Read a task of kind `retrieval` or `reranking`.

    Raises:
        UserError: a file or a column is missing; an id twice; no judgements, or none of known ids; nothing to rank.
    """
    key = f"evaluate.tasks.{task.name}.path"
    return _load_retrieval(task, key) if task.kind == "retrieval" else _load_lists(task, key)


def _load_retrieval(task: Task, key: str) -> Rankings:
    """Read corpus, queries and judgements of a folder or of a hub data set."""
    folder = resolve_input(task.path)
    if folder.is_dir():
        corpus, queries, judged = _read_folder(folder, task, key)
    else:
        corpus, queries, judged = _read_hub(task, key)
    return rank_corpus(_texts(corpus, key, "corpus"), _texts(queries, key, "queries"), judged, task, key)


def rank_corpus(corpus: dict[str, str], queries: dict[str, str], judged: Judgements, task: Task, key: str) -> Rankings:
    """Put texts and judgements together.

    Args:
        corpus, queries: text by id.
        key: the setting that named them, for messages.

    Raises:
        UserError: no judgement above 0, or none of a query and a document that are there.
    """
    documents = {name: text for name, text in corpus.items() if text}
    asked = {name: text for name, text in queries.items() if text}
    positive = {query: {d: g for d, g in grades.items() if g > 0} for query, grades in judged.items()}
    total = sum(map(len, positive.values()))
    if not total:
        raise UserError(
            f"{key}: expected judgements above 0, got {sum(map(len, judged.values()))} judgements and none above 0 in "
            f"{task.path!r} (split {task.split!r}); name another split"
        )
    known = {
        query: {d: g for d, g in positive[query].items() if d in documents} for query in asked if query in positive
    }
    kept = [query for query, grades in known.items() if grades][: task.max_rows]
    lost = total - sum(map(len, known.values()))
    if not kept:
        raise UserError(
            f"{key}: expected judgements of queries and documents that are there, got {total} judgements of others in "
            f"{task.path!r} (split {task.split!r}); check their ids"
        )
    number = {name: place for place, name in enumerate(documents)}
    counts = {
        "documents without text are left out": len(corpus) - len(documents),
        "queries without text are left out": len(queries) - len(asked),
        "judgements of queries or documents that are not there are left out": lost,
        "queries without a relevant document are left out": len(asked) - sum(bool(g) for g in known.values()),
    }
    return Rankings(
        queries=[asked[name] for name in kept],
        documents=list(documents.values()),
        relevant=[np.array([number[d] for d in known[name]], dtype=np.int64) for name in kept],
        grades=[np.array(list(known[name].values())) for name in kept],
        candidates=None,
        left_out=np.array([number.get(name, NONE) if name not in known[name] else NONE for name in kept]),
        source=task.path,
        notes=_notes(task, counts),
    )


def _notes(task: Task, counts: dict[str, int]) -> list[str]:
    return [f"{task.name}: {count:,} {what}" for what, count in counts.items() if count]


def _read_folder(folder: Path, task: Task, key: str) -> tuple[list[Row], list[Row], Judgements]:
    """Read corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv."""
    names = ("corpus.jsonl", "queries.jsonl", f"qrels/{task.split}.tsv")
    if missing := [name for name in names if not (folder / name).is_file()]:
        there = sorted(file.stem for file in folder.glob("qrels/*.tsv"))
        splits = f"; its splits are {', '.join(there)}, set split" if there else "; put it there"
        raise UserError(f"{key}: expected {', '.join(names)} in {task.path!r}, got no {missing[0]}{splits}")
    corpus, queries = (read_rows(str(folder / name), key) for name in names[:2])
    return corpus, queries, _read_judgements(folder / names[2], key)


def _read_judgements(file: Path, key: str) -> Judgements:
    """Read lines of query, document, grade (BEIR, with or without its heading), or query, 0, document, grade (TREC)."""
    judged: Judgements = {}
    for number, line in enumerate(file.read_text(encoding="utf-8-sig").splitlines(), start=1):
        parts = line.split("\t") if "\t" in line else line.split()
        if not line.strip() or (number == 1 and not _is_number(parts[-1])):
            continue
        if len(parts) not in (3, 4) or not _is_number(parts[-1]):
            raise UserError(
                f"{key}: expected query-id, corpus-id, score, got {line[:80]!r} in line {number} of {str(file)!r}; "
                "separate them by tabs"
            )
        judged.setdefault(parts[0].strip(), {})[parts[-2].strip()] = float(parts[-1])
    return judged


def _is_number(text: str) -> bool:
    try:
        return abs(float(text)) < float("inf")
    except ValueError:
        return False


def _read_hub(task: Task, key: str) -> tuple[list[Row], list[Row], Judgements]:
    """Read the configurations `corpus`, `queries` and `default` or `qrels` of a hub data set, as MTEB has them."""
    if task.path.startswith(("/", ".", "~")):
        raise UserError(
            f"{key}: expected a folder with corpus.jsonl, queries.jsonl and qrels/{task.split}.tsv, or a hub data set, "
            f"got {task.path!r}, which does not exist (in {Path.cwd()}); correct the path"
        )
    corpus = _read_first(task, key, [("corpus", "corpus"), ("corpus", task.split)])
    queries = _read_first(task, key, [("queries", "queries"), ("queries", task.split)])
    named = [task.configuration] if task.configuration else ["default", "qrels"]
    judged: Judgements = {}
    for row in _read_first(task, key, [(name, task.split) for name in named]):
        query, document, score = (row.get(column) for column in ("query-id", "corpus-id", "score"))
        if query is None or document is None or score is None:
            raise UserError(
                f"{key}: expected the columns query-id, corpus-id, score, got {', '.join(row)} in {task.path!r}; "
                "name the configuration that has the judgements"
            )
        judged.setdefault(str(query), {})[str(document)] = float(score)
    return corpus, queries, judged


def _read_first(task: Task, key: str, places: list[tuple[str, str]]) -> list[Row]:
    """Return the rows of the first configuration and split that are there."""
    for name, split in places[:-1]:
        try:
            return read_rows(task.path, key, name=name, split=split, revision=task.revision)
        except UserError:
            continue  # data sets differ in how they call it
    name, split = places[-1]
    return read_rows(task.path, key, name=name, split=split, revision=task.revision)


def _texts(rows: list[Row], key: str, what: str) -> dict[str, str]:
    """Return text by id; a document's title stands before its text."""
    texts: dict[str, str] = {}
    for number, row in enumerate(rows, start=1):
        name = row.get("_id", row.get("id"))
        if name is None or "text" not in row:
            raise UserError(
                f"{key}: expected _id and text in every row of the {what}, got {', '.join(row)} in row {number}; "
                "correct the row"
            )
        if str(name) in texts:
            raise UserError(f"{key}: expected every _id once in the {what}, got {name!r} twice; rename one of them")
        parts = (row.get(part) for part in ("title", "text"))
        texts[str(name)] = clean_text(" ".join(str(part) for part in parts if part)).strip()
    return texts


def _load_lists(task: Task, key: str) -> Rankings:
    """Read rows of a query, its relevant documents and others."""
    rows = read_rows(task.path, key, name=task.configuration, split=task.split, revision=task.revision)
    columns = {role: task.columns.get(role, role) for role in ("query", "positive", "negative")}
    if missing := [column for column in columns.values() if column not in rows[0]]:
        raise UserError(
            f"{key}: expected the columns {', '.join(columns.values())} in {task.path!r}, got no {missing[0]!r} among "
            f"{', '.join(rows[0])}; name yours: evaluate.tasks.{task.name}.columns={{query: NAME, ...}}"
        )
    numbers: dict[str, int] = {}
    queries, relevant, candidates, empty, unranked = [], [], [], 0, 0
    for row in rows[: task.max_rows]:
        (query,), positive, negative = (_listed(row[column], column, key) for column in columns.values())
        kept = [[text for text in dict.fromkeys(texts) if text] for texts in (positive, negative)]
        empty += sum(not text for text in [*positive, *negative])
        others = [text for text in kept[1] if text not in kept[0]]
        if not (query and kept[0] and others):
            unranked += 1
            continue
        queries.append(query)
        places = [numbers.setdefault(text, len(numbers)) for text in [*kept[0], *others]]
        relevant.append(np.array(places[: len(kept[0])], dtype=np.int64))
        candidates.append(np.array(places, dtype=np.int64))
    if not queries:
        raise UserError(
            f"{key}: expected rows with a query, a positive and a negative document, got none in {task.path!r}; "
            "correct the file"
        )
    counts = {
        "documents without text are left out": empty,
        "rows without query, positive or negative document are left out": unranked,
    }
    grades = [np.ones(len(found)) for found in relevant]
    nothing = np.full(len(queries), NONE)
    return Rankings(queries, list(numbers), relevant, grades, candidates, nothing, task.path, _notes(task, counts))


def _listed(value: Any, column: str, key: str) -> list[str]:
    """Return the texts of a cell: one, or a list of them; null is no text."""
    texts: Iterable[Any] = value if isinstance(value, list) else [value]
    found = [clean_text(text).strip() if isinstance(text, str) else text for text in texts]
    if wrong := [text for text in found if not (text is None or isinstance(text, str))]:
        raise UserError(f"{key}: expected text or a list of texts in {column!r}, got {wrong[0]!r}; correct the row")
    return [text or "" for text in found]
