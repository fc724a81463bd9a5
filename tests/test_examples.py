"""Every example runs, from another folder, and stays short."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))

each_example = pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)


@each_example
def test_an_example_fits_on_a_screen(example):
    assert len(example.read_text().splitlines()) <= 40


@each_example
def test_an_example_runs(example, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(example.parents[1]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, example], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip()
