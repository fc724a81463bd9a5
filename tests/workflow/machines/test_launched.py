"""`accelerate launch -m kdkit distill` itself: it is stopped, goes on, loses a process; minutes, so all are slow."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file

from kdkit.config.language import dump_config
from kdkit.runs.folder import Run
from tests.tiny import make_config
from tests.workflow.machines.test_distill import BUILD, distil, trajectory
from tests.workflow.projects import ROOT

pytestmark = pytest.mark.usefixtures("one_thread")

FILES = sorted((ROOT / "configs" / "accelerate").glob("*.yaml"))
BIN = Path(sys.executable).parent
PATIENCE = 400


@pytest.fixture
def config(tmp_path) -> Path:
    """A training of two stages, long enough to be stopped."""
    stages = [{"name": "first", "max_steps": 40}, {"name": "rest", "max_steps": 40}]
    train = {"gradient_accumulation_steps": 1, "precision": "fp32", "save_every": 100, "stages": stages, "log_every": 5}
    distill = {"equal_time_baseline": False}
    built = {"build": BUILD | {"vocab_size": 320}}
    made = make_config(tmp_path, cache_dir=str(tmp_path / "cache"), train=train, distill=distill, teacher=built)
    (tmp_path / "long.yaml").write_text(dump_config(made))
    return tmp_path / "long.yaml"


def launch(words: list[str], **variables: str) -> subprocess.Popen:
    """Start a command in a session of its own, as a terminal does."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PATH": f"{BIN}:{os.environ['PATH']}"} | variables
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(words, **pipes, env=environment, cwd=ROOT, start_new_session=True)


def command_of(config: Path, name: str) -> list[str]:
    """Return the launch of a run in two processes, with a free port."""
    file = str(ROOT / "configs" / "accelerate" / "ddp_cpu.yaml")
    launcher = ["accelerate", "launch", "--config_file", file, "--main_process_port", "0", "-m", "kdkit"]
    words = ["distill", str(config), "-p", "train.batch_size=4", "--name", name, "--verbose"]
    return [*launcher, *words, "--runs-dir", str(config.parent / "runs")]


def wait_for(process: subprocess.Popen, words: str) -> None:
    """Read lines until one holds some words."""
    seen = []
    for line in process.stdout:
        seen.append(line)
        if words in line:
            return
    pytest.fail(f"no {words!r}: {''.join(seen)[-3000:]}")


def end(process: subprocess.Popen) -> str:
    """Wait for a command; return what it printed last."""
    out, _ = process.communicate(timeout=PATIENCE)
    return out


def workers_of(process: subprocess.Popen) -> list[psutil.Process]:
    """Return the processes that a launcher has started, the first one first."""
    found = psutil.Process(process.pid).children(recursive=True)
    return sorted((p for p in found if "RANK" in p.environ()), key=lambda p: int(p.environ()["RANK"]))


@pytest.mark.slow
def test_a_launch_that_is_stopped_goes_on_by_the_command_that_it_names(config):
    process = launch(command_of(config, "two"))
    wait_for(process, " 45/80  loss")
    os.killpg(process.pid, signal.SIGINT)
    out = end(process)
    run = Run(config.parent / "runs" / "two", config.parent / "cache")
    assert process.returncode != 0
    assert run.status()["03_distill"]["state"] == "interrupted" and run.progress()["resume_needed"]
    (said,) = [line for line in out.splitlines() if line.startswith("kdkit: stopped; student: step ")]
    go_on = said.partition("to go on: ")[2]
    assert run.progress()["command"] == go_on
    words = shlex.split(go_on)
    assert words[0] == "accelerate" and words[-1] == "--resume" and "of 80 is saved" in said
    alone = launch([sys.executable, "-m", "kdkit", *words[words.index("kdkit") + 1 :]])
    assert "expected 2 processes, in which its checkpoint at step " in end(alone) and alone.returncode == 2
    again = launch(words)
    out = end(again)
    assert again.returncode == 0, out[-3000:]
    assert "student: goes on from step 4" in out
    one = trajectory(distil(config, "one", 8))
    assert trajectory(run).keys() == one.keys()
    for place, line in trajectory(run).items():
        assert line == pytest.approx(one[place], rel=1e-5), place


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_a_process_that_is_killed_ends_the_launch(config, lost):
    process = launch(command_of(config, "killed"))
    wait_for(process, " 5/80  loss")
    os.kill(workers_of(process)[lost].pid, signal.SIGKILL)
    out = end(process)
    assert process.returncode != 0 and "SIGKILL" in out


@pytest.mark.slow
def test_without_a_launcher_that_ends_it_a_process_notices_that_another_is_gone(config):
    words = command_of(config, "lost")
    words = [sys.executable, *words[words.index("-m") :]]
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29713"}
    both = [launch(words, RANK=str(rank), LOCAL_RANK=str(rank), **shared) for rank in range(2)]
    wait_for(both[0], " 5/80  loss")
    os.kill(both[1].pid, signal.SIGKILL)
    begin = time.monotonic()
    out = end(both[0])
    assert time.monotonic() - begin < 120 and both[0].returncode == 1
    assert "kdkit: process 0 of 2: expected the others to train with, got none: one of them has ended" in out
    both[1].wait()
    status = Run(config.parent / "runs" / "lost", config.parent / "cache").status()["03_distill"]
    assert status["state"] == "failed" and "to go on from the last checkpoint: " in status["message"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_accelerate_reads_the_files_for_it(file):
    read = load_config_from_file(str(file))
    values = yaml.safe_load(file.read_text())
    assert (read.num_processes, read.num_machines) == (values["num_processes"], values["num_machines"])
    assert read.distributed_type.value == values["distributed_type"]
    assert read.mixed_precision == "no", "the setting train.precision decides"
