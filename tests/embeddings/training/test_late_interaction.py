"""Late interaction from start to end: its batches and loss, its teachers, its student as a folder, what is refused."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from kdkit.config.embeddings import embedding_config_from_values
from kdkit.config.ranking.late_interaction import LateInteraction
from kdkit.embeddings.data.prepare import prepare_sentences
from kdkit.embeddings.data.tasks import load_tasks
from kdkit.embeddings.evaluate.models import main_scores
from kdkit.embeddings.evaluate.run import evaluate_embedding_run, open_tasks, task_scorer
from kdkit.embeddings.methods.base import PairFacts
from kdkit.embeddings.methods.late_interaction import LateInteractionMethod, LateViews
from kdkit.embeddings.models.embedder import load_embedding_model
from kdkit.embeddings.models.export import save_embedding_model
from kdkit.embeddings.models.token_vectors import encode_tokens, pad_vectors
from kdkit.embeddings.teacher.answers import CachedTeacher
from kdkit.embeddings.teacher.late_teacher import open_token_store
from kdkit.embeddings.teacher.lists import RankingLists
from kdkit.embeddings.teacher.probe import probe_embedding_teacher
from kdkit.embeddings.training.late_batches import make_late_views
from kdkit.embeddings.training.train import distill_all
from kdkit.errors import UserError
from kdkit.losses.ranking.late_interaction import maxsim
from kdkit.report.embeddings.page import write_embedding_report
from kdkit.runs.open_run import open_embedding_run
from tests.embedders import make_session
from tests.late_models import LATE_WIDTH, make_late, save_encoder, write_rankings

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = "{name: late_interaction, width: 10, query_length: 10, document_length: 16}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a single-vector teacher, one with token vectors, pairs of sentences and a retrieval set."""
    path = tmp_path_factory.mktemp("late")
    save_encoder(path)
    save_embedding_model(make_late(path, mean=True), path / "late")
    (path / "run.yaml").write_text("method: cosine\n")
    return write_rankings(path)


def open_session(folder, *overrides):
    """Open a run on the pairs that is judged by the retrieval set."""
    task = {"name": "R", "kind": "retrieval", "path": str(folder / "set")}
    values = [
        f"method={SMALL}",
        f"data.path={folder / 'pairs.csv'}",
        "data.positives=second",
        "data.max_length=20",
        f"teacher.path={folder / 'encoder'}",
        f"cache_dir={folder / 'cache'}",
        "student.layers=[0,3]",
        "train={per_device_train_batch_size: 8, max_steps: 4, warmup_steps: 0, log_every: 1, learning_rate: 1e-3}",
        f"evaluate={{bootstrap_samples: 100, tasks: [{json.dumps(task)}]}}",
    ]
    name = f"run{len(list(folder.glob('runs/*')))}"
    given = open_embedding_run(str(folder / "run.yaml"), [*values, *overrides], name, str(folder / "runs"))
    return make_session(*given)


def train(folder, *overrides):
    """Train and return the session, its data and the losses of every step."""
    session = open_session(folder, *overrides)
    data = prepare_sentences(session, None)
    probe_embedding_teacher(session, data)
    distill_all(session, data, task_scorer(session, load_tasks(session.config, session.run.cache_path)))
    lines = [line for line in session.run.read_metrics() if "loss" in line and line["phase"] == "late_interaction"]
    return session, data, lines


def make_method(**settings):
    """Make the method for states of width 3, with a head that keeps the first two numbers."""
    method = LateInteractionMethod(LateInteraction(width=2, cosine_weight=2.0, **settings), PairFacts(3, 3, 1, 1))
    method.head.weight.data = torch.eye(2, 3)
    return method


def make_views():
    """One query of two tokens, of which a third is padding, and two documents."""
    return LateViews(
        queries=torch.tensor([[[3.0, 0, 9], [0, 2.0, 9], [7.0, 7, 7]]], requires_grad=True),
        query_counts=torch.tensor([[True, True, False]]),
        documents=torch.tensor([[[5.0, 0, 1], [0, 1, 1]], [[3.0, 4, 1], [9, 0, 9]]]),
        document_counts=torch.tensor([[True, True], [True, False]]),
        query_mask=torch.tensor([[1, 1, 0]]),
        document_mask=torch.tensor([[1, 1], [1, 1]]),
        partner=torch.tensor([0]),
        left_out=torch.zeros(1, 2, dtype=torch.bool),
        teacher_scores=torch.tensor([[0.9, 0.5]]),
        teacher_vectors=torch.tensor([[1.5, 1.0, 9.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]),
    )


@pytest.mark.parametrize(("score", "scores"), [("mean", (1.0, 0.7)), ("sum", (2.0, 1.4))])
def test_the_loss_is_that_computed_by_hand(score, scores):
    method, views = make_method(score=score, temperature=0.5, task_weight=1.0, task_temperature=0.25), make_views()
    terms = method(views)
    student, teacher = (np.exp(np.array(values) / 0.5) for values in (scores, (0.9, 0.5)))
    student, teacher = student / student.sum(), teacher / teacher.sum()
    assert float(terms["score"].detach()) == pytest.approx(float((teacher * np.log(teacher / student)).sum()), rel=1e-4)
    contrast = np.log(1 + np.exp((scores[1] - scores[0]) / 0.25))
    assert float(terms["task"].detach()) == pytest.approx(contrast, rel=1e-4)
    means = (5 / np.sqrt(25 + 1 + 4), 4 / np.sqrt(144 + 16 + 100))  # of documents: (2.5, 0.5, 1) and (6, 2, 5)
    assert method.weights["cosine"] == 2
    expected = np.mean([0, 1 - means[0], 1 - means[1]])  # the query's mean is the teacher's
    assert float(terms["cosine"].detach()) == pytest.approx(expected, rel=1e-4)
    terms["score"].backward()
    assert method.head.weight.grad.abs().sum() > 0 and views.queries.grad[0, :2].abs().sum() > 0
    assert views.queries.grad[0, 2].abs().sum() == 0


def test_a_document_without_a_token_that_counts_has_no_part_in_the_loss():
    method, views = make_method(temperature=0.5, task_weight=1.0, task_temperature=0.25), make_views()
    views.document_counts[1] = False
    terms = method(views)
    assert float(terms["score"].detach()) == 0 and float(terms["task"].detach()) == pytest.approx(0, abs=1e-6)
    views.partner = torch.tensor([1])
    assert float(method(views)["task"].detach()) == 0


def test_a_batch_has_each_document_once_and_the_teachers_scores_of_it(folder):
    session = open_session(folder)
    student, method = make_late(folder), LateInteractionMethod(session.config.method, PairFacts(24, 24, 4, 4))
    texts = ["the cat", "a dog", "the cat sat", "a dog ran", "it was", "."]
    rows, second = np.array([0, 0, 1, 2]), np.array([2, 4, 3, 2])
    data = SimpleNamespace(texts=texts, rows=rows, second=second)
    vectors = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))[0].astype(np.float32)
    teacher = CachedTeacher([], np.zeros(6, int), vectors @ np.diag([1, 1, 1, 1, 0, 0]).astype(np.float32))
    views = make_late_views(student, method, data, teacher, np.arange(4), None)
    assert views.documents.shape[0] == 3 and views.partner.tolist() == [0, 2, 1, 0]
    assert views.left_out.tolist() == [[True, False, True]] * 2 + [[False, True, False], [True, False, False]]
    expected = teacher.vectors[rows] @ teacher.vectors[[2, 3, 4]].T
    np.testing.assert_allclose(views.teacher_scores.numpy(), expected, atol=1e-6)
    crossed = RankingLists(np.array([[2, 5], [4, 4], [3, 2], [2, 5]]), np.arange(8.0).reshape(4, 2), is_crossed=True)
    crossed.scores[1, 1] = np.nan
    found = make_late_views(student, method, data, teacher, np.arange(4), crossed).teacher_scores.tolist()
    assert found[0][0] == 0 and found[0][3] == 1 and np.isnan(found[0][1:3]).all()
    assert found[1][2] == 2 and np.isnan(found[1])[[0, 1, 3]].all() and found[2][:2] == [5, 4]


def test_a_student_is_trained_judged_reported_and_read_by_the_library(folder):
    session, data, lines = train(folder, "compare=[cosine]")
    assert [line["step"] for line in lines] == [1, 2, 3, 4] and all(line["score_loss"] > 0 for line in lines)
    evaluation = evaluate_embedding_run(session, data, open_tasks(session, data))
    late, single = (evaluation["models"][name]["tasks"]["R"] for name in ("late_interaction", "cosine"))
    assert "MaxSim" in late["protocol"] and "cosine" in single["protocol"]
    assert single["bytes_per_document"] == 4 * 24 and late["bytes_per_document"] > 4 * LATE_WIDTH * 5
    assert "bytes per document" in write_embedding_report(session.run).with_name("report.md").read_text()
    assert "MultiVectorEncoder(" in (session.run.path / "student/README.md").read_text()
    library = pytest.importorskip("sentence_transformers.multi_vector_encoder", reason="needs version 6")
    model = library.MultiVectorEncoder(str(session.run.path / "student"))
    assert (model.similarity_fn_name, model.get_embedding_dimension()) == ("meanmaxsim", 10)
    rankings = load_tasks(session.config, session.run.cache_path)[0].rankings
    scores = model.similarity(model.encode_query(rankings.queries), model.encode_document(rankings.documents))
    places = [1 + int((row > row[n]).sum()) for n, row in enumerate(scores)]
    ndcg = 100 * np.mean([1 / np.log2(1 + place) if place <= 10 else 0 for place in places])
    assert late["ndcg"] == pytest.approx(ndcg, abs=1e-3)


def test_a_student_of_another_width_and_tokenizer_reads_odd_pairs(folder):
    (folder / "odd.csv").write_text((folder / "pairs.csv").read_text() + '"\u2603",","\n"cat","cat"\n' * 2)
    build = "student={path: build, build: {tokenizer: own, vocab_size: 300, hidden_size: 16, num_layers: 2}}"
    session, _, lines = train(folder, build, f"data.path={folder / 'odd.csv'}", "method.task_weight=1")
    assert len(lines) == 4 and all(np.isfinite([line["score_loss"], line["task_loss"]]).all() for line in lines)
    assert load_embedding_model(str(session.run.path / "student"), "student.path").width == 10


def test_training_lowers_the_loss_and_hard_negatives_are_scored(folder):
    more = "train.max_steps=60", "method.hard_negatives=true", "data.negatives.number=2"
    session, _, lines = train(folder, *more)
    losses = [line["score_loss"] for line in lines]
    assert np.mean(losses[-8:]) < 0.7 * np.mean(losses[:8])
    assert session.run.read_json("teacher/probe.json")["negatives"]["negatives_per_row"] > 0


def test_a_teacher_with_token_vectors_is_asked_once_and_scores_by_maxsim(folder, monkeypatch):
    session, data, lines = train(folder, f"teacher.path={folder / 'late'}", "student.path=reduce")
    assert len(lines) == 4
    monkeypatch.setattr("kdkit.embeddings.teacher.late_teacher.load_teacher", None)  # it is not loaded again
    store = open_token_store(session, data)
    model, queries, documents = make_late(folder, mean=True), data.rows[:3], data.second[[0, 5]]
    model.reading = load_embedding_model(str(folder / "late"), "teacher.path", max_length=20).reading
    parts = [
        pad_vectors(encode_tokens(model, [data.texts[text] for text in texts], role, 2))
        for texts, role in ((queries, "query"), (documents, "document"))
    ]
    expected = maxsim(parts[0][0], parts[1][0], parts[0][1], parts[1][1], mean=True)
    torch.testing.assert_close(store.score(queries, documents, "cpu", mean=True), expected, atol=2e-3, rtol=0)
    with pytest.raises(UserError, match=r"^teacher.cache: expected true"):
        train(folder, f"teacher.path={folder / 'late'}", "teacher.cache=false")


def test_damaged_token_vectors_of_the_cache_are_named(folder):
    session = open_session(folder, f"teacher.path={folder / 'late'}", f"cache_dir={folder / 'other'}")
    data = prepare_sentences(session, None)
    open_token_store(session, data)
    (file,) = (folder / "other/token_vectors").glob("*/document.bin")
    file.write_bytes(file.read_bytes()[: 20 * LATE_WIDTH])  # whole vectors, but few of them
    with pytest.raises(UserError, match=r"^cache_dir: expected the teacher's token vectors in .* remove that folder"):
        open_token_store(session, data)
    file.write_bytes(b"")
    with pytest.raises(UserError, match=r"got damaged files"):
        open_token_store(session, data)


@pytest.mark.parametrize("name", ["manifest.json", "texts.json", "rows.npy", "student_tokens.npy"])
def test_damaged_sentences_of_the_cache_are_named(folder, tmp_path, name):
    session = open_session(folder, f"cache_dir={tmp_path}")
    prepare_sentences(session, None)
    (file,) = (tmp_path / "sentences").glob(f"*/{name}")
    file.write_bytes(file.read_bytes()[:20])
    named = file.parent, session.run.path / "data"
    with pytest.raises(UserError, match=rf"^cache_dir: .*damaged files in '{named[0]}' and '{named[1]}'; remove"):
        prepare_sentences(session, None)
    for path in named:
        shutil.rmtree(path)
    assert len(prepare_sentences(session, None).texts) > 50


def test_a_student_goes_on_from_the_head_of_a_model_with_token_vectors(folder):
    still = "train.learning_rate=1e-12", f"student.path={folder / 'late'}", "student.layers=null"
    session, _, _ = train(folder, *still, "method.query_length=12")
    start, trained = (load_embedding_model(str(path), "x") for path in (folder / "late", session.run.path / "student"))
    torch.testing.assert_close(trained.head[0].linear.weight, start.head[0].linear.weight)
    tasks = load_tasks(session.config, session.run.cache_path)
    assert main_scores(trained, tasks, batch_size=8) == main_scores(start, tasks, batch_size=8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"data": {"positives": "dropout"}},
            r"^data.positives: expected second for late_interaction, got dropout; set",
        ),
        ({"student": {"path": "static"}}, r"^student.path: expected a student with layers"),
        ({"evaluate": {}}, r"^evaluate.tasks: expected tasks of kind retrieval or reranking.*got none; set evaluate"),
        (
            {"evaluate": {"tasks": [{"name": "S", "kind": "sts", "path": "s.csv"}]}},
            r"got 'S' of kind sts; leave it out$",
        ),
        ({"evaluate": {"quantisations": ["int8"]}}, r"^evaluate.quantisations: expected none for late_interaction"),
        ({"evaluate": {"mteb": ["STSBenchmark"]}}, r"^evaluate.mteb: expected none for late_interaction"),
        ({"teacher": {"cross_encoder": "c"}}, r"^method.hard_negatives: expected true with teacher.cross_encoder"),
        ({"method": {"name": "late_interaction", "width": 0}}, r"method.*width: expected.*got 0"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(change, message):
    task = {"name": "R", "kind": "retrieval", "path": "set"}
    values = {"method": "late_interaction", "data": {"positives": "second"}, "evaluate": {"tasks": [task]}}
    if change.get("evaluate", {}).keys() & {"quantisations", "mteb"}:
        change = {"evaluate": values["evaluate"] | change["evaluate"]}
    with pytest.raises(UserError, match=message) as caught:
        embedding_config_from_values(values | change)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("key", "name"), [("evaluate.off_the_shelf", "off the shelf"), ("teacher.path", "teacher")])
def test_a_model_with_token_vectors_is_not_scored_on_other_tasks(folder, key, name):
    pairs = folder / "sts.csv"
    pairs.write_text("sentence1,sentence2,score\nthe cat,a cat,1\nthe dog,it was,0\na tree,a house,0.5\n")
    task = json.dumps({"name": "S", "kind": "sts", "path": str(pairs)})
    session = open_session(folder, "method=cosine", f"{key}={folder / 'late'}", f"evaluate.tasks=[{task}]")
    data = prepare_sentences(session, None)
    with pytest.raises(UserError, match=rf"for {name}, which has a vector for every token, got 'S' of kind sts"):
        open_tasks(session, data)  # before anything is trained


def test_weights_that_are_no_numbers_are_refused_by_name(folder):
    model = make_late(folder)
    with torch.no_grad():
        model.backbone.embeddings.word_embeddings.weight[5] = torch.nan
    broken = save_embedding_model(model, folder / "broken")
    with pytest.raises(UserError, match=r"^student.path: expected finite weights in .*broken.*1 of 70 tensors"):
        train(folder, f"student.path={broken}", "student.layers=null")
    session, data, _ = train(folder, f"evaluate.off_the_shelf={broken}")
    with pytest.raises(UserError, match=r"^evaluate.off_the_shelf: expected finite weights"):
        evaluate_embedding_run(session, data, open_tasks(session, data))


LONG = "'the cat sat on the mat and then'"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("query_length: 33", r"^method.query_length: expected at most 32 tokens, the student's context.*set .*=32$"),
        ("document_length: 33", r"^method.document_length: expected at most 32 tokens"),
        ("query_length: 2", r"^method.query_length: expected more than 2 tokens, the special ones, .*got 2; set"),
        ("document_length: 1", r"^method.document_length: expected more than 2 tokens"),
        (
            f"query_length: 10, query_prompt: {LONG}",
            r"more than 10 tokens, the special ones and those of method",
        ),
        ("score_weight: 0, cosine_weight: 0", r"^method: expected a weight above 0 for late_interaction, got 0 for"),
    ],
)
def test_lengths_that_leave_nothing_of_a_text_are_refused_before_training(folder, options, message):
    with pytest.raises(UserError, match=message):
        train(folder, f"method={{name: late_interaction, {options}}}")


def test_one_document_for_all_queries_is_refused(folder):
    words = ("cat", "dog", "tree", "house", "mat", "grass", "slow", "quick")
    (folder / "one.csv").write_text("anchor,positive\n" + "".join(f"the {word},it was\n" for word in words))
    with pytest.raises(UserError, match=r"^data.path: expected at least 2 different documents .* got 1 for all"):
        train(folder, f"data.path={folder / 'one.csv'}", "train.per_device_train_batch_size=2")
