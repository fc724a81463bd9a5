"""Retrieval and reranking tasks: folders as BEIR has them, hub data sets, lists, and files without a score."""

import json

import pytest

from kdkit.config.tasks import Task
from kdkit.embeddings.data import retrieval
from kdkit.embeddings.data.retrieval import load_rankings
from kdkit.errors import UserError

CORPUS = [{"_id": "a", "title": "Rivers", "text": "run"}, {"_id": "b", "text": "Stones lie"}, {"_id": "c", "text": ""}]
QUERIES = [{"_id": "1", "text": "what runs"}, {"_id": "2", "text": "what lies"}, {"_id": "3", "text": " "}]
HEADING = "query-id\tcorpus-id\tscore\n"


@pytest.fixture
def folder(tmp_path):
    """Write a folder: `folder(judgements, queries=..., corpus=...)` returns its task."""

    def write(judgements, queries=QUERIES, corpus=CORPUS, **options):
        (tmp_path / "qrels").mkdir(exist_ok=True)
        for name, rows in (("corpus", corpus), ("queries", queries)):
            (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        if judgements is not None:
            (tmp_path / "qrels/test.tsv").write_text(judgements)
        return Task(name="R", kind="retrieval", path=str(tmp_path), **options)

    return write


def refusal(task) -> str:
    """Return the message of the refusal of a task; it must fit one line."""
    with pytest.raises(UserError) as caught:
        load_rankings(task)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("lines", ["1\ta\t2\n2\tb\t1\n1\tb\t0\n", "1 0 a 2\n2 0 b 1\n1 0 b 0\n"])
@pytest.mark.parametrize("heading", [HEADING, ""])
def test_titles_join_texts_and_grades_join_documents(folder, lines, heading):
    found = load_rankings(folder(heading + lines))
    assert found.queries == ["what runs", "what lies"]
    assert found.documents == ["Rivers run", "Stones lie"]
    assert [rows.tolist() for rows in found.relevant] == [[0], [1]]
    assert [rows.tolist() for rows in found.grades] == [[2.0], [1.0]]


def test_what_cannot_be_scored_is_left_out_and_counted(folder):
    lines = "1\ta\t1\n1\tmissing\t1\n1\tc\t1\n3\ta\t1\nnobody\ta\t1\n"
    found = load_rankings(folder(HEADING + lines))
    assert found.queries == ["what runs"]
    assert found.notes == [
        "R: 1 documents without text are left out",
        "R: 1 queries without text are left out",
        "R: 4 judgements of queries or documents that are not there are left out",
        "R: 1 queries without a relevant document are left out",
    ]


def test_a_query_does_not_find_itself(folder):
    queries = [{"_id": "a", "text": "Rivers run"}, {"_id": "2", "text": "what lies"}]
    assert load_rankings(folder("a\tb\t1\n2\tb\t1\n", queries)).left_out.tolist() == [0, -1]


def test_folders_without_judgements_are_refused(folder):
    assert "got no qrels/test.tsv" in refusal(folder(None))
    assert "expected judgements above 0, got 0 judgements" in refusal(folder(HEADING))
    assert "got 1 judgements and none above 0" in refusal(folder("1\ta\t0\n"))
    assert "got 1 judgements of others" in refusal(folder("9\ta\t1\n"))
    assert "in line 2 of" in refusal(folder("1\ta\t1\n1\ta\n"))
    (task := folder("1\ta\t1\n"))
    assert "its splits are test, set split" in refusal(task.model_copy(update={"split": "dev"}))


def test_rows_without_text_and_ids_that_come_twice_are_refused(folder):
    assert "expected every _id once in the corpus, got 'a' twice" in refusal(folder("1\ta\t1\n", corpus=CORPUS[:1] * 2))
    assert "in every row of the queries, got _id in row 1" in refusal(folder("1\ta\t1\n", queries=[{"_id": "1"}]))


def test_a_hub_data_set_has_its_parts_in_configurations(monkeypatch):
    parts = {
        ("corpus", "corpus"): CORPUS,
        ("queries", "queries"): QUERIES,
        ("qrels", "test"): [{"query-id": 1, "corpus-id": "a", "score": 1}],
    }

    def read(path, key, *, name, split, revision):
        if (name, split) not in parts:
            raise UserError(f"{name}: expected to be there, got nothing; name another")
        return parts[name, split]

    monkeypatch.setattr(retrieval, "read_rows", read)
    found = load_rankings(Task(name="R", kind="retrieval", path="mteb/rivers"))
    assert (found.queries, found.relevant[0].tolist()) == (["what runs"], [0])
    del parts["qrels", "test"]
    assert "qrels: expected to be there" in refusal(Task(name="R", kind="retrieval", path="mteb/rivers"))


def test_lists_may_hold_one_document_or_several(tmp_path):
    rows = [
        {"query": "q", "positive": ["x", ""], "negative": ["y", "x", "z"]},
        {"query": "r", "positive": "y", "negative": "x"},
        {"query": "s", "positive": "y", "negative": []},
    ]
    (tmp_path / "lists.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = Task(name="L", kind="reranking", path=str(tmp_path / "lists.jsonl"))
    found = load_rankings(task)
    assert found.documents == ["x", "y", "z"]
    assert [rows.tolist() for rows in found.candidates] == [[0, 1, 2], [1, 0]]
    assert [rows.tolist() for rows in found.relevant] == [[0], [1]]
    assert found.notes == [
        "L: 1 documents without text are left out",
        "L: 1 rows without query, positive or negative document are left out",
    ]
    assert "got no 'anchor' among query" in refusal(task.model_copy(update={"columns": {"query": "anchor"}}))
