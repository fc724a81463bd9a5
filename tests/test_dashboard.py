"""The dashboard of notebook 03 in a browser: its button stops and saves, and going on ends as nothing had happened."""

import json
import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file

from kdkit.data.prepare import prepare_data
from kdkit.distill.open_teacher import open_teacher
from kdkit.distill.plan import plan_training
from kdkit.distill.train import distill
from kdkit.machine.open_session import open_session
from tests.browsing import (
    DARK,
    ROOT,
    copy_project,
    open_notebook,
    run_all,
    save,
    serve,
    serve_voila,
    set_parameters,
    take_picture,
    take_whole_picture,
    wait_until_run,
)

STEPS = 300
LIVE = ".kdkit-live"
BUTTON = f"{LIVE} button"
STOPPED = ".jp-OutputArea-output:has-text('stopped. student: step')"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project with a configuration that lasts long enough to be stopped, and its data and teacher."""
    folder = copy_project(tmp_path_factory.mktemp("project"))
    values = yaml.safe_load((ROOT / "configs" / "smoke.yaml").read_text())
    values["train"] |= {"max_steps": STEPS, "log_every": 5, "evaluate_every": 200}
    values |= {"cache_dir": str(folder / "cache"), "distill": {"equal_time_baseline": False}}
    (folder / "configs" / "stopped.yaml").write_text(yaml.safe_dump(values))
    session = open_session(folder / "configs" / "stopped.yaml", "", "whole", folder / "runs", {})
    open_teacher(plan_training(session, prepare_data(session)))
    return folder


def train(project, name, resume=False):
    """Train the student of a run without a notebook; returns the run."""
    session = open_session(project / "configs" / "stopped.yaml", "", name, project / "runs", {})
    plan = plan_training(session, prepare_data(session))
    distill(plan, open_teacher(plan), resume=resume)
    return session.run


def read_end(run):
    """Return a student's weights and what was measured of it, the times aside."""
    lines = [line for line in run.read_metrics() if line["phase"] == "student" and "evaluation_bits_per_byte" in line]
    return load_file(run.path / "student" / "model.safetensors"), [line | {"seconds": 0} for line in lines]


def assert_same_end(run, other):
    weights, lines = read_end(run)
    others, expected = read_end(other)
    assert lines == expected
    assert weights.keys() == others.keys() and all(torch.equal(weights[name], others[name]) for name in others)


def press_button(page, name):
    """Press the button while the student is trained."""
    run_all(page)
    page.wait_for_selector(f"{LIVE} .facts:has-text('time left')", timeout=120_000)
    page.locator(BUTTON).scroll_into_view_if_needed()
    take_picture(page, f"{name}_training")
    page.click(BUTTON)
    page.wait_for_selector(STOPPED, timeout=60_000)
    wait_until_run(page, 60)
    take_picture(page, f"{name}_stopped")


def test_the_button_stops_saves_and_the_training_goes_on_exactly(project, browser, tmp_path):
    path = project / "notebooks" / "03_distill.ipynb"
    set_parameters(path, CONFIG="configs/stopped.yaml", RUN="pressed", RUNS_DIR=str(project / "runs"))
    with serve(project, tmp_path) as address:
        page = open_notebook(browser, address, "03_distill")
        press_button(page, "dashboard_light")
        outputs = save(page, path)
        page.close()
    status = json.loads((project / "runs" / "pressed" / "status.json").read_text())
    assert (status["state"], status["resume_needed"], status["phase"]) == ("stopped", True, "student")
    assert 0 < status["step"] < STEPS
    shown = [output["data"] for output in outputs if "data" in output]
    assert [set(data) for data in shown] == [{"text/html", "text/plain"}], "what a reader finds needs no kernel"
    assert f"stopped, step {status['step']} of {STEPS}" in "".join(shown[0]["text/html"]).replace("</span>", "")
    assert_same_end(train(project, "pressed", resume=True), train(project, "whole", resume=True))


@pytest.mark.browser
def test_a_stopped_notebook_goes_on_with_resume_and_ends_finished_on_a_dark_page(project, browser, tmp_path):
    path = project / "notebooks" / "03_dark.ipynb"
    shutil.copy(ROOT / "notebooks" / "03_distill.ipynb", path)
    set_parameters(path, CONFIG="configs/stopped.yaml", RUN="dark", RUNS_DIR=str(project / "runs"))
    with serve(project, tmp_path, DARK) as address:
        page = open_notebook(browser, address, "03_dark")
        press_button(page, "dashboard_dark")
        page.close()
        set_parameters(path, RESUME=True)
        page = open_notebook(browser, address, "03_dark")
        run_all(page)
        wait_until_run(page, 600)
        take_whole_picture(page, "dashboard_dark_finished")
        outputs = save(page, path)
        page.close()
    assert [output for output in outputs if output["output_type"] == "error"] == []
    pages = ["".join(output["data"].get("text/html", "")) for output in outputs if "data" in output]
    assert [content.count("width:100.0%") for content in pages if "kdkit-dashboard" in content] == [1, 1]
    assert all("vnd.jupyter.widget-view+json" not in output.get("data", {}) for output in outputs)
    assert_same_end(train(project, "dark", resume=True), train(project, "whole", resume=True))


@pytest.mark.browser
@pytest.mark.parametrize("progressive", [True, False])
def test_voila_shows_lines_and_pictures(project, browser, progressive):
    """Voila shows a cell once it is over, and nobody can be asked for input there: a training has lines."""
    path = project / "notebooks" / f"03_voila_{progressive}.ipynb"
    shutil.copy(ROOT / "notebooks" / "03_distill.ipynb", path)
    values = {"RUN": f"voila_{progressive}", "RUNS_DIR": str(project / "runs"), "OVERRIDES": "train.max_steps=12"}
    set_parameters(path, CONFIG="configs/stopped.yaml", **values)
    page = browser.new_page(viewport={"width": 1100, "height": 1000})
    with serve_voila(path, f"--progressive_rendering={progressive}") as address:
        page.goto(address, wait_until="commit")
        page.wait_for_function("document.querySelectorAll('img').length >= 3", timeout=600_000)
        assert "10/12" in page.inner_text("body")
        assert page.locator(LIVE).count() == 0 and page.locator(".kdkit-dashboard").count() == 0
        take_picture(page, f"voila_{progressive}")
    page.close()
