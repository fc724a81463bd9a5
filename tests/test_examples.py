"""Every example runs, from another folder, and stays short."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))
ONE_BY_ONE = """
import contextlib, io, json, runpy, sys, tempfile, traceback
for path in sys.argv[1:]:
    said, error = io.StringIO(), ""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), contextlib.redirect_stdout(said):
        try:
            runpy.run_path(path, run_name="__main__")
        except BaseException:
            error = traceback.format_exc()
    print(json.dumps([said.getvalue(), error]))
"""
"""All in one process: imports take longer than what most examples do."""

each_example = pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def ran():
    """Run all; return what each printed and the error that it ended with."""
    environment = os.environ | {"PYTHONPATH": str(EXAMPLES[0].parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", ONE_BY_ONE, *map(str, EXAMPLES)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(zip(EXAMPLES, map(json.loads, done.stdout.splitlines()), strict=True))


@each_example
def test_an_example_fits_on_a_screen(example):
    assert len(example.read_text().splitlines()) <= 40


@each_example
def test_an_example_runs(ran, example):
    said, error = ran[example]
    assert not error and said.strip()
