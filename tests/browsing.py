"""JupyterLab or Voila on a copy of the project, in a headless Chromium; skipped, with the reason, where one is missing.

Pictures are written to the folder in SCREENSHOTS, if it is set; CHROMIUM is the browser's path where it is not in PATH.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LIGHT, DARK = "JupyterLab Light", "JupyterLab Dark"
SETTINGS = {
    "notebook-extension/tracker": {"windowingMode": "none"},  # else only what is on the screen exists
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}
SCROLLED = "Array.from(document.querySelectorAll('.jp-WindowedPanel-outer, .jp-Notebook'))"
PROMPTS = "Array.from(document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')).map(prompt => prompt.textContent)"
IS_RUNNING = f"{PROMPTS}.some(text => text.includes('*'))"
HAS_RUN = f"!{IS_RUNNING} && {PROMPTS}.some(text => /[0-9]/.test(text))"
WIDTH = 1300


def copy_project(folder):
    """Copy what the notebooks need, so that nothing here is written to."""
    for name in ("kdkit", "notebooks", "configs", "docs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    return folder


def set_parameters(path, **values):
    """Change parameters of a notebook, as a person does in its cell."""
    notebook = json.loads(path.read_text())
    cell = next(cell for cell in notebook["cells"] if "parameters" in cell["metadata"].get("tags", []))
    text = "".join(cell["source"])
    for name, value in values.items():
        text, count = re.subn(rf"(?m)^({name}: \w+ = ).*$", lambda found, value=value: found[1] + repr(value), text)
        assert count == 1, name
    cell["source"] = text
    path.write_text(json.dumps(notebook))


@contextmanager
def serve(project, settings, theme=LIGHT):
    """Run JupyterLab on a folder; yields its address.

    Args:
        settings: an empty folder for JupyterLab's settings.
    """
    pytest.importorskip("jupyterlab", reason="jupyterlab is not installed: pip install jupyterlab playwright")
    for name, values in (SETTINGS | {"apputils-extension/themes": {"theme": theme}}).items():
        path = settings / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    options = ["--no-browser", "--allow-root", "--IdentityProvider.token=", f"--ServerApp.root_dir={project}"]
    with _started("jupyterlab", options, "/api", {"JUPYTERLAB_SETTINGS_DIR": str(settings)}) as address:
        yield address


@contextmanager
def serve_voila(notebook, *options):
    """Run Voila on a notebook; yields its address."""
    pytest.importorskip("voila", reason="voila is not installed: pip install voila playwright")
    with _started("voila", [str(notebook), "--no-browser", *options], "/static/", {}) as address:
        yield address


@contextmanager
def _started(module, options, path, environment):
    """Run a server in a process of its own until the block ends; yields its address once it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mine = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    command = [sys.executable, "-m", module, *options, f"--port={port}"]
    process = subprocess.Popen(command, env=mine | environment, **quiet)
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}{path}")
            except urllib.error.HTTPError:  # it answers
                break
            except OSError:
                time.sleep(0.5)
            else:
                break
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def browser():
    """Chromium, driven by playwright."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is missing: pip install playwright")
    names = ("chromium", "chromium-browser", "google-chrome")
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip("no Chromium: install one, or set CHROMIUM to its path")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def open_notebook(browser, address, name):
    """Open a notebook of the copy in JupyterLab; returns its page when the kernel is ready."""
    page = browser.new_page(viewport={"width": WIDTH, "height": 900})
    page.goto(f"{address}/lab/tree/notebooks/{name}.ipynb?reset")
    page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=120_000)
    page.wait_for_selector("text=Python 3 (ipykernel) | Idle", timeout=120_000)
    return page


def run_all(page):
    """Choose Run All Cells."""
    page.click(".lm-MenuBar-itemLabel:text-is('Run')")
    page.click(".lm-Menu-itemLabel:text-is('Run All Cells')")
    page.wait_for_function(f"{IS_RUNNING} || ({HAS_RUN})", timeout=30_000)


def wait_until_run(page, seconds):
    """Wait until every cell has run, or one has failed."""
    page.wait_for_function(HAS_RUN, timeout=seconds * 1000)
    time.sleep(2)  # pictures and widgets are drawn after their cell has ended


def save(page, path):
    """Save the notebook in JupyterLab; returns the outputs of its cells as its file holds them."""
    before = path.stat().st_mtime_ns
    page.keyboard.press("Control+s")
    for _ in range(60):
        if path.stat().st_mtime_ns != before:
            break
        time.sleep(0.5)
    cells = json.loads(path.read_text())["cells"]
    return [output for cell in cells if cell["cell_type"] == "code" for output in cell["outputs"]]


def take_picture(page, name):
    """Keep a picture of what is on the screen, if anybody wants one."""
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=f"{folder}/{name}.png")


def take_whole_picture(page, name):
    """Keep a picture of the whole notebook, if anybody wants one."""
    if not os.environ.get("SCREENSHOTS"):
        return
    page.keyboard.press("Control+b")
    height = page.evaluate(f"Math.max(...{SCROLLED}.map(part => part.scrollHeight))") + 200
    page.set_viewport_size({"width": WIDTH, "height": min(height, 16_000)})
    page.evaluate(f"{SCROLLED}.forEach(part => part.scrollTop = 0)")
    time.sleep(2)
    take_picture(page, name)
