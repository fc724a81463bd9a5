"""The whole run, once: every file it leaves, and what a second one does."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from kdkit import cli
from kdkit.config.language import load_config

ROOT = Path(__file__).resolve().parents[2]
STAGES = ["01_data", "02_teacher_probe", "03_distill", "04_evaluate", "05_report"]
MODELS = ["teacher", "student", "baseline", "baseline_equal_time", "baseline_answers_reused"]
SECRETS = {
    "WANDB_API_KEY": "5ecret0wandb0" + "0123456789abcdef" * 2,
    "HF_TOKEN": "hf_5ecretHubToken0123456789abcdefghij",
    "KAGGLE_KEY": "5ecret0kaggle0fedcba9876543210",
    "OPENAI_API_KEY": "sk-5ecretEndpointKey0123456789",
}
TITLE = "Title-that-is-found"
MEASURED = ["perplexity", "bits_per_byte", "parameters", "size_bytes", "tokens_per_second", "peak_memory_bytes"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Run the smoke configuration once, with secrets around it; return the folder, the process and the arguments."""
    folder = tmp_path_factory.mktemp("smoke")
    settings = [f"cache_dir={folder}/cache", f"report.title={TITLE}", "train.wandb=offline"]
    where = ["--name", "s", "--runs-dir", f"{folder}/runs", *(word for each in settings for word in ("-p", each))]
    arguments = ["run", "configs/smoke.yaml", *where]
    environment = os.environ | SECRETS | {"HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "kdkit", *arguments]
    process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    return folder / "runs" / "s", process, arguments


@pytest.fixture(scope="module")
def evaluation(finished):
    """Read the run's evaluation.json."""
    return json.loads((finished[0] / "evaluation.json").read_text())


def contents(folder):
    """Return what every file below a folder holds."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_smoke_run_succeeds_and_ends_with_the_paths(finished):
    run, process, _ = finished
    assert process.returncode == 0, process.stderr[-3000:]
    *_, report, student, copies = process.stdout.splitlines()
    assert [report, student] == [f"report: {run / 'report.html'}", f"student: {run / 'student'}"]
    assert copies.endswith(f"wandb sync {run}/wandb/offline-run-*")


def test_a_run_says_how_large_its_models_are_before_it_builds_them(finished, evaluation):
    before, _, _ = " ".join(finished[1].stdout.split()).partition("[1/5]")
    for name in ("teacher", "student"):
        assert f"{name}: {evaluation['models'][name]['parameters']:,} parameters (" in before
        assert "training takes about" in before


@pytest.mark.parametrize(
    "name",
    ["report.html", "report.md", "student/README.md", "student/model.safetensors", "student/tokenizer.json"]
    + ["baseline/model.safetensors", "teacher/probe.json", "data/manifest.json", "training.json"]
    + [f"figures/{name}.png" for name in ("alignment", "expert_load", "learning_curves", "quality_against_size")],
)  # fmt: skip
def test_a_run_leaves(finished, name):
    assert (finished[0] / name).stat().st_size > 0


def files_with(folder, text):
    """Return the files below a folder that hold a text."""
    return [file for file in folder.rglob("*") if file.is_file() and text.encode() in file.read_bytes()]


def test_a_whole_run_keeps_no_secret_of_its_environment(finished):
    folder = finished[0].parent.parent
    assert {file.name for file in files_with(folder, TITLE)} >= {"report.html", "config.yaml"}
    assert list(folder.rglob("*.wandb")), "what W&B keeps is searched too"
    assert {name: files_with(folder, value) for name, value in SECRETS.items()} == {name: [] for name in SECRETS}


@pytest.mark.parametrize("stage", STAGES)
def test_the_status_says_done_with_seconds(finished, stage):
    entry = json.loads((finished[0] / "status.json").read_text())[stage]
    assert (entry["state"], entry["message"]) == ("done", "") and entry["seconds"] > 0


@pytest.mark.parametrize("stage", STAGES)
def test_the_executed_notebook_is_kept(finished, stage):
    cells = [c for c in nbformat.read(finished[0] / "notebooks" / f"{stage}.ipynb", 4).cells if c.cell_type == "code"]
    assert all(cell.execution_count for cell in cells)
    shown = json.dumps([cell.outputs for cell in cells])
    assert "%|" not in shown and "widget-view" not in shown, "a bar stands still for ever in a saved notebook"
    assert 'RUN = "s"' in next(cell.source for cell in cells if "injected-parameters" in cell.metadata.get("tags", []))


@pytest.mark.parametrize("stage", STAGES)
def test_a_notebook_keeps_what_a_run_of_it_shows(finished, stage):
    written, executed = (
        {
            cell.id: "".join(output.text for output in cell.outputs)
            for cell in nbformat.read(folder / f"{stage}.ipynb", 4).cells
            if "nbval-check-output" in cell.metadata.get("tags", [])
        }
        for folder in (ROOT / "notebooks", finished[0] / "notebooks")
    )
    assert written == executed and all(written.values())


def test_the_saved_configuration_is_complete(finished):
    saved = load_config(finished[0] / "config.yaml")
    assert saved == load_config(ROOT / "configs" / "smoke.yaml", finished[2][-5::2])


def test_the_environment_is_recorded(finished):
    environment = json.loads((finished[0] / "env.json").read_text())
    assert environment["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"torch", "transformers"} <= set(environment["packages"])


def test_metrics_are_json_lines_with_phase_and_step(finished):
    lines = [json.loads(line) for line in (finished[0] / "metrics.jsonl").read_text().splitlines()]
    assert {line["phase"] for line in lines} == set(MODELS)
    assert all(isinstance(line["step"], int) and line["seconds"] >= 0 for line in lines)


@pytest.mark.parametrize("model", MODELS)
def test_every_model_is_measured(evaluation, model):
    assert all(evaluation["models"][model][key] > 0 for key in MEASURED)


def test_retention_and_compression_are_measured(evaluation):
    assert set(evaluation["retention"]) == set(MODELS) - {"teacher"}
    assert set(evaluation["retention"]["student"]) >= {"kl_to_teacher", "top_k_overlap"}
    teacher, student = evaluation["models"]["teacher"], evaluation["models"]["student"]
    assert evaluation["compression"]["parameters"] == teacher["parameters"] / student["parameters"]
    assert evaluation["compression"]["size"] == teacher["size_bytes"] / student["size_bytes"]


def test_gap_closed_is_its_formula(evaluation):
    teacher, student, baseline = (evaluation["models"][name]["bits_per_byte"] for name in MODELS[:3])
    assert teacher < baseline, "the smoke teacher no longer learns more than the student"
    assert math.isclose(evaluation["gap_closed"], (baseline - student) / (baseline - teacher))


def test_the_student_loads_with_transformers(finished, evaluation):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(finished[0] / "student")
    assert model.num_parameters() == evaluation["models"]["student"]["parameters"]
    inputs = AutoTokenizer.from_pretrained(finished[0] / "student")("The with statement", return_tensors="pt")
    assert model(**inputs).logits.isfinite().all()


def test_a_second_run_skips_every_stage_and_changes_nothing(finished, monkeypatch, capsys):
    run, _, arguments = finished
    monkeypatch.chdir(ROOT)
    before = contents(run.parent.parent)
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 0
    said = capsys.readouterr().out
    assert all(f"{stage}: done before, inputs unchanged, skipped" in said for stage in STAGES)
    assert contents(run.parent.parent) == before
