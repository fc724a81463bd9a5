"""An installed kdkit: runs lie where the command is started, nothing is written to the environment."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.workflow.projects import ROOT, write_notebook


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Install a copy of the repository into an environment of its own, which sees the packages of this one."""
    folder = tmp_path_factory.mktemp("installed")
    source, prefix = folder / "source", folder / "environment"
    source.mkdir()
    for name in ("kdkit", "notebooks", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "requirements.txt"):
        shutil.copy(ROOT / name, source / name)
    for stage in ("01_data", "05_report"):
        write_notebook(source, stage, "import kdkit; print(kdkit.__file__)")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", prefix], check=True)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(prefix), "platbase": str(prefix)}))
    (packages / "outer.pth").write_text(sysconfig.get_path("purelib"))
    command = [sys.executable, "-m", "pip", "--python", prefix / "bin" / "python", "install", "--quiet", "--no-deps"]
    options = ["--no-index", "--no-build-isolation", "--force-reinstall", "--disable-pip-version-check", source]
    subprocess.run([*command, *options], check=True, env=plain())
    return prefix


@pytest.fixture
def here(tmp_path):
    """A folder of the user with a corpus."""
    (tmp_path / "corpus.txt").write_text("\n\n".join(f"Paragraph {i} says that {i} is {i}." for i in range(600)))
    return tmp_path


def plain():
    """Return the environment's variables without those that would find this clone."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PIP_", "VIRTUAL"))}


def kdkit(environment, here, *arguments):
    """Run the installed command in a folder."""
    command = [environment / "bin" / "kdkit", *arguments]
    return subprocess.run(command, cwd=here, env=plain(), capture_output=True, text=True)


def files_of(environment):
    """Return all files of the environment but compiled ones."""
    return {path for path in environment.rglob("*") if path.is_file() and "__pycache__" not in path.parts}


@pytest.mark.parametrize("name", ["smoke", "smoke.yaml", "configs/smoke.yaml"])
def test_runs_and_cache_go_to_the_current_folder(environment, here, name):
    before = files_of(environment)
    done = kdkit(environment, here, "run", name, "-p", "data.path=corpus.txt", "--name", "r", "--only", "01,05")
    assert done.returncode == 0, done.stderr
    assert f"run r: {here / 'runs' / 'r'}" in done.stdout
    assert (here / "runs" / "r" / "status.json").is_file() and (here / ".cache" / "data").is_dir()
    assert files_of(environment) == before
    executed = (here / "runs" / "r" / "notebooks" / "01_data.ipynb").read_text()
    assert str(environment) in executed, "the kernel is the installed one's Python"


@pytest.mark.parametrize("name", ["smok", "configs/smok.yaml", "smoke.yml"])
def test_a_misspelt_bundled_name_is_answered_with_the_nearest(environment, here, name):
    done = kdkit(environment, here, "run", name)
    assert done.returncode == 2
    assert f"got {name!r}, which does not exist; did you mean smoke?" in done.stderr


def test_a_sweep_and_a_cache_find_bundled_names_too(environment, here):
    assert "did you mean ablation_router?" in kdkit(environment, here, "sweep", "ablation_routr").stderr
    assert "did you mean demo?" in kdkit(environment, here, "cache", "build", "dmo").stderr


def test_papermill_runs_an_installed_notebook_from_any_folder(environment, here):
    notebook = environment / "share" / "kdkit" / "notebooks" / "01_data.ipynb"
    command = [environment / "bin" / "python", "-m", "papermill", notebook, here / "out.ipynb", "-p", "RUN", "r"]
    done = subprocess.run([*command, "-k", "python3"], cwd=here, env=plain(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_nothing_is_written_beside_the_installed_notebooks(environment):
    done = kdkit(environment, environment / "share" / "kdkit" / "notebooks", "run", "smoke")
    assert done.returncode == 2
    assert "expected a folder of your own" in done.stderr and "cp -r " in done.stderr
