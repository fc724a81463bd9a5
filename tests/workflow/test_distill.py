"""The verb distill: two processes (gloo) train through the command line what one does with twice the batch."""

import json
from pathlib import Path

import pytest

from kdkit.cli import main
from kdkit.config.language import dump_config
from kdkit.runs.folder import Run
from tests.committees import committee_config
from tests.processes import join_group, run_two
from tests.tiny import make_config

pytestmark = pytest.mark.usefixtures("one_thread")

PRELOAD = ("tests.workflow.test_distill", "kdkit.workflow.distill", "kdkit.distill.train", "tests.tiny")
BUILD = {"max_steps": 4, "batch_size": 4, "hidden_size": 16, "num_layers": 2, "moe_intermediate_size": 16}
CURRICULUM = {
    "teacher": {"build": BUILD | {"vocab_size": 320}},
    "train": {
        "max_steps": None,
        "curriculum": "teacher_loss",
        "stages": [
            {"name": "first", "num_train_epochs": 0.6},
            {"name": "rest", "max_steps": 3, "kd_ratio": 0.3, "parameter_lr_multipliers": []},
        ],
    },
}
CASES = {
    "max_steps of a cached teacher": {"teacher": CURRICULUM["teacher"], "cache": {"enabled": True, "top_k": 16}},
    "epochs, stages, a curriculum": CURRICULUM,
}


def write_case(folder: Path, case: str) -> Path:
    """Write the configuration of a case."""
    changes = dict(CASES[case]) if case in CASES else {}
    # a teacher in bf16 rounds by the shape of its batch
    train = {"save_every": 2, "gradient_accumulation_steps": 1, "precision": "fp32"} | changes.pop("train", {})
    changes |= {"cache_dir": str(folder / "cache"), "train": train, "distill": {"equal_time_baseline": False}}
    if case in CASES:
        config = make_config(folder, **changes)
    else:  # one in memory, one that has been asked before
        config = committee_config(folder, {"combine": "sum"}, **changes)
    path = folder / f"{case.replace(' ', '-')}.yaml"
    path.write_text(dump_config(config))
    return path


def distil(path: Path, name: str, batch_size: int, *more: str) -> Run:
    """Call the command; return the run."""
    runs = path.parent / "runs"
    words = ["distill", str(path), "-p", f"train.batch_size={batch_size}", "--name", name, "--runs-dir", str(runs)]
    with pytest.raises(SystemExit) as ended:
        main([*words, *more])
    assert ended.value.code == 0
    return Run(runs / name, path.parent / "cache")


def distil_as_process(rank: int, port: int, path: Path, name: str, *more: str) -> None:
    """Call the command as one of two processes."""
    join_group(rank, port)
    distil(path, name, 4, *more)


def trajectory(run: Run) -> dict[tuple, dict[str, float]]:
    """Return what was logged of every step of the student and its baseline, and every point of their curves."""
    names = ("loss", "ce_loss", "kd_loss", "grad_norm", "tokens", "learning_rate", "evaluation_bits_per_byte")
    return {
        (line["phase"], line["step"], "loss" in line): {name: line[name] for name in names if name in line}
        for line in run.read_metrics()
        if line["phase"] in ("student", "baseline")
    }


@pytest.mark.parametrize("case", [*CASES, "two teachers"])
def test_two_processes_train_what_one_does(tmp_path, case):
    path = write_case(tmp_path, case)
    run_two(distil_as_process, path, "two", preload=PRELOAD)
    one, two = distil(path, "one", 8), Run(tmp_path / "runs" / "two", tmp_path / "cache")
    found, expected = trajectory(two), trajectory(one)
    assert found.keys() == expected.keys() and len(expected) > 8
    for place, line in expected.items():
        assert found[place] == pytest.approx(line, rel=1e-5), place
    steps = [run.read_json("training.json")["student"]["steps"] for run in (one, two)]
    assert steps[0] == steps[1]
    assert json.loads((two.path / "status.json").read_text())["03_distill"]["processes"] == 2
    # one process has written, and all of it
    assert len([line for line in two.read_metrics() if line["phase"] != "teacher"]) == len(expected) + sum(
        line["phase"] == "teachers" for line in two.read_metrics()
    )
    assert (two.path / "student" / "model.safetensors").is_file() and (two.path / "baseline").is_dir()
