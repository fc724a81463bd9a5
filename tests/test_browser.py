"""Every notebook in JupyterLab, run and looked at by a browser: `make browser`.

Needs `pip install jupyterlab playwright` and a Chromium, whose path is in CHROMIUM or in PATH. Pictures of every
notebook are written to the folder in SCREENSHOTS, if it is set.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
STORY = ["01_data", "02_teacher_probe", "03_distill", "04_evaluate", "05_report", "06_embedding_distillation"]
SECONDS = 600
"""Longest time of a notebook."""
SETTINGS = {
    "notebook-extension/tracker": {"windowingMode": "none"},  # else only what is on the screen exists
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}
PICTURES = "Array.from(document.querySelectorAll('.jp-OutputArea img'))"
SCROLLED = "Array.from(document.querySelectorAll('.jp-WindowedPanel-outer, .jp-Notebook'))"
UNFINISHED = (
    "Array.from(document.querySelectorAll('.jp-CodeCell .jp-InputPrompt'))"
    ".filter(prompt => !/[0-9]/.test(prompt.textContent)).length"
)
ERROR = "[data-mime-type='application/vnd.jupyter.error']"
BARS = "Array.from(document.querySelectorAll('.jp-OutputArea .widget-hprogress .progress-bar'))"

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A plain copy of the project whose notebooks run the smallest configuration; JupyterLab saves into it."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("kdkit", "notebooks", "configs", "docs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    if not os.environ.get("BROWSER_DEFAULTS"):  # set it to run the configuration that a person meets
        for path in (folder / "notebooks").glob("0[1-3]*.ipynb"):
            path.write_text(path.read_text().replace("configs/quick.yaml", "configs/smoke.yaml"))
    return folder


@pytest.fixture(scope="module")
def server(project, tmp_path_factory):
    """JupyterLab on the copy; its address."""
    pytest.importorskip("jupyterlab", reason="jupyterlab is not installed: pip install jupyterlab playwright")
    settings = tmp_path_factory.mktemp("settings")
    theme = {"apputils-extension/themes": {"theme": os.environ.get("BROWSER_THEME", "JupyterLab Light")}}
    for name, values in (SETTINGS | theme).items():
        path = settings / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--no-browser", "--allow-root", "--IdentityProvider.token="]
    options += [f"--port={port}", f"--ServerApp.root_dir={project}"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", *options],
        env=environment | {"JUPYTERLAB_SETTINGS_DIR": str(settings)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    for _ in range(240):
        try:
            urllib.request.urlopen(f"{address}/api")
            break
        except OSError:
            time.sleep(0.5)
    yield address
    process.terminate()
    process.wait(30)


@pytest.fixture(scope="module")
def browser():
    """Chromium, driven by playwright."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium: install one, or set CHROMIUM to its path")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(params=STORY)
def page(request, browser, server):
    """A notebook after Run All, in the order of the story: each one needs what those before it left."""
    page = browser.new_page(viewport={"width": 1300, "height": 900})
    page.goto(f"{server}/lab/tree/notebooks/{request.param}.ipynb?reset")
    page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=120_000)
    page.wait_for_selector("text=Python 3 (ipykernel) | Idle", timeout=120_000)
    page.click(".lm-MenuBar-itemLabel:text-is('Run')")
    page.click(".lm-Menu-itemLabel:text-is('Run All Cells')")
    page.wait_for_function(f"{UNFINISHED} === 0 || document.querySelector({ERROR!r})", timeout=SECONDS * 1000)
    time.sleep(2)  # pictures and widgets are drawn after their cell has ended
    if folder := os.environ.get("SCREENSHOTS"):
        page.keyboard.press("Control+b")
        height = page.evaluate(f"Math.max(...{SCROLLED}.map(part => part.scrollHeight))") + 200
        page.set_viewport_size({"width": 1300, "height": min(height, 16_000)})
        page.evaluate(f"{SCROLLED}.forEach(part => part.scrollTop = 0)")
        time.sleep(2)
        page.screenshot(path=f"{folder}/{request.param}.png")
    page.name = request.param
    yield page
    page.close()


def test_a_notebook_shows_what_it_should(page):
    errors = page.locator(ERROR).all_inner_texts()
    assert errors == []
    assert page.evaluate(f"{PICTURES}.filter(i => !i.complete || !i.naturalWidth).length") == 0
    widths = page.evaluate(f"{BARS}.map(bar => bar.style.width)")
    assert [width for width in widths if width != "100%"] == []
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
