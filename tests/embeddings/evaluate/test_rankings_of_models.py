"""Retrieval and reranking by a model: against sentence-transformers' evaluators, prompts included."""

import json
import shutil
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest

from kdkit.config.embeddings import embedding_config_from_values
from kdkit.config.tasks import Task
from kdkit.embeddings.data.retrieval import Rankings
from kdkit.embeddings.data.tasks import TaskData
from kdkit.embeddings.evaluate.measures import Vectors
from kdkit.embeddings.evaluate.models import main_scores, score_tasks
from kdkit.embeddings.evaluate.prompts import check_prompts, find_prompt
from kdkit.embeddings.evaluate.quantised import score_rescored
from kdkit.embeddings.evaluate.ranking import rank
from kdkit.embeddings.models import embedder
from kdkit.embeddings.models.embedder import encode, load_embedding_model
from kdkit.embeddings.models.late import parse_late
from kdkit.embeddings.models.pooling import Reading
from kdkit.errors import UserError
from tests.embedders import WORDS, save_teacher

COUNTS = {"batch_size": 8, "bootstrap_samples": 100, "seed": 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Save a tiny encoder."""
    return save_teacher(tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="module")
def rankings():
    """Twelve queries and sixty documents of random words, two relevant ones a query."""
    draw = np.random.default_rng(0)
    texts = list(dict.fromkeys(" ".join(draw.choice(WORDS, size=draw.integers(3, 9))) for _ in range(90)))
    relevant = [np.sort(draw.choice(60, size=2, replace=False)) for _ in range(12)]
    grades = [np.ones(2)] * 12
    return Rankings(texts[60:72], texts[:60], relevant, grades, None, np.full(12, -1), "by hand", [])


def as_task(rankings, kind="retrieval", **options):
    """Return the task of rankings."""
    return TaskData(Task(name="R", kind=kind, path="-", **options), rankings.as_sentences(), None, [], rankings)


def test_retrieval_equals_that_of_sentence_transformers(folder, rankings):
    sentence_transformers = pytest.importorskip("sentence_transformers", reason="needs sentence-transformers")
    from sentence_transformers.evaluation import InformationRetrievalEvaluator

    evaluator = InformationRetrievalEvaluator(
        {f"q{n}": text for n, text in enumerate(rankings.queries)},
        {f"d{n}": text for n, text in enumerate(rankings.documents)},
        {f"q{n}": {f"d{d}" for d in found} for n, found in enumerate(rankings.relevant)},
        precision_recall_at_k=[100],
        show_progress_bar=False,
        query_prompt="the ",
        corpus_prompt="it was ",
    )
    theirs = evaluator(sentence_transformers.SentenceTransformer(str(folder), device="cpu"))
    task = as_task(rankings, query_prompt="the ", document_prompt="it was ")
    ours = score_tasks(load_embedding_model(str(folder), "teacher.path"), [task], **COUNTS)["R"]
    assert ours["main"] == pytest.approx(100 * theirs["cosine_ndcg@10"], abs=1e-6)
    assert ours["reciprocal_rank"] == pytest.approx(100 * theirs["cosine_mrr@10"], abs=1e-6)
    assert ours["recall"] == pytest.approx(100 * theirs["cosine_recall@100"], abs=1e-6)
    low, high = ours["interval_95"]
    assert low < ours["main"] < high


def test_reranking_equals_that_of_sentence_transformers(folder, rankings):
    sentence_transformers = pytest.importorskip("sentence_transformers", reason="needs sentence-transformers")
    from sentence_transformers.sentence_transformer.evaluation import RerankingEvaluator

    draw = np.random.default_rng(1)
    lists = [np.unique(np.concatenate([found, draw.integers(60, size=15)])) for found in rankings.relevant]
    samples = [
        {
            "query": query,
            "positive": [rankings.documents[d] for d in found],
            "negative": [rankings.documents[d] for d in own if d not in found],
        }
        for query, found, own in zip(rankings.queries, rankings.relevant, lists, strict=True)
    ]
    evaluator = RerankingEvaluator(samples, at_k=10, show_progress_bar=False)
    theirs = evaluator(sentence_transformers.SentenceTransformer(str(folder), device="cpu"))
    task = as_task(replace(rankings, candidates=lists), "reranking")
    ours = score_tasks(load_embedding_model(str(folder), "teacher.path"), [task], **COUNTS)["R"]
    assert ours["main"] == pytest.approx(100 * theirs["map"], abs=1e-6)
    assert ours["reciprocal_rank"] == pytest.approx(100 * theirs["mrr@10"], abs=1e-6)
    assert ours["ndcg"] == pytest.approx(100 * theirs["ndcg@10"], abs=1e-6)


def test_the_models_own_prompts_are_read_and_change_the_score(folder, rankings):
    model = load_embedding_model(str(folder), "teacher.path")
    plain = main_scores(model, [as_task(rankings)], batch_size=8)["R"]
    prompts = {"query": "the house was very slow and then ", "passage": "it "}
    model.reading = replace(model.reading, prompts=prompts)
    own = main_scores(model, [as_task(rankings)], batch_size=8)["R"]
    written = as_task(rankings, query_prompt=prompts["query"], document_prompt="it ")
    assert own == main_scores(model, [written], batch_size=8)["R"] != plain


def test_a_prompt_that_is_named_in_another_case_is_refused():
    reading = Reading("mean", normalize=True, max_length=32, prompts={"STS": "Compare: "}, prompt="Read: ")
    assert [find_prompt(reading, name) for name in ("STS", "query", "", "Find: ")] == [
        "Compare: ",
        "Read: ",
        "Read: ",
        "Find: ",
    ]
    with pytest.raises(UserError, match="got 'sts'; name 'STS'"):
        find_prompt(reading, "sts")


@pytest.mark.parametrize(
    ("prompts", "text"),
    [
        ({"document": "", "passage": "passage: "}, "passage: "),  # as sentence-transformers saves an E5
        ({"document": "Doc: ", "passage": "passage: "}, "Doc: "),
        ({"document": "", "query": "query: "}, ""),
    ],
)
def test_documents_are_read_behind_the_first_prompt_that_says_something(prompts, text):
    reading = Reading("mean", normalize=True, max_length=32, prompts=prompts, prompt="Read: ")
    assert find_prompt(reading, "document") == text
    own = {"prompts": prompts}
    assert parse_late({}, {}, own, 32, "model", "teacher.path").document_prompt == text


def test_the_name_of_a_prompt_is_never_read_as_a_text():
    teacher = Reading("mean", normalize=True, max_length=32, prompts={"search_query": "Find: "}, prompt="")
    student = replace(teacher, prompts={})
    assert [find_prompt(reading, "search_query") for reading in (teacher, student)] == ["Find: ", ""]


@pytest.mark.parametrize(
    ("prompts", "wanted", "message"),
    [
        ({"search_query": "Find: "}, "serch_query", "got 'serch_query'; name 'search_query'"),
        ({"search_query": "Find: "}, "other", r"\(search_query\), got 'other'; end a text with"),
        ({}, "search_query", r"\(none\), got 'search_query'"),
        ({"search_query": "Find: "}, "search_query", ""),
        ({}, "query: ", ""),
        ({}, "query", ""),
    ],
)
def test_a_prompt_that_the_teacher_does_not_have_is_refused_before_training(folder, tmp_path, prompts, wanted, message):
    shutil.copytree(folder, tmp_path / "teacher")
    (tmp_path / "teacher" / "config_sentence_transformers.json").write_text(json.dumps({"prompts": prompts}))
    task = {"name": "R", "kind": "retrieval", "path": "here", "query_prompt": wanted}
    values = {"teacher": {"path": str(tmp_path / "teacher")}, "evaluate": {"tasks": [task]}}
    config = embedding_config_from_values(values)
    with pytest.raises(UserError, match=message) if message else nullcontext():
        check_prompts(config)


def test_a_document_that_is_the_query_itself_takes_no_place(rankings):
    draw = np.random.default_rng(2)
    queries, documents = draw.normal(size=(12, 8)), draw.normal(size=(60, 8))
    nearest = (queries @ documents.T).argmax(axis=1)
    left_out = np.where([n in found for n, found in zip(nearest, rankings.relevant, strict=True)], -1, nearest)
    before, after = (rank(replace(rankings, left_out=out), queries, documents) for out in (rankings.left_out, left_out))
    assert (after.average_precision[left_out >= 0] > before.average_precision[left_out >= 0]).all()


def test_a_search_by_bits_is_scored_as_one_made_step_by_step(rankings):
    metrics = pytest.importorskip("sklearn.metrics")
    draw = np.random.default_rng(2)
    values = draw.normal(size=(72, 24)).astype(np.float32)
    prompted = [*(("document", text) for text in rankings.documents), *(("query", text) for text in rankings.queries)]
    vectors = Vectors(values, {entry: place for place, entry in enumerate(prompted)})
    found = score_rescored(as_task(rankings), vectors, [8])
    assert list(found) == ["8", "24"]
    for width in (8, 24):
        documents, queries = values[:60, :width], values[60:, :width]
        scores = np.full((12, 60), -1e9)
        for number, query in enumerate(queries):
            distance = ((documents > 0) != (query > 0)).sum(axis=1)
            nearest = sorted(range(60), key=lambda place: (distance[place], place))[:40]
            scores[number, nearest] = np.where(documents[nearest] > 0, 1.0, -1.0) @ query
        relevance = np.zeros((12, 60))
        for number, relevant in enumerate(rankings.relevant):
            relevance[number, relevant] = 1.0
        scores += 1e-6 * (1 - relevance)  # of equal ones the relevant come last
        assert found[str(width)] == pytest.approx(100 * metrics.ndcg_score(relevance, scores, k=10), abs=1e-4)


def test_texts_have_the_same_vectors_however_many_are_tokenized_at_once(folder, rankings, monkeypatch):
    model = load_embedding_model(str(folder), "teacher.path")
    whole = encode(model, rankings.documents, 8)
    monkeypatch.setattr(embedder, "PIECE", 7)
    np.testing.assert_array_equal(encode(model, rankings.documents, 8), whole)
