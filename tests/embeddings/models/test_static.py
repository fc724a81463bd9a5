"""A static student: made of the teacher's tokens, trained, saved, and read by sentence-transformers."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.decomposition import PCA

from kdkit.config.embeddings import StaticConfig, embedding_config_from_values
from kdkit.embeddings.data.prepare import prepare_sentences
from kdkit.embeddings.evaluate.run import evaluate_embedding_run, open_tasks
from kdkit.embeddings.models.embedder import encode, load_embedding_model
from kdkit.embeddings.models.export import save_embedding_model
from kdkit.embeddings.teacher.probe import probe_embedding_teacher
from kdkit.embeddings.teacher.vocabulary import read_vocabulary, token_rows
from kdkit.embeddings.training.student import open_embedding_student
from kdkit.embeddings.training.train import distill_all
from kdkit.errors import UserError
from kdkit.runs.folder import Run
from tests.embedders import make_session, save_teacher, write_sentences

TEXTS = ["the cat sat", "a very big dog ran and ran", "", "unheard of", "tree"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("static")
    save_teacher(folder / "teacher")
    write_sentences(folder / "sentences.csv")
    return folder


@pytest.fixture(scope="module")
def trained(folder):
    session = open_static(folder, "trained", method={"name": "leaf"})
    data = prepare_sentences(session, None)
    probe_embedding_teacher(session, data)
    trainings = distill_all(session, data)
    return session, data, trainings


def open_static(folder, name, **values):
    values = {
        "teacher": {"path": str(folder / "teacher")},
        "student": {"path": "static", "static": {"width": 8}} | values.pop("student", {}),
        "data": {"path": str(folder / "sentences.csv"), "max_length": 16, "evaluation_fraction": 0.2},
        "train": {
            "per_device_train_batch_size": 8,
            "learning_rate": 3e-3,
            "max_steps": 12,
            "warmup_steps": 1,
            "log_every": 1,
        },
        "method": {"name": "cosine"},
        "evaluate": {"quantisations": ["int8", "binary"], "dimensions": [6]},
    } | values
    path = folder / name
    path.mkdir(exist_ok=True)
    return make_session(embedding_config_from_values(values), Run(path, folder / "cache"))


def start(folder, name, **values):
    session = open_static(folder, name, **values)
    return session, open_embedding_student(session, prepare_sentences(session, None))


def test_each_token_is_read_alone_by_the_teacher(folder):
    session = open_static(folder, "vocabulary")
    vectors = read_vocabulary(session)
    teacher = load_embedding_model(str(folder / "teacher"), "teacher.path")
    words = ["cat", "house", "quick"]
    ids = teacher.tokenizer.convert_tokens_to_ids(words)
    assert vectors.shape == (len(teacher.tokenizer), teacher.width)
    np.testing.assert_allclose(vectors[ids], encode(teacher, words, 8, normalize=False), atol=1e-6)


def test_rows_are_weighted_by_rank_where_frequencies_are_not_counted():
    vectors = np.random.default_rng(0).normal(size=(40, 12)).astype(np.float32)
    rows = token_rows(vectors, np.zeros(40, int), StaticConfig(width=5, frequencies="zipf", rarity=1e-4))
    shares = (1 / np.arange(2, 42)) / (1 / np.arange(2, 42)).sum()
    wanted = PCA(5, svd_solver="full").fit_transform(vectors) * (1e-4 / (1e-4 + shares))[:, None]
    np.testing.assert_allclose(rows @ rows.T, wanted @ wanted.T, atol=1e-5)  # a direction's sign is free


def test_a_frequent_token_counts_less():
    vectors = np.random.default_rng(0).normal(size=(40, 12))
    counts = np.array([1000] + [1] * 39)
    rows = token_rows(vectors, counts, StaticConfig(width=12))
    share = 1001 / (1039 + 40)
    centre = (counts + 1) / (counts.sum() + 40) @ vectors
    norms = np.linalg.norm(vectors - centre, axis=1)
    assert np.linalg.norm(rows[0]) == pytest.approx(norms[0] * 1e-3 / (1e-3 + share), rel=1e-4)
    assert np.linalg.norm(rows[1]) == pytest.approx(norms[1] * 1e-3 / (1e-3 + 2 / 1079), rel=1e-4)


def test_a_static_student_is_the_mean_of_its_rows_without_special_tokens(folder):
    _, student = start(folder, "mean")
    table = student.backbone.embedding.weight
    ids = student.tokenizer.convert_tokens_to_ids(["the", "cat", "sat"])
    with torch.no_grad():
        wanted = table[ids].mean(dim=0).numpy()
    np.testing.assert_allclose(encode(student, ["The cat sat"], 1, normalize=False)[0], wanted, atol=1e-6)
    assert not encode(student, [""], 1).any()


def test_it_learns_and_sentence_transformers_reads_it(trained):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    session, _, trainings = trained
    losses = [line["loss"] for line in session.run.read_metrics() if "loss" in line]
    assert trainings["leaf"]["steps"] == 12 and losses[-1] < losses[0]
    folder = session.run.path / "student"
    own = load_embedding_model(str(folder), "student.path")
    assert own.width == 24 and own.num_layers == 0  # the matrix of leaf is in the rows
    theirs = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    np.testing.assert_allclose(encode(own, TEXTS, 2), theirs.encode(TEXTS), atol=1e-6)


def test_it_stands_in_the_evaluation_like_every_student(trained):
    session, data, _ = trained
    evaluation = evaluate_embedding_run(session, data, open_tasks(session, data))
    (task,) = evaluation["models"]["leaf"]["tasks"].values()
    assert list(task["quantised"]) == ["int8", "binary"] and list(task["quantised"]["int8"]) == ["6", "24"]
    assert task["quantised"]["int8"]["24"] == pytest.approx(task["main"], abs=3)
    assert "quantised" not in next(iter(evaluation["models"]["teacher"]["tasks"].values()))
    assert [evaluation["models"][name]["width"] for name in ("teacher", "untrained", "leaf")] == [24, 8, 24]


def test_a_saved_static_model_is_a_start(folder, trained):
    session, _, _ = trained
    path = str(session.run.path / "student")
    _, student = start(folder, "again", student={"path": path})
    first = load_embedding_model(path, "student.path")
    np.testing.assert_array_equal(encode(student, TEXTS, 8), encode(first, TEXTS, 8))


def test_a_table_in_the_form_of_model2vec_is_read(folder, tmp_path):
    _, student = start(folder, "form")
    save_embedding_model(student, tmp_path)
    rows, weights = torch.randn(6, 8), torch.rand(27)
    mapping = torch.arange(27) % 6
    save_file(
        {"embeddings": rows, "mapping": mapping, "weights": weights}, tmp_path / "0_StaticEmbedding/model.safetensors"
    )
    sentence_transformers = pytest.importorskip("sentence_transformers")
    theirs = sentence_transformers.SentenceTransformer(str(tmp_path), device="cpu")
    own = load_embedding_model(str(tmp_path), "student.path")
    np.testing.assert_allclose(encode(own, TEXTS, 8), theirs.encode(TEXTS), atol=1e-6)


@pytest.mark.parametrize("method", ["dskd", "talas", "cdm", "emo"])
def test_methods_on_layers_and_tokens_are_refused(folder, method):
    with pytest.raises(UserError, match=f"got '{method}', which needs layers or token states .*set method=cosine"):
        open_static(folder, "refused", method={"name": method})


def test_two_equal_views_are_no_task(folder):
    with pytest.raises(UserError, match=r"a static student has no dropout; set method.task_weight=0"):
        open_static(folder, "refused", method={"name": "simcse"})


def test_a_width_beyond_the_teachers_is_refused(folder):
    with pytest.raises(UserError, match=r"student.static.width: expected at most the teacher's 24, got 25; lower it"):
        start(folder, "wide", student={"static": {"width": 25}})


def test_another_module_behind_the_table_is_refused(folder, tmp_path):
    _, student = start(folder, "modules")
    save_embedding_model(student, tmp_path)
    listed = json.loads((tmp_path / "modules.json").read_text())
    listed[1]["type"] = "sentence_transformers.models.Dense"
    (tmp_path / "modules.json").write_text(json.dumps(listed))
    with pytest.raises(UserError, match="expected StaticEmbedding and perhaps Normalize, got Dense"):
        load_embedding_model(str(tmp_path), "student.path")
