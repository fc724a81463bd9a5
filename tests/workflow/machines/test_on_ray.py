"""`cache build --ray`: what actors make is what one process makes, also where one of them is killed at work."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from kdkit import cli
from kdkit.runs.costs import read_cost
from kdkit.runs.store_build import missing_chunks
from kdkit.workflow.machines import answers
from tests.tiny import make_config, make_data, save_teacher

pytestmark = pytest.mark.usefixtures("one_thread")

SLOW = '''
import time
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from kdkit.teachers.interface import TextTeacher


class Slow(TextTeacher):
    """Takes its time, so that it can be killed at work."""

    def __init__(self):
        self.model_inside = AutoModelForCausalLM.from_pretrained({folder!r}).eval()
        self.words = AutoTokenizer.from_pretrained({folder!r})

    @property
    def tokenizer(self):
        return self.words

    @torch.no_grad()
    def get_logits(self, input_ids):
        time.sleep(0.2)
        return self.model_inside(input_ids=input_ids, use_cache=False).logits
'''


def configure(folder: Path) -> Path:
    """Write a configuration with a slow teacher of one's own."""
    teacher = save_teacher(make_data(make_config(folder), folder), folder / "teacher")
    (folder / "slow.py").write_text(SLOW.format(folder=str(teacher)))
    values = {
        "cache_dir": str(folder / "cache"),
        "data": {"path": str(folder / "corpus.txt"), "max_length": 24, "evaluation_fraction": 0.2},
        "teacher": {"path": f"python:{folder / 'slow.py'}:Slow"},
        "student": {"build": {"vocab_size": 290, "hidden_size": 16, "num_layers": 1, "intermediate_size": 32}},
        "distill": {"loss": "projected_kl"},
        "cache": {"top_k": 8, "samples_per_chunk": 2},
        "train": {"device": "cpu", "precision": "fp32"},
    }
    (folder / "slow.yaml").write_text(yaml.safe_dump(values))
    return folder / "slow.yaml"


def actors_of(process: subprocess.Popen) -> list[psutil.Process]:
    """Return the actors among what a process has started, itself or by others."""
    found = psutil.Process(process.pid).children(recursive=True)
    return [child for child in found if any("MapWorker" in word for word in child.cmdline())]


def start(config: Path, output: Path) -> subprocess.Popen:
    """Start a build with two actors."""
    words = ["cache", "build", str(config), "--output", str(output), "--runs-dir", str(config.parent / "runs")]
    return subprocess.Popen(
        [sys.executable, "-m", "kdkit", *words, "--ray", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.slow
def test_a_worker_that_is_killed_changes_nothing(tmp_path):
    config, output = configure(tmp_path), tmp_path / "ray.h5"
    process = start(config, output)
    # the first chunk is written: both are at work
    parts, patience = Path(f"{output}.parts"), time.monotonic() + 500
    while not list(parts.glob("0*.h5")) or len(actors_of(process)) < 2:
        assert process.poll() is None and time.monotonic() < patience, process.communicate()
        time.sleep(0.05)
    victim = actors_of(process)[0]
    os.kill(victim.pid, signal.SIGKILL)
    made = len(list(parts.glob("0*.h5")))
    _, error = process.communicate(timeout=500)
    assert process.returncode == 0, error
    assert not victim.is_running()
    assert [line for line in error.splitlines() if "aylet" in line or "ray" in line.split()] == []
    with pytest.raises(SystemExit) as ended:
        cli.main(["cache", "build", str(config), "--output", str(tmp_path / "plain.h5"), "--runs-dir", str(tmp_path)])
    assert ended.value.code == 0
    assert output.read_bytes() == (tmp_path / "plain.h5").read_bytes()
    sequences = read_cost(output)["sequences"]
    assert sequences == read_cost(tmp_path / "plain.h5")["sequences"] and made < sequences // 2
    assert read_cost(output)["seconds"] > 0.2 * sequences / 2


def test_without_ray_it_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(answers, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as ended:
        cli.main(["cache", "build", "smoke", "--ray", "2", "--runs-dir", str(tmp_path), "-p", f"cache_dir={tmp_path}"])
    assert ended.value.code == 2
    assert "--ray: expected the package ray, got none installed; pip install 'kdkit[ray]'" in capsys.readouterr().err


def test_what_an_earlier_build_left_is_not_asked_for_again(tmp_path):
    (tmp_path / "a.h5.parts").mkdir()
    assert missing_chunks(tmp_path / "a.h5", [["x"], ["y"]]) == [0, 1]
