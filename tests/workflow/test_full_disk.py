"""A disk that is full where a run writes: one line, nothing finished is lost, and with room it goes on."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from safetensors.torch import load_file

from kdkit import cli
from kdkit.config.language import dump_config
from kdkit.data.prepare import build_data
from kdkit.distill import train
from kdkit.distill.open_teacher import open_teacher
from kdkit.errors import UserError
from kdkit.evaluate.evaluation import evaluate_run
from kdkit.report.page import write_report
from kdkit.runs.folder import describe_environment
from kdkit.training.progress import Progress
from tests.tiny import make_config, make_data, make_plan, make_run, make_session, make_teacher, save_teacher

TRAIN = {"max_steps": 6, "save_every": 2}


class Disk:
    """A small disk of its own."""

    def __init__(self, folder: Path):
        self.folder, self._filler = folder, folder / "filler"

    def fill(self, leave: int) -> None:
        """Leave some bytes free."""
        free = os.statvfs(self.folder)
        with self._filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize - leave)

    def clear(self) -> None:
        """Make room again."""
        self._filler.unlink()


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """A disk of 16 MB, in memory."""
    folder = tmp_path_factory.mktemp("disk")
    command = ["mount", "-t", "tmpfs", "-o", "size=16m", "kdkit-test", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a small disk")
    yield Disk(folder)
    # lazily: a worker's earlier tests may have left a file open that nobody has collected yet
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="module")
def trained(disk, tmp_path_factory):
    """A run after notebook 03, on that disk, of a student with its teacher's tokenizer."""
    student = {"build": {"tokenizer": "teacher", "hidden_size": 16, "num_layers": 1, "intermediate_size": 32}}
    config = make_config(disk.folder, student=student, distill={"equal_time_baseline": False}, train=TRAIN)
    data, run = make_data(config, tmp_path_factory.mktemp("data")), make_run(disk.folder, "trained")
    teacher = make_teacher(data)
    train.distill(make_plan(config, run, data), teacher)
    train.train_baseline(make_plan(config, run, data))
    return config, data, run, teacher


def refused(key, call, *arguments):
    """Assert that something is refused by one line that names a setting and a remedy; return it."""
    with pytest.raises(UserError) as caught:
        call(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    assert key in message and "room" in message and ("No space left" in message or "MB free" in message), message
    return message


def files_in(folder):
    """Return the files of a folder and what they hold."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_while_data_are_prepared(disk):
    config = make_config(disk.folder)
    disk.fill(leave=24_000)
    refused("cache_dir", build_data, config, disk.folder / "cache")
    assert not [name for name in files_in(disk.folder / "cache") if "data/" in name]
    disk.clear()
    assert (build_data(config, disk.folder / "cache") / "manifest.json").is_file()


def test_while_answers_are_kept(disk, tmp_path):
    config = make_config(disk.folder, cache={"enabled": True, "samples_per_chunk": 4})
    data = make_data(config, tmp_path)
    config = make_config(
        disk.folder, cache=config.cache.model_dump(), teacher={"path": str(save_teacher(data, tmp_path / "t"))}
    )
    run = make_run(disk.folder, "cached")
    plan = make_plan(config, run, data)
    disk.fill(leave=24_000)
    refused("make room", open_teacher, plan)
    disk.clear()
    assert open_teacher(plan).store.keys


def test_while_a_checkpoint_is_written(trained, disk, monkeypatch, tmp_path):
    config, data, whole, teacher = trained
    run = make_run(disk.folder, "full")

    def fill(self, args, state, control, **rest):
        if state.global_step == 3:
            disk.fill(leave=60_000)

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "on_step_begin", fill)
        refused("--runs-dir", train.distill, make_plan(config, run, data), teacher)
    kept = [path.name for path in (run.path / "checkpoints" / "student").iterdir() if path.is_dir()]
    disk.clear()
    assert kept == ["checkpoint-2"], "the one before, and no half of another"
    train.distill(make_plan(config, run, data), teacher, resume=True)
    mine, other = (load_file(each.path / "student" / "model.safetensors") for each in (run, whole))
    assert all(mine[name].equal(other[name]) for name in other)


def test_while_an_evaluation_and_a_report_are_written(trained, disk):
    config, data, run, teacher = trained
    before = files_in(run.path)
    disk.fill(leave=0)
    refused("--runs-dir", evaluate_run, make_session(config, run), data, teacher)
    assert files_in(run.path) == before
    disk.clear()
    evaluate_run(make_session(config, run), data, teacher)
    run.write_json("env.json", describe_environment())
    run.write_json("data/manifest.json", data.manifest)
    (run.path / "config.yaml").write_text(dump_config(config))
    write_report(run)
    before = files_in(run.path)
    disk.fill(leave=4096)
    refused("--runs-dir", write_report, run)
    assert files_in(run.path) == before, "the report of before is whole"
    disk.clear()
    write_report(run)


def test_the_command_ends_with_2_and_one_line(project, disk, capsys):
    disk.fill(leave=16_384)
    runs = disk.folder / "runs-of-command"
    with pytest.raises(SystemExit) as stop:
        cli.main(["run", "configs/tiny.yaml", "--name", "r", "--runs-dir", str(runs)])
    error = capsys.readouterr().err
    disk.clear()
    assert stop.value.code == 2, error
    assert len(error.splitlines()) == 1 and "--runs-dir" in error
    with pytest.raises(SystemExit) as stop:
        cli.main(["run", "configs/tiny.yaml", "--name", "r", "--runs-dir", str(runs)])
    assert stop.value.code == 0
    assert json.loads((runs / "r" / "status.json").read_text())["state"] == "finished"
