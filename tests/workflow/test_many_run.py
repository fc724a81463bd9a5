"""A whole run with several teachers, from the command line to the report."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STAGES = ["01_data", "02_teacher_probe", "03_distill", "04_evaluate", "05_report", "07_many_teachers"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Run the small configuration of two teachers once; return the folder of the run and the process."""
    folder = tmp_path_factory.mktemp("many")
    where = ["--name", "s", "--runs-dir", f"{folder}/runs", "-p", f"cache_dir={folder}/cache"]
    command = [sys.executable, "-m", "kdkit", "run", "configs/many_smoke.yaml", *where]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    return folder / "runs" / "s", process


def test_every_notebook_of_the_story_runs(finished):
    run, process = finished
    assert process.returncode == 0, process.stderr[-3000:]
    status = json.loads((run / "status.json").read_text())
    assert {stage: status[stage]["state"] for stage in STAGES} == dict.fromkeys(STAGES, "done")


@pytest.mark.parametrize(
    "name",
    ["report.html", "teachers.json", "kinds.json", "figures/teachers.png", "figures/kinds.png"]
    + [f"teachers/{name}/student/model.safetensors" for name in ("reader", "programmer")],
)
def test_a_run_with_several_teachers_leaves(finished, name):
    assert (finished[0] / name).stat().st_size > 0


def test_the_last_notebook_keeps_the_student_that_was_trained(finished):
    run, _ = finished
    trained = json.loads((run / "status.json").read_text())["03_distill"]["finished"]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert trained and sum(line["phase"] == "student" and "loss" in line for line in lines) == 3
    assert {line["phase"] for line in lines} == {"teacher", "student", "baseline", "teachers"}
    kinds = json.loads((run / "kinds.json").read_text())
    assert {"only reader", "only programmer", "student", "baseline"} <= set(kinds["docs"])


def test_the_costs_name_every_teacher_and_its_opinion(finished):
    costs = {row["item"] for row in json.loads((finished[0] / "training.json").read_text())["costs"]}
    assert {"teacher reader, trained here", "teacher programmer's opinion of the text", "student"} <= costs
