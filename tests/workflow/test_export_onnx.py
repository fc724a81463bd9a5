"""The verb `export --format onnx`: a folder for onnxruntime with torch's vectors, or one line that says why not.

Skipped where the packages of the extra `onnx` are missing.
"""

import importlib.util

import numpy as np
import pytest
import yaml

from kdkit.embeddings.data.prepare import prepare_sentences
from kdkit.embeddings.models.embedder import encode, load_embedding_model
from kdkit.embeddings.models.onnx import check_exportable, with_graph
from kdkit.embeddings.models.static import TokenTable
from kdkit.embeddings.teacher.probe import probe_embedding_teacher
from kdkit.embeddings.training.train import distill_all
from kdkit.errors import UserError
from kdkit.machine.open_session import open_embedding_session
from kdkit.models.onnx import graph
from kdkit.models.onnx.graph import FULL, QUANTISED
from kdkit.workflow.deploy.export import ExportRequest
from kdkit.workflow.vectors.onnx import export_onnx, is_embedding_model
from tests.embedders import save_teacher, write_sentences

MISSING = [name for name in graph.PACKAGES if importlib.util.find_spec(name) is None]
needs_onnx = pytest.mark.skipif(bool(MISSING), reason=f"no {', '.join(MISSING)}: pip install 'kdkit[onnx]'")
TEXTS = ["the cat sat", "a very big dog ran and ran and it was not slow", "", "tree"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("onnx")
    save_teacher(folder / "teacher")
    values = {
        "teacher": {"path": str(folder / "teacher")},
        "student": {"layers": [0, 3]},
        "data": {"path": str(write_sentences(folder / "sentences.csv")), "max_length": 16, "evaluation_fraction": 0.2},
        "train": {"per_device_train_batch_size": 8, "max_steps": 2, "warmup_steps": 0, "device": "cpu"},
        "method": "leaf",
        "cache_dir": str(folder / "cache"),
    }
    (folder / "small.yaml").write_text(yaml.safe_dump(values))
    session = open_embedding_session(folder / "small.yaml", "", "small", folder / "runs")
    data = prepare_sentences(session, None)
    probe_embedding_teacher(session, data)
    distill_all(session, data)
    return session, request(folder, folder / "out")


def request(folder, out, source="small"):
    return ExportRequest(str(folder / "runs" / source), str(out), "student", str(folder / "runs"), format="onnx")


@needs_onnx
def test_onnxruntime_gives_torchs_vectors_and_the_table_is_kept(exported):
    session, asked = exported
    printed = export_onnx(asked)
    student = load_embedding_model(str(session.run.path / "student"), "student.path", max_length=16)
    saved = load_embedding_model(asked.file, "student.path", max_length=16)
    full, quantised = (with_graph(saved, session.run.path.parents[1] / "out" / name) for name in (FULL, QUANTISED))
    for size in (1, 3, 4):  # one batch with padding, one without
        np.testing.assert_allclose(encode(full, TEXTS, size), encode(student, TEXTS, size), atol=1e-4)
    near = (encode(quantised, TEXTS, 4) * encode(student, TEXTS, 4)).sum(axis=1)
    assert near.min() > 0.9 and near.max() < 1 - 1e-7  # near, and not the same weights
    rows = session.run.read_json("onnx.json")["models"]
    assert list(rows) == ["torch", "onnxruntime", "onnxruntime, INT8"]
    assert rows["onnxruntime"]["scores"] == pytest.approx(rows["torch"]["scores"], abs=0.01)
    assert rows["onnxruntime, INT8"]["megabytes"] < rows["onnxruntime"]["megabytes"]
    assert all(name in printed.replace("\n", " ") for name in ("INT8", "MB", "largest"))


@needs_onnx
def test_a_folder_that_exists_is_left_alone(exported, tmp_path):
    _, asked = exported
    with pytest.raises(UserError, match=r"expected a new folder, got .*, which exists; name another one"):
        export_onnx(ExportRequest(asked.source, str(tmp_path), "student", asked.runs_dir, format="onnx"))


def test_a_static_student_is_refused(exported):
    session, _ = exported
    model = load_embedding_model(str(session.run.path / "student"), "student.path")
    model.backbone = TokenTable(model.backbone.get_input_embeddings().weight.detach())
    with pytest.raises(UserError, match="expected a transformer, got a static model"):
        check_exportable(model, "--format onnx")


def test_a_missing_package_is_named(exported, monkeypatch):
    session, _ = exported
    model = load_embedding_model(str(session.run.path / "student"), "student.path")
    monkeypatch.setattr(graph, "PACKAGES", ("onnx", "no_such_onnxruntime"))
    with pytest.raises(UserError, match=r"got no (no_such_onnxruntime|onnx); pip install 'kdkit\[onnx\]'"):
        check_exportable(model, "--format onnx")


def test_a_run_without_an_embedding_model_is_refused(exported, tmp_path):
    _, asked = exported
    with pytest.raises(UserError, match="expected a run with an embedding model in baseline/"):
        export_onnx(ExportRequest(asked.source, str(tmp_path / "out"), "baseline", asked.runs_dir, format="onnx"))


def test_the_folder_of_an_embedding_model_is_no_language_model_and_its_run_is_asked_for(exported, tmp_path):
    session, asked = exported
    folder = str(session.run.path / "student")
    alone = ExportRequest(folder, str(tmp_path / "out"), "student", asked.runs_dir, format="int8")
    assert is_embedding_model(alone) and is_embedding_model(asked)
    with pytest.raises(UserError, match=r"MODEL: expected a run with an embedding model in student/.* name a run"):
        export_onnx(alone)
