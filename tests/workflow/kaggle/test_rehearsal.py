"""The rendered notebooks in order, each in a session of its own, as Kaggle runs them."""

import json
import sys
import time

import nbformat
import pytest

from kdkit.workflow.kaggle.render import render
from tests.workflow.kaggle.sessions import OWNER, inputs_of, kaggle_folder, run_session, smoke_source

STAGES = ["01_data", "02_teacher_probe", "03_distill", "04_evaluate", "05_report"]
LAST = "05_report"


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory):
    """Render and run all five; return what each left, what it printed, and how long it took."""
    folder = tmp_path_factory.mktemp("rehearsal")
    source = smoke_source(folder)
    render(source, folder / "kaggle")
    render(source, folder / "embedded", [LAST], embed=True)  # the two ways by which the package travels
    outputs, printed, seconds = {}, {}, {}
    with kaggle_folder():
        command = [sys.executable, "-c", "import importlib.util as u, sys; sys.exit(u.find_spec('kdkit') is not None)"]
        if run_session(None, None, {}, folder / "empty", command).returncode:
            pytest.skip("kdkit is installed in this environment, so that a notebook would not have to find it")
        for number, stage in enumerate(STAGES):
            kernel = folder / ("embedded" if stage == LAST else "kaggle") / stage
            inputs = inputs_of(kernel, outputs, folder / "kaggle" / "package", is_new=number % 2 == 1)
            working, executed = folder / "outputs" / stage, folder / f"{stage}.ipynb"
            started = time.monotonic()
            process = run_session(kernel / f"{stage}.ipynb", executed, inputs, working)
            assert process.returncode == 0, f"{stage}: {process.stderr[-3000:]}"
            seconds[stage] = time.monotonic() - started
            notebook = nbformat.read(executed, as_version=4)
            streams = [o.text for c in notebook.cells for o in c.get("outputs", []) if o.output_type == "stream"]
            printed[stage] = "".join(streams)
            outputs[f"{OWNER}/{source.slug(stage)}"] = working
    print({stage: round(value, 1) for stage, value in seconds.items()})
    return dict(zip(STAGES, outputs.values(), strict=True)), printed


def test_every_stage_goes_on_with_the_run_of_the_one_before(rehearsal):
    outputs, printed = rehearsal
    assert "goes on from" not in printed["01_data"]
    for number, stage in enumerate(STAGES[1:], 1):
        (line,) = [line for line in printed[stage].splitlines() if "goes on from" in line]
        place = "datasets/me/" if number % 2 else ""
        slug = f"kdkit-{STAGES[number - 1].replace('_', '-')}"
        assert line == f"note: run smoke: goes on from /kaggle/input/{place}{slug}/runs/smoke"
        assert json.loads((outputs[stage] / "runs/smoke/carried.json").read_text())["sessions"] == number


def test_the_last_output_is_the_whole_run(rehearsal):
    run = rehearsal[0][LAST] / "runs" / "smoke"
    for name in ("report.html", "report.md", "student/model.safetensors", "student/README.md", "evaluation.json"):
        assert (run / name).stat().st_size > 0
    assert (run / "data" / "manifest.json").is_file() and (run / "metrics.jsonl").is_file()


def test_nothing_is_made_twice(rehearsal):
    outputs, _ = rehearsal
    teachers = [sorted(path.name for path in (outputs[stage] / "cache/teachers").glob("[!.]*")) for stage in STAGES[1:]]
    assert all(found == teachers[0] and len(found) == 1 for found in teachers)
    models = [outputs[stage] / "cache/teachers" / teachers[0][0] / "model.safetensors" for stage in STAGES[1:]]
    assert len({model.stat().st_mtime_ns for model in models}) == 1, "built once, then copied"


def test_the_inputs_are_as_they_were(rehearsal):
    outputs, _ = rehearsal
    assert not (outputs["01_data"] / "runs/smoke/student").exists()
    assert not (outputs["02_teacher_probe"] / "runs/smoke/student").exists()
