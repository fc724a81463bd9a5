"""Vectors of any teacher out of a file: by text, checked, and what cannot be learned from them."""

import json
import re

import numpy as np
import pyarrow as pa
import pytest
import yaml
from pyarrow import parquet

from kdkit.embeddings.data.prepare import prepare_sentences
from kdkit.embeddings.evaluate.run import evaluate_embedding_run, open_tasks
from kdkit.embeddings.models.embedder import encode, load_embedding_model
from kdkit.embeddings.teacher.cache import open_embedding_teacher
from kdkit.embeddings.teacher.probe import probe_embedding_teacher
from kdkit.embeddings.teacher.vectors import read_vectors
from kdkit.embeddings.training.train import distill_all
from kdkit.errors import UserError
from kdkit.report.embeddings.page import write_embedding_report
from kdkit.runs.open_run import open_embedding_run
from tests.embedders import make_config, make_session, save_teacher, write_sentences

pytestmark = pytest.mark.usefixtures("one_thread")

TEXTS = ["the cat", "a dog ran", "it was not", "red house"]
WIDTH = 5


def make_vectors():
    return np.random.default_rng(0).normal(size=(len(TEXTS), WIDTH)).astype(np.float32)


def write(file, texts, vectors):
    """Write texts and vectors in the form that the ending says."""
    if file.suffix == ".parquet":
        parquet.write_table(pa.table({"text": list(texts), "vector": [list(map(float, v)) for v in vectors]}), file)
    elif file.suffix == ".jsonl":
        rows = [{"text": text, "vector": list(map(float, v))} for text, v in zip(texts, vectors, strict=True)]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        np.save(file, vectors)
        file.with_suffix(".txt").write_text("".join(f"{text}\n" for text in texts))
    return str(file)


def refusal(call, *arguments):
    with pytest.raises(UserError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("ending", [".parquet", ".jsonl", ".npy"])
def test_vectors_are_found_by_text_in_any_order(tmp_path, ending):
    vectors = make_vectors()
    file = read_vectors(write(tmp_path / f"v{ending}", TEXTS, vectors))
    wanted = [TEXTS[3], TEXTS[0], TEXTS[3]]
    expected = vectors[[3, 0, 3]] / np.linalg.norm(vectors[[3, 0, 3]], axis=1, keepdims=True)
    np.testing.assert_allclose(file.of(wanted, "texts"), expected, atol=1e-6)
    assert file.width == WIDTH and file.missing(["a cat", TEXTS[1], "a cat"]) == ["a cat"]
    assert file.of([], "texts").shape == (0, WIDTH)


@pytest.mark.parametrize("ending", [".parquet", ".jsonl", ".npy"])
def test_rows_with_nan_are_named(tmp_path, ending):
    vectors = make_vectors()
    vectors[1, 2], vectors[3] = np.nan, 0.0
    message = refusal(read_vectors, write(tmp_path / f"v{ending}", TEXTS, vectors))
    assert "in 2 of 4 rows: 2 ('a dog ran'), 4 ('red house')" in message


@pytest.mark.parametrize("ending", [".parquet", ".jsonl"])
def test_another_width_is_named(tmp_path, ending):
    vectors = [*make_vectors()[:2], make_vectors()[2][:3], make_vectors()[3]]
    message = refusal(read_vectors, write(tmp_path / f"v{ending}", TEXTS, vectors))
    assert "5 as in row 1, got 3 in row 3" in message


@pytest.mark.parametrize("ending", [".parquet", ".npy"])
def test_another_order_shows_where_a_text_is_there_twice(tmp_path, ending):
    file = write(tmp_path / f"v{ending}", [*TEXTS[:3], TEXTS[0]], make_vectors())
    assert "rows 1 and 4, for 'the cat'; are texts and vectors in the same order?" in refusal(read_vectors, file)
    vectors = make_vectors()
    vectors[3] = vectors[0] * 2 + 1e-3
    assert len(read_vectors(write(tmp_path / f"w{ending}", [*TEXTS[:3], TEXTS[0]], vectors)).places) == 3


def test_an_array_needs_a_text_for_each_row(tmp_path):
    file = write(tmp_path / "v.npy", TEXTS[:3], make_vectors())
    assert "a text for each of the 4 vectors" in refusal(read_vectors, file) and "got 3 in v.txt" in refusal(
        read_vectors, file
    )
    (tmp_path / "v.txt").unlink()
    assert "such as v.txt, got none" in refusal(read_vectors, file)
    np.save(tmp_path / "v.npy", np.zeros(3))
    assert "an array [texts, width] of floats" in refusal(read_vectors, file)
    np.save(tmp_path / "v.npy", np.array([{}]), allow_pickle=True)
    assert "expected an .npy array" in refusal(read_vectors, file)


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"text": ["a"], "embedding": [[1.0]]}, "got text, embedding; rename"),
        ({"text": ["a"], "vector": ["b"]}, "expected lists of numbers as vector in"),
        ({"text": [None], "vector": [[1.0]]}, "got None in row 1"),
        ({"text": ["a", "b"], "vector": [[1.0], None]}, "1 as in row 1, got 0 in row 2"),
    ],
)
def test_other_columns_are_refused(tmp_path, table, expected):
    parquet.write_table(pa.table(table), tmp_path / "v.parquet")
    assert expected in refusal(read_vectors, str(tmp_path / "v.parquet"))


def test_no_file_is_refused(tmp_path):
    assert "which is not there" in refusal(read_vectors, str(tmp_path / "v.parquet"))
    (tmp_path / "v.csv").touch()
    assert "which is none" in refusal(read_vectors, str(tmp_path / "v.csv"))


class Place:
    """A student, sentences, and the vectors of a teacher that is not there any more."""

    def __init__(self, folder):
        self.folder = folder
        self.encoder = str(save_teacher(folder / "student", num_layers=2))
        self.sentences = write_sentences(folder / "sentences.csv", 80)
        self.texts = list(dict.fromkeys(self.sentences.read_text().replace('"', "").splitlines()[1:]))
        teacher = load_embedding_model(str(save_teacher(folder / "teacher", width=40)), "teacher.path")
        self.vectors = encode(teacher, self.texts, 16)
        draw = np.random.default_rng(1)
        pairs = draw.integers(len(self.texts), size=(20, 2))
        rows = "".join(f"{self.texts[a]},{self.texts[b]},{self.vectors[a] @ self.vectors[b]}\n" for a, b in pairs)
        (folder / "sts.csv").write_text("sentence1,sentence2,score\n" + rows)

    def session(self, file, name="run", **values):
        settings = {
            "method": "cosine",
            "data": {"path": str(self.sentences), "max_length": 16, "evaluation_fraction": 0.2, "decontaminate": False},
            "teacher": {"vectors": file},
            "student": {"path": self.encoder},
            "evaluate": {"tasks": [{"name": "sts", "kind": "sts", "path": str(self.folder / "sts.csv")}]},
            "train": {"max_steps": 30, "per_device_train_batch_size": 16, "learning_rate": 1e-3},
            "cache_dir": str(self.folder / "cache"),
        }
        config = self.folder / f"{name}.yaml"
        config.write_text(yaml.safe_dump(settings | values))
        return make_session(*open_embedding_run(str(config), [], name, str(self.folder / "runs")))


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def test_a_student_learns_from_vectors_alone(place):
    order = np.random.default_rng(2).permutation(len(place.texts))  # by text, not by place
    file = write(place.folder / "v.parquet", [place.texts[row] for row in order], place.vectors[order])
    session = place.session(file, method="leaf")
    data = prepare_sentences(session, None)
    probe = probe_embedding_teacher(session, data)
    assert (probe["width"], probe["parameters"], [f["state"] for f in probe["findings"]][1]) == (40, None, "ok")
    tasks = open_tasks(session, data)
    distill_all(session, data)
    evaluation = evaluate_embedding_run(session, data, tasks)
    teacher, student = evaluation["models"]["teacher"], evaluation["models"]["leaf"]
    assert teacher["parameters"] is None and teacher["agreement"] is None and student["width"] == 40
    assert teacher["average"] == pytest.approx(100) and student["share_of_teacher"] > 0
    assert None not in (student["agreement"], evaluation["models"]["untrained"]["agreement"])
    stored, _ = open_embedding_teacher(session, data, tokens=False, attention_layers=[])
    expected = place.vectors[[place.texts.index(text) for text in data.texts]]
    np.testing.assert_allclose(stored.view([5, 0], "cpu").pooled.numpy(), expected[[5, 0]], atol=1e-6)
    losses = [line["loss"] for line in session.run.read_metrics() if "loss" in line]
    assert losses[-1] < losses[0] / 2
    page = write_embedding_report(session.run).read_text(encoding="utf-8")
    assert "vectors of 40 numbers from a file" in page and "not known" not in re.sub("<svg.*?</svg>", "", page)


def test_without_vectors_of_the_tasks_the_teacher_has_no_row_and_the_report_says_why(place):
    held = prepare_sentences(place.session(write(place.folder / "v.jsonl", place.texts, place.vectors)), None)
    rows = [place.texts.index(text) for text in held.texts]
    file = write(place.folder / "w.jsonl", held.texts, place.vectors[rows])
    session = place.session(file, name="some")
    data = prepare_sentences(session, None)
    finding = probe_embedding_teacher(session, data)["findings"][1]
    assert finding["state"] == "note" and "have none" in finding["text"]
    tasks = open_tasks(session, data)
    distill_all(session, data)
    evaluation = evaluate_embedding_run(session, data, tasks)
    assert re.fullmatch(r"no vectors of \d+ texts of the tasks", evaluation["models"]["teacher"]["skipped"])
    assert evaluation["models"]["cosine"]["agreement"] is None
    assert "no vectors of" in write_embedding_report(session.run).read_text(encoding="utf-8")


def test_training_sentences_without_a_vector_are_counted_and_named(place):
    file = write(place.folder / "v.npy", place.texts[:10], place.vectors[:10])
    session = place.session(file)
    data = prepare_sentences(session, None)
    message = refusal(probe_embedding_teacher, session, data)
    missing = [text for text in data.texts if text not in place.texts[:10]]
    assert f"all {len(data.texts)} training sentences, got none in" in message
    assert f"for {len(missing)} of them ({missing[0]!r}, " in message and "python -m kdkit embed" in message


@pytest.mark.parametrize("method", ["dskd", "emo", "cdm"])
def test_methods_that_need_token_states_are_refused(place, method):
    session = place.session(write(place.folder / "v.npy", place.texts, place.vectors), method=method)
    data = prepare_sentences(session, None)
    probe_embedding_teacher(session, data)
    message = refusal(distill_all, session, data)
    assert message.startswith(f"method: {method} expected states of tokens, got the vectors of a file")


def test_what_vectors_do_not_have_is_refused_before_anything_is_read():
    for values, key in (
        ({"student": {"path": "reduce"}}, "student.path"),
        ({"student": {"path": "build"}}, "student.build.tokenizer"),
        ({"student": {"path": "m"}, "teacher": {"vectors": "v.npy", "prompt": "query"}}, "teacher.prompt"),
    ):
        assert refusal(lambda values: make_config(**({"teacher": {"vectors": "v.npy"}} | values)), values).startswith(
            key
        )
    build = {"path": "build", "build": {"tokenizer": "own"}}
    assert make_config(teacher={"vectors": "v.npy"}, student=build).student.path == "build"
