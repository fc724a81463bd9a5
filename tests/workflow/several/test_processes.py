"""Runs of a sweep in processes of their own: one that is killed takes no other with it, and Ctrl-C saves all."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from kdkit import cli
from kdkit.config.language import dump_config
from kdkit.runs.disk import claiming
from tests.tiny import make_config
from tests.workflow.projects import ROOT

SMALL = {"teacher": {"build": {"vocab_size": 320, "hidden_size": 16, "num_layers": 1, "max_steps": 3}}}
KILLER = """
import multiprocessing, os, signal
import torch
from kdkit.teachers.interface import TextTeacher

class Teacher(TextTeacher):
    context = None

    def __init__(self):
        if multiprocessing.parent_process() is not None:
            os.kill(os.getpid(), signal.SIGKILL)

    def identify(self):
        return {"killer": "1"}

    def get_logits(self, input_ids):
        return torch.zeros(*input_ids.shape, 320)
"""

pytestmark = pytest.mark.usefixtures("one_thread")


def write_base(folder, **changes):
    (folder / "base.yaml").write_text(dump_config(make_config(folder, **SMALL | changes, cache_dir=f"{folder}/cache")))
    return str(folder / "base.yaml")


def test_of_two_who_claim_a_place_one_gets_it_and_a_holder_that_is_gone_keeps_nobody(tmp_path):
    lock = tmp_path / "new" / ".lock"
    with claiming(lock) as first, claiming(lock) as second:
        assert first and not second
    assert not lock.exists()
    lock.write_text("123456\n")  # what a process that was killed leaves
    with claiming(lock) as third:
        assert third


@pytest.mark.slow
def test_a_process_that_is_killed_takes_its_run_alone_and_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{tmp_path}")
    (tmp_path / "killer.py").write_text(KILLER)
    base = write_base(tmp_path, distill={"loss": "alm"})
    grid = f"teacher.path={tmp_path}/killer.py:Teacher,build"
    words = ["sweep", base, "--grid", grid, "--seeds", "2", "--processes", "2", "--name", "killed"]
    with pytest.raises(SystemExit) as stop:
        cli.main([*words, "--runs-dir", f"{tmp_path}/runs", "-p", f"teacher.tokenizer={tokenizer_of(tmp_path)}"])
    said = capsys.readouterr()
    assert stop.value.code == 1
    assert "killed by SIGKILL" in said.err and "2 of 4 runs failed" in said.err and "seed 0" in said.err
    figures = json.loads((tmp_path / "runs" / "killed" / "sweep.json").read_text())
    levels = {entry["settings"]["teacher.path"][-5:]: entry["levels"] for entry in figures["variants"]}
    assert None not in levels["build"] and levels["acher"] == [None, None]


def tokenizer_of(folder):
    """Prepare the data of the small configuration; return the folder of its teacher's tokenizer."""
    from tests.tiny import make_data

    data = make_data(make_config(folder, **SMALL), folder)
    data.teacher_tokenizer.save_pretrained(folder / "tokenizer")
    return folder / "tokenizer"


@pytest.mark.slow
def test_ctrl_c_saves_every_process_and_the_same_command_goes_on(tmp_path):
    base = write_base(tmp_path, train={"max_steps": 4000, "save_every": 1000})
    grid = ["--grid", "distill.kd_ratio=0.3,0.9", "--seeds", "1", "--processes", "2", "--name", "stopped"]
    command = [sys.executable, "-m", "kdkit", "sweep", base, *grid, "--runs-dir", f"{tmp_path}/runs"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    runs = [tmp_path / "runs" / "stopped" / f"kd-ratio-0-{n}-seed-0" for n in (3, 9)]

    def is_training(run):
        status = run / "status.json"
        return status.is_file() and json.loads(status.read_text()).get("step", 0) > 0

    deadline = time.monotonic() + 300
    while not all(map(is_training, runs)) and time.monotonic() < deadline:
        time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=200)
    assert process.returncode == 130
    assert "to go on: python -m kdkit sweep" in said and "--grid distill.kd_ratio=0.3,0.9" in said
    for run in runs:
        assert json.loads((run / "status.json").read_text())["state"] == "stopped"
        assert list(run.glob("checkpoints/**/trainer_state.json"))
