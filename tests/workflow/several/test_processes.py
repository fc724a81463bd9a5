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
from tests.tiny import make_config, make_data
from tests.workflow.projects import ROOT

SMALL = {"teacher": {"build": {"vocab_size": 320, "hidden_size": 16, "num_layers": 1, "max_steps": 3}}}
KILLER = """
import multiprocessing, os, signal
import torch
from transformers import AutoTokenizer
from kdkit.teachers.interface import TextTeacher

class Killer(TextTeacher):
    tokenizer = AutoTokenizer.from_pretrained("FOLDER")

    def get_logits(self, input_ids):
        if multiprocessing.parent_process() is not None:  # as if memory ran out while it trains
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.zeros(*input_ids.shape, len(self.tokenizer))

    def generate(self, prompts, sampling, stop_ids):
        return []
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
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    make_data(make_config(tmp_path, **SMALL), tmp_path).teacher_tokenizer.save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "killer.py").write_text(KILLER.replace("FOLDER", f"{tmp_path}/tokenizer"))
    grid = f"teacher.path=build,'python:{tmp_path}/killer.py:Killer'"
    words = ["sweep", write_base(tmp_path), "--grid", grid, "--seeds", "2", "--processes", "1", "--name", "killed"]
    with pytest.raises(SystemExit) as stop:
        cli.main([*words, "--runs-dir", f"{tmp_path}/runs"])
    said = capsys.readouterr().err
    assert stop.value.code == 1, said
    assert "seed 0: expected a training, got its process killed by SIGKILL" in said and "2 of 4 runs failed" in said
    figures = json.loads((tmp_path / "runs" / "killed" / "sweep.json").read_text())
    levels = {entry["settings"]["teacher.path"][:5]: entry["levels"] for entry in figures["variants"]}
    assert None not in levels["build"] and levels["pytho"] == [None, None]


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
