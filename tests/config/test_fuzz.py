"""A thousand spoilt configurations: each is accepted, or refused in one line, and nothing else ever happens."""

import random
from pathlib import Path

import pytest
import yaml

from kdkit.config.language import Config, config_from_values, dump_config
from kdkit.config.reading import read_values, unread_sizes
from kdkit.errors import UserError
from kdkit.machine.hardware import find_hardware
from kdkit.runs.open_run import embedding_config_from_values, plan_run
from kdkit.workflow.inputs import Inputs
from kdkit.workflow.several import sweep, trial
from tests.config.spoiling import spoil

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs").glob("*.yaml"))
SIZE = 100
PARTS = [0, 1, *(pytest.param(part, marks=pytest.mark.slow) for part in range(2, 10))]
"""Hundreds of them; each takes five seconds of a processor."""


def plan(path, folder):
    """Do what `run` or `sweep` does before it reads a text or a model; return the accepted configurations."""
    if "variants" in read_values(path):
        request = sweep.SweepRequest(str(path), runs_dir=str(folder))
        return [run.config for run in sweep.plan_runs(sweep.load_sweep(str(path)), request, "spoilt")]
    config, _ = plan_run(path, "", "spoilt", folder)
    find_hardware(config.train.device, config.train.precision)
    unread_sizes(config)
    return [config]


@pytest.mark.parametrize("part", PARTS)
def test_a_spoilt_configuration_is_accepted_or_refused_in_one_line(tmp_path, monkeypatch, part):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(trial, "check_inputs", lambda config, run: Inputs("", {}))
    texts = [path.read_text(encoding="utf-8") for path in CONFIGS]
    outcomes = {"accepted": 0, "refused": 0}
    for number in range(part * SIZE, (part + 1) * SIZE):
        text = spoil(texts[number % len(texts)], random.Random(number))
        file = tmp_path / "spoilt.yaml"
        file.write_bytes(text.encode("utf-8", "surrogatepass"))
        try:
            for config in plan(file, tmp_path / "runs"):
                # a notebook reads it again from the run's folder
                read = config_from_values if isinstance(config, Config) else embedding_config_from_values
                assert read(yaml.safe_load(dump_config(config))) == config
            outcomes["accepted"] += 1
        except UserError as error:
            assert len(str(error).splitlines()) == 1, (number, str(error)[:300])
            outcomes["refused"] += 1
        except Exception as error:
            raise AssertionError(f"number {number}: {type(error).__name__} {str(error)[:300]}") from error
    assert outcomes["accepted"] >= 5 and outcomes["refused"] >= 30, outcomes
    assert [path.name for path in tmp_path.iterdir()] == ["spoilt.yaml"]  # nothing is written
