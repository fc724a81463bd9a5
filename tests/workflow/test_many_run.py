"""A whole run with several teachers, from the command line to the report."""

import json

import pytest

from kdkit import cli
from kdkit.workflow import pipeline
from tests.workflow.projects import ROOT, run_here

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("error::RuntimeWarning")]

STAGES = ["01_data", "02_teacher_probe", "03_distill", "04_evaluate", "05_report", "07_many_teachers"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Run the small configuration of two teachers once, its notebooks in this process; return the folder of the run."""
    folder = tmp_path_factory.mktemp("many")
    where = ["--name", "s", "--runs-dir", f"{folder}/runs", "-p", f"cache_dir={folder}/cache"]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.chdir(ROOT)
        patch.setattr(pipeline, "run_notebook", run_here)
        cli.main(["run", "configs/many_smoke.yaml", *where])
    assert stop.value.code == 0
    return folder / "runs" / "s"


def test_every_notebook_of_the_story_runs(run):
    status = json.loads((run / "status.json").read_text())
    assert {stage: status[stage]["state"] for stage in STAGES} == dict.fromkeys(STAGES, "done")


@pytest.mark.parametrize(
    "name",
    ["report.html", "teachers.json", "kinds.json", "figures/teachers.png", "figures/kinds.png"]
    + [f"teachers/{name}/student/model.safetensors" for name in ("reader", "programmer")],
)
def test_a_run_with_several_teachers_leaves(run, name):
    assert (run / name).stat().st_size > 0


def test_the_last_notebook_keeps_the_student_that_was_trained(run):
    trained = json.loads((run / "status.json").read_text())["03_distill"]["finished"]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert trained and sum(line["phase"] == "student" and "loss" in line for line in lines) == 3
    assert {line["phase"] for line in lines} == {"teacher", "student", "baseline", "teachers"}
    kinds = json.loads((run / "kinds.json").read_text())
    assert {"only reader", "only programmer", "student", "baseline"} <= set(kinds["docs"])


def test_the_costs_name_every_teacher_and_its_opinion(run):
    costs = {row["item"] for row in json.loads((run / "training.json").read_text())["costs"]}
    assert {"teacher reader, trained here", "teacher programmer's opinion of the text", "student"} <= costs
