"""Two processes train as one does with twice the batch: schedules, heads and averages among them."""

import json
import multiprocessing
import os
import socket
from pathlib import Path

import pytest

from kdkit.config.language import Config
from tests.tiny import make_config, make_data, make_run, make_teacher, make_trainer

pytestmark = pytest.mark.usefixtures("one_thread")


def configure(folder: Path, num_processes: int) -> Config:
    sizes = {0: 2 // num_processes, 0.5: 4 // num_processes}
    options = {
        "optimizer": "muon",
        "weight_decay_end": 0.0,
        "average": {"kind": "ema", "decay": 0.5},
        "multi_token": {"num_tokens": 2},
        "batch_schedule": sizes,
        "length_schedule": {0: 8, 0.5: 24},
    }
    return make_config(folder, train=options | {"gradient_accumulation_steps": 1, "save_every": 100})


def trained(config: Config, folder: Path, name: str) -> dict[str, float]:
    """Train four steps with a teacher; return sums over what has learned."""
    data = make_data(config, folder)
    trainer = make_trainer(config, make_run(folder, name), data, make_teacher(data), steps=4)
    trainer.train()
    options = trainer.options
    parts = {"student": trainer.model, "heads": options.further, "average": options.averaged}
    sums = {
        name: sum(float(p.detach().double().abs().sum()) for p in part.parameters()) for name, part in parts.items()
    }
    return sums | {"tokens": trainer.read_counts()["tokens"]}


def train_as_process(rank: int, config: Config, folder: Path, port: int) -> None:
    """Train as one of two processes and write what came out."""
    addresses = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= addresses | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    (folder / f"{rank}.json").write_text(json.dumps(trained(config, folder, f"two-{rank}")))


def test_two_processes_equal_one(tmp_path, monkeypatch):
    one = trained(configure(tmp_path, 1), tmp_path, "one")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.tiny"])
    arguments = configure(tmp_path, 2), tmp_path, port
    processes = [context.Process(target=train_as_process, args=(rank, *arguments), daemon=True) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=200)
        assert process.exitcode == 0
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == pytest.approx(one, rel=1e-5)
