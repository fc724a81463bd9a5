"""Two processes train as one does with twice the batch: schedules, heads and averages among them."""

import json
from pathlib import Path

import pytest

from kdkit.config.language import Config
from tests.processes import join_group, run_two
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


def train_as_process(rank: int, port: int, config: Config, folder: Path) -> None:
    """Train as one of two processes and write what came out."""
    join_group(rank, port)
    (folder / f"{rank}.json").write_text(json.dumps(trained(config, folder, f"two-{rank}")))


def test_two_processes_equal_one(tmp_path):
    one = trained(configure(tmp_path, 1), tmp_path, "one")
    run_two(train_as_process, configure(tmp_path, 2), tmp_path)
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == pytest.approx(one, rel=1e-5)
