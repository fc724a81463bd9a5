"""The configurations of maths: the smoke run goes through every stage of training; the demo's student calculates."""

from pathlib import Path

import pytest

from benchmarks.maths_demo import judge, train
from kdkit.config.language import load_config
from kdkit.data.problems import HELD_OUT
from kdkit.maths.checking.pool import CheckerPool
from tests.tiny import make_run

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@pytest.mark.usefixtures("one_thread")
def test_the_smoke_run_trains_and_is_judged(tmp_path):
    config, run = load_config(CONFIGS / "maths_smoke.yaml"), make_run(tmp_path)
    data, seconds = train(config, run)
    assert set(seconds) == {"problems and data", "teacher", "student", "baseline"}
    with CheckerPool(config.maths.checker) as pool:
        found = judge(config, run, data, pool)
    assert {name: each[HELD_OUT]["problems"] for name, each in found.items()} == dict.fromkeys(found, 8)
    assert found.keys() == {"teacher", "student", "baseline"}


@pytest.mark.slow  # trains the demo: about six minutes of processor time
def test_the_demos_student_solves_four_of_five_problems_with_numbers_that_it_has_not_seen(tmp_path):
    config, run = load_config(CONFIGS / "maths_demo.yaml"), make_run(tmp_path)
    data, _ = train(config, run)
    with CheckerPool(config.maths.checker) as pool:
        found = judge(config, run, data, pool)
    assert found["student"][HELD_OUT]["all"] >= 0.8
