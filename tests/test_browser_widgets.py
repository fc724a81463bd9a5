"""The widgets of 02, 04 and 05 in JupyterLab and in Voila, used by a browser: `make browser`.

What they need: see `tests.browsing`. BROWSER_THEME="JupyterLab Dark" shows them in dark colours.
"""

import os
import shutil
import subprocess
import sys

import pytest

from tests.browsing import (
    DARK,
    LIGHT,
    copy_project,
    open_notebook,
    run_all,
    serve,
    serve_voila,
    set_parameters,
    wait_until_run,
)

THEME = os.environ.get("BROWSER_THEME", LIGHT)
ERROR = "[data-mime-type='application/vnd.jupyter.error']"
SECONDS = 600
"""Longest time of a notebook."""
CHANGED = "([before]) => document.querySelector('.jupyter-widgets table').innerText != before"
SCRIPT = "<script>window.wasRun = true</script><img src=x onerror='window.wasRun = true'>"

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project with two finished runs that differ in a setting."""
    folder = copy_project(tmp_path_factory.mktemp("project"))
    set_parameters(folder / "notebooks" / "02_teacher_probe.ipynb", CONFIG="configs/smoke.yaml")
    command = [sys.executable, "-m", "kdkit", "run", "configs/smoke.yaml", "--name", "cold"]
    environment = os.environ | {"PYTHONPATH": str(folder), "HF_HUB_OFFLINE": "1"}
    subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    shutil.copytree(folder / "runs" / "cold", folder / "runs" / "warm", symlinks=True)
    config = folder / "runs" / "warm" / "config.yaml"
    text = config.read_text()
    assert "\n  temperature: 1.0\n" in text
    config.write_text(text.replace("\n  temperature: 1.0\n", "\n  temperature: 3.0\n", 1))
    (folder / "runs" / "cold" / "training.json").touch()  # so 05 takes it for the run that was trained last
    return folder


@pytest.fixture(scope="module", params=["lab", "voila"])
def site(request, project, tmp_path_factory):
    """The name of a server and its address."""
    if request.param == "lab":
        server = serve(project, tmp_path_factory.mktemp("settings"), THEME)
    else:
        server = serve_voila(project / "notebooks", f"--theme={'dark' if THEME == DARK else 'light'}")
    with server as address:
        yield request.param, address


@pytest.fixture
def show(site, browser):
    """Return what opens a notebook and waits until all of it has run."""
    name, address = site
    pages = []

    def make(notebook):
        if name == "lab":
            page = open_notebook(browser, address, notebook)
            run_all(page)
            wait_until_run(page, SECONDS)
            assert page.locator(ERROR).all_inner_texts() == []
        else:
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.goto(f"{address}/voila/render/{notebook}.ipynb", timeout=SECONDS * 1000)
        pages.append((notebook, page))
        page.wait_for_selector(".jupyter-widgets textarea, .jupyter-widgets select", timeout=SECONDS * 1000)
        return page

    yield make
    for notebook, page in pages:
        if folder := os.environ.get("SCREENSHOTS"):
            widgets = page.locator(".jupyter-widgets.widget-vbox:not(.widget-vbox .widget-vbox)")
            for number in range(widgets.count()):
                widgets.nth(number).screenshot(path=f"{folder}/{notebook}-{name}-{number}.png")
        assert page.evaluate("window.wasRun") is None
        page.close()


def widgets_with(page, words):
    """Return the outermost box of widgets that holds some words."""
    return page.locator(".jupyter-widgets.widget-vbox", has_text=words).first


def test_a_typed_text_is_read_by_the_teacher_and_its_experts_and_never_run(show):
    page = show("02_teacher_probe")
    tokens = widgets_with(page, "the student has it")
    text = tokens.locator("textarea")
    text.fill(f"wolpertinger {SCRIPT}")
    text.blur()
    tokens.locator("pre", has_text="wolpertinger").first.wait_for(timeout=60_000)
    assert tokens.locator("tr").count() == 11
    before = tokens.locator("table").inner_text()
    tokens.locator(".noUi-handle").press("ArrowRight")
    page.wait_for_function(CHANGED, arg=[before], timeout=60_000)
    text.fill("")
    text.blur()
    tokens.get_by_text("expected at least one token").wait_for(timeout=60_000)
    picture = page.locator(".jupyter-widgets img.widget-image").last
    before = picture.get_attribute("src")
    page.locator(".jupyter-widgets select").last.select_option(index=1)
    page.wait_for_function("([i, before]) => i.src != before", arg=[picture.element_handle(), before], timeout=60_000)


def test_ticked_models_answer_a_prompt_side_by_side(show):
    page = show("04_evaluate")
    box = widgets_with(page, "tokens per second")
    box.locator("textarea").fill(f"{SCRIPT} the module")
    before = box.inner_text()
    box.get_by_text("baseline, equal steps").first.click()
    box.get_by_role("button", name="Generate").click()
    page.wait_for_function(
        "([box, before]) => box.innerText != before && !box.innerText.includes('writing')"
        " && !box.querySelector('button').disabled",
        arg=[box.element_handle(), before],
        timeout=120_000,
    )
    shown = [card for card in box.locator(".widget-vbox").all() if card.is_visible()]
    assert [card.inner_text().split("\n")[0] for card in shown] == ["teacher", "student (distilled)"]
    assert all("tokens per second" in card.inner_text() for card in shown)
    tops = {round(card.bounding_box()["y"]) for card in shown}
    assert len(tops) == 1
    box.locator("textarea").fill(" ")
    box.get_by_role("button", name="Generate").click()
    box.get_by_text("prompt: expected text").first.wait_for(timeout=60_000)


def test_a_chosen_run_is_drawn_and_compared(show):
    page = show("05_report")
    box = page.locator(".jupyter-widgets.widget-vbox", has=page.locator("select[multiple]")).first
    assert box.locator("select").first.input_value() == "cold"
    picture = box.locator("img.widget-image")
    before = picture.get_attribute("src")
    box.locator("select[multiple]").select_option("warm")
    box.get_by_text("distill.temperature").first.wait_for(timeout=60_000)
    page.wait_for_function("([i, before]) => i.src != before", arg=[picture.element_handle(), before], timeout=60_000)
    assert "B (warm) against A (cold)" in box.inner_text()
    box.locator("input[type=text]").fill("nothing of that name")
    page.wait_for_function("() => document.querySelectorAll('select[multiple] option').length == 1", timeout=60_000)
