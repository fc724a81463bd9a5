"""Exported students of a run: recovered on its text, judged beside torch, used by `generate`, kept in the run."""

import json
import sys
from dataclasses import replace

import pytest
import torch

from kdkit.config.language import dump_config
from kdkit.data.prepare import build_data
from kdkit.errors import UserError
from kdkit.models.generation import Sampling
from kdkit.report.deployment import deployment_tables
from kdkit.runs.folder import Run, link_folder
from kdkit.workflow.deploy import measure
from kdkit.workflow.deploy.export import ExportRequest, export_model
from kdkit.workflow.deploy.measure import judge
from kdkit.workflow.deploy.recover import recover
from kdkit.workflow.deploy.text import find_text
from kdkit.workflow.writers import open_writer
from tests.gguf_models import build_kind
from tests.tiny import make_config, make_data, make_run

GREEDY = Sampling(temperature=0.0, max_new_tokens=8)


@pytest.fixture(autouse=True)
def little(monkeypatch):
    """Take every speed once, on few tokens."""
    monkeypatch.setattr(measure, "ROUNDS", 1)
    monkeypatch.setattr(measure, "WRITTEN", 4)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    """Return a run with data whose student was never trained, so that rounding moves its logits far."""
    root = tmp_path_factory.mktemp("deploy")
    config = make_config(root, train={"learning_rate": 0.02}, cache_dir=str(root / "cache"))
    run = make_run(root, "small")
    data = make_data(config, root)
    link_folder(build_data(config, root / "cache"), run.path / "data")
    build_kind(data.student_tokenizer).save_pretrained(run.path / "student")
    data.student_tokenizer.save_pretrained(run.path / "student")
    (run.path / "config.yaml").write_text(dump_config(config))
    run.write_json("training.json", {"student": {"steps": 0, "seconds": 0.0}})
    return run


def request(run, out, **options):
    return ExportRequest("small", str(out), "student", str(run.path.parent), **options)


def test_four_bits_are_written_recovered_judged_and_used(run, tmp_path):
    printed = export_model(request(run, tmp_path / "plain", format="int4"))
    assert printed.splitlines()[-1].startswith(f"python -m kdkit generate {tmp_path / 'plain'} --prompt")
    plain = json.loads((run.path / "export.json").read_text())["student"]["int4"]
    assert plain["share"] < 0.22 and plain["file"] == "plain" and plain["torch_written_per_second"] > 0
    export_model(request(run, tmp_path / "better", format="int4", recover=12))
    row = json.loads((run.path / "export.json").read_text())["student"]["int4"]
    # torch's kernel and the rounding seen in training differ by what bf16 rounds
    assert row["unrecovered_bits_per_byte"] == pytest.approx(plain["bits_per_byte"], rel=0.01)
    assert row["recovery_steps"] == 12 and row["bits_per_byte"] != plain["bits_per_byte"]
    headings, rows = deployment_tables(run)["student"]
    assert [line[0] for line in rows] == ["torch, fp32", "int4"] and all(len(line) == len(headings) for line in rows)
    writer, learnt_chat = open_writer(str(tmp_path / "better"), "student", str(run.path.parent), 4)
    assert learnt_chat is None and writer.write(["the quick"], GREEDY)[0][0].num_tokens == 8


def test_recovery_brings_a_rounded_model_nearer_to_what_it_was(run):
    text = find_text("small", "student", str(run.path.parent))
    full = build_kind(open_writer(str(run.path / "student"), "student", "", 4)[0].tokenizer)
    student = build_kind(open_writer(str(run.path / "student"), "student", "", 4)[0].tokenizer)
    found = recover(student, full, text, 4, 12)
    assert sum(found[-3:]) < 0.8 * sum(found[:3])
    assert all(not hasattr(module, "parametrizations") for module in student.modules())


def test_a_gguf_file_of_eight_bits_is_judged_by_its_weights(run, tmp_path, monkeypatch):
    pytest.importorskip("gguf", reason="the Python package gguf is not installed")
    monkeypatch.setitem(sys.modules, "llama_cpp", None)  # as where it is not installed
    printed = export_model(request(run, tmp_path / "out.gguf", quantise="q8_0"))
    assert printed.endswith("  # first: pip install 'kdkit[gguf]'")
    with pytest.raises(UserError, match="MODEL: expected llama"):
        open_writer(str(tmp_path / "out.gguf"), "student", str(run.path.parent), 4)
    row = json.loads((run.path / "export.json").read_text())["student"]["gguf, Q8_0"]
    assert row["bits_per_byte"] == pytest.approx(row["full_bits_per_byte"], rel=0.005)
    assert row["largest_logit_difference"] > 0 and 0.26 < row["share"] < 0.29


@pytest.mark.slow
def test_an_onnx_folder_is_judged_and_writes_what_torch_writes(run, tmp_path):
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    export_model(request(run, tmp_path / "graph", format="onnx"))
    rows = json.loads((run.path / "export.json").read_text())["student"]
    assert rows["onnx, fp32"]["bits_per_byte"] == pytest.approx(rows["onnx, fp32"]["full_bits_per_byte"], rel=1e-4)
    places = (run.path / "student", tmp_path / "graph", tmp_path / "graph" / "onnx" / "model_qint8.onnx")
    texts = [open_writer(str(each), "student", "", 4)[0].write(["the quick"], GREEDY)[0][0].text for each in places]
    assert texts[0] == texts[1] and texts[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantise": "q8_0", "format": "int8"}, "--quantise: expected it with --format gguf, got --format int8"),
        ({"recover": 5, "format": "onnx"}, "--recover: expected weights that are rounded, got --format onnx"),
        ({"recover": 5}, "--recover: expected weights that are rounded, got --format gguf in fp32"),
    ],
)
def test_options_that_do_nothing_are_refused(run, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        export_model(request(run, tmp_path / "out.gguf", **options))


def test_a_model_without_a_run_cannot_be_recovered_and_is_measured_without_bits(run, tmp_path):
    alone = replace(request(run, tmp_path / "out", format="int8"), source=str(run.path / "student"))
    with pytest.raises(UserError, match=r"--recover: expected a run whose text the model learns on"):
        export_model(replace(alone, recover=3))
    before = (run.path / "export.json").read_text() if (run.path / "export.json").is_file() else ""
    assert "int8" in export_model(alone)
    assert (run.path / "export.json").read_text() == before if before else not (run.path / "export.json").exists()
    with pytest.raises(UserError, match=r"MODEL: expected a model in full precision, got one .* 8 bits"):
        export_model(replace(alone, source=str(tmp_path / "out"), file=str(tmp_path / "again")))


def test_the_judge_reads_what_evaluation_reads(run):
    text = find_text("small", "student", str(run.path.parent))
    writer, _ = open_writer(str(run.path / "student"), "student", "", 4)
    model = build_kind(writer.tokenizer)
    assert judge(model, text) == judge(model, text) > 0
    assert text.rows(2, 6).shape == (2, 6) and text.rows(2, 6).dtype == torch.int64
