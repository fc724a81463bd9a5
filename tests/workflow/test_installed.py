"""An installed kdkit: runs lie where the command is started, nothing is written to the environment."""

import json
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


IN_TURN = """
import contextlib, io, json, os, sys
from kdkit import cli

found = []
for folder, arguments in json.loads(sys.argv[1]):
    os.chdir(folder)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main(arguments)
        except SystemExit as stop:
            found.append([stop.code, out, err])
print(json.dumps([[code, out.getvalue(), err.getvalue()] for code, out, err in found]))
"""


def kdkit_in_turn(environment, *calls):
    """Run several installed commands, each in its folder, in one process, which imports for seconds.

    Returns:
        Exit code, output and errors of each.
    """
    command = [environment / "bin" / "python", "-c", IN_TURN]
    asked = json.dumps([[str(folder), words] for folder, words in calls])
    done = subprocess.run([*command, asked], cwd=calls[0][0], env=plain(), capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) == len(calls)
    return found


def files_of(environment):
    """Return all files of the environment but compiled ones."""
    return {path for path in environment.rglob("*") if path.is_file() and "__pycache__" not in path.parts}


def test_runs_and_cache_go_to_the_current_folder(environment, here):
    before = files_of(environment)
    words = ["-p", "data.path=corpus.txt", "--name", "r", "--only"]
    done = kdkit(environment, here, "run", "smoke", *words, "01,05")
    assert done.returncode == 0, done.stderr
    assert f"run r: {here / 'runs' / 'r'}" in done.stdout
    assert (here / "runs" / "r" / "status.json").is_file() and (here / ".cache" / "data").is_dir()
    executed = (here / "runs" / "r" / "notebooks" / "01_data.ipynb").read_text()
    assert str(environment) in executed, "the kernel is the installed one's Python"
    assert files_of(environment) == before


def test_a_bundled_configuration_has_three_names_and_a_misspelt_one_is_answered_with_the_nearest(environment, here):
    before = files_of(environment)
    names, misspelt = ["smoke", "smoke.yaml", "configs/smoke.yaml"], ["smok", "configs/smok.yaml", "smoke.yml"]
    folders = [here / str(number) for number in range(len(names))]
    for folder in folders:
        folder.mkdir()
        shutil.copy(here / "corpus.txt", folder)
    asked = [["run", name, "-p", "data.path=corpus.txt", "--name", "r", "--only", "01"] for name in names]
    others = [["run", name] for name in misspelt] + [["sweep", "ablation_routr"], ["cache", "build", "dmo"]]
    beside = environment / "share" / "kdkit" / "notebooks"
    calls = [*zip(folders, asked, strict=True), *((here, words) for words in others), (beside, ["run", "smoke"])]
    found = kdkit_in_turn(environment, *calls)
    for folder, (code, out, err) in zip(folders, found[:3], strict=True):
        assert code == 0, err
        assert f"run r: {folder / 'runs' / 'r'}" in out and (folder / "runs" / "r" / "status.json").is_file()
    for name, (code, _, err) in zip(misspelt, found[3:6], strict=True):
        assert code == 2 and f"got {name!r}, which does not exist; did you mean smoke?" in err
    assert "did you mean ablation_router?" in found[6][2] and "did you mean demo?" in found[7][2]
    code, _, err = found[8]
    assert code == 2 and "expected a folder of your own" in err and "cp -r " in err
    assert files_of(environment) == before


def test_papermill_runs_an_installed_notebook_from_any_folder(environment, here):
    notebook = environment / "share" / "kdkit" / "notebooks" / "01_data.ipynb"
    command = [environment / "bin" / "python", "-m", "papermill", notebook, here / "out.ipynb", "-p", "RUN", "r"]
    done = subprocess.run([*command, "-k", "python3"], cwd=here, env=plain(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
