"""Every notebook in JupyterLab, run and looked at by a browser: `make browser`. What it needs: see `tests.browsing`."""

import os

import pytest

from tests.browsing import (
    LIGHT,
    copy_project,
    open_notebook,
    run_all,
    save,
    serve,
    take_whole_picture,
    wait_until_run,
)

STORY = ["01_data", "02_teacher_probe", "03_distill", "04_evaluate", "05_report", "06_embedding_distillation"]
SECONDS = 600
"""Longest time of a notebook."""
PICTURES = "Array.from(document.querySelectorAll('.jp-OutputArea img'))"
BARS = "Array.from(document.querySelectorAll('.jp-OutputArea .kdkit-dashboard .track div'))"

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A plain copy of the project whose notebooks run the smallest configuration; JupyterLab saves into it."""
    folder = copy_project(tmp_path_factory.mktemp("project"))
    if not os.environ.get("BROWSER_DEFAULTS"):  # set it to run the configuration that a person meets
        for path in (folder / "notebooks").glob("0[1-3]*.ipynb"):
            path.write_text(path.read_text().replace("configs/quick.yaml", "configs/smoke.yaml"))
    return folder


@pytest.fixture(scope="module")
def server(project, tmp_path_factory):
    """JupyterLab on the copy; its address."""
    with serve(project, tmp_path_factory.mktemp("settings"), os.environ.get("BROWSER_THEME", LIGHT)) as address:
        yield address


@pytest.fixture(params=STORY)
def page(request, browser, server, project):
    """A notebook after Run All, in the order of the story: each one needs what those before it left."""
    page = open_notebook(browser, server, request.param)
    run_all(page)
    wait_until_run(page, SECONDS)
    take_whole_picture(page, request.param)
    page.name = request.param
    page.outputs = save(page, project / "notebooks" / f"{page.name}.ipynb")
    yield page
    page.close()


def test_a_notebook_shows_what_it_should(page):
    assert [output for output in page.outputs if output["output_type"] == "error"] == []
    assert page.evaluate(f"{PICTURES}.filter(i => !i.complete || !i.naturalWidth).length") == 0
    widths = page.evaluate(f"{BARS}.map(bar => bar.style.width)")
    assert [width for width in widths if width != "100.0%"] == [] and page.locator(".kdkit-live").count() == 0
    assert "Writing model shards" not in page.inner_text(".jp-Notebook")
    if page.name in ("03_distill", "06_embedding_distillation"):
        assert widths
    if page.name in ("04_evaluate", "05_report", "06_embedding_distillation"):
        assert page.evaluate(f"{PICTURES}.length") >= 1
    first_column = "Array.from(document.querySelectorAll('.jp-OutputArea tr > :first-child'))"
    assert set(page.evaluate(f"{first_column}.map(cell => getComputedStyle(cell).textAlign)")) <= {
        "left",
        "start",
        "-webkit-left",
    }
    if page.name == "02_teacher_probe":
        look_at_another_text(page)


def look_at_another_text(page):
    """Choose the second text of the expert explorer; its picture must change."""
    picture = page.locator(".jp-OutputArea .widget-image").last
    before = picture.get_attribute("src")
    chosen = page.locator(".jp-OutputArea .widget-dropdown select").last
    chosen.select_option(index=1)
    page.wait_for_function(
        "before => Array.from(document.querySelectorAll('.jp-OutputArea .widget-image')).at(-1).src != before",
        arg=before,
        timeout=60_000,
    )
