"""What tests in a browser need: a plain copy of the project, JupyterLab or Voila on it, and a Chromium.

Needs `pip install jupyterlab voila playwright` and a Chromium, whose path is in CHROMIUM or in PATH.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = {
    "notebook-extension/tracker": {"windowingMode": "none"},  # else only what is on the screen exists
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}


def copy_project(folder: Path) -> Path:
    """Copy the project; its notebooks run the smallest configuration."""
    for name in ("kdkit", "notebooks", "configs", "docs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    for path in (folder / "notebooks").glob("0[1-3]*.ipynb"):
        path.write_text(path.read_text().replace("configs/quick.yaml", "configs/smoke.yaml"))
    return folder


@contextmanager
def serve_lab(project: Path, settings: Path, theme: str = "JupyterLab Light") -> Iterator[str]:
    """Run JupyterLab on a project; its address.

    Args:
        settings: an empty folder.
    """
    pytest.importorskip("jupyterlab", reason="jupyterlab is not installed: pip install jupyterlab playwright")
    for name, values in (SETTINGS | {"apputils-extension/themes": {"theme": theme}}).items():
        path = settings / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    options = ["--no-browser", "--allow-root", "--IdentityProvider.token=", f"--ServerApp.root_dir={project}"]
    with _serve(["jupyterlab", *options], "api", project, {"JUPYTERLAB_SETTINGS_DIR": str(settings)}) as address:
        yield address


@contextmanager
def serve_voila(project: Path, theme: str = "light") -> Iterator[str]:
    """Run Voila on the notebooks of a project; its address."""
    pytest.importorskip("voila", reason="voila is not installed: pip install voila")
    options = ["--no-browser", f"--theme={theme}", "notebooks"]
    with _serve(["voila", *options], "", project, {}) as address:
        yield address


@contextmanager
def start_chromium() -> Iterator[object]:
    """Start Chromium, driven by playwright."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium: install one, or set CHROMIUM to its path")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@contextmanager
def _serve(words: list[str], ready: str, project: Path, variables: dict[str, str]) -> Iterator[str]:
    """Start a server, and wait until a page of it can be read."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", *words, f"--port={port}"],
        cwd=project,
        env=environment | variables,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{address}/{ready}")
                break
            except OSError:
                time.sleep(0.5)
        yield address
    finally:
        process.terminate()
        process.wait(30)
