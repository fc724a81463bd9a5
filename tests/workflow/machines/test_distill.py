"""The verb distill: two processes (gloo) train through the command line what one does with twice the batch."""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from kdkit.cli import main
from kdkit.config.language import dump_config
from kdkit.distill.checkpoints import keep_processes
from kdkit.errors import UserError
from kdkit.runs.folder import Run
from kdkit.training import together
from kdkit.training.order import num_processes
from kdkit.training.together import Processes, alone
from kdkit.workflow import pipeline
from kdkit.workflow.machines import distill as machines
from tests.committees import committee_config
from tests.processes import join_group, run_two
from tests.tiny import make_config, make_run

pytestmark = pytest.mark.usefixtures("one_thread")

PRELOAD = (
    "tests.workflow.machines.test_distill",
    "kdkit.workflow.machines.distill",
    "kdkit.distill.train",
    "tests.tiny",
)
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


@pytest.fixture
def notebooks(monkeypatch):
    """Execute no notebook; return what they were given, and for how many processes they plan."""
    given = {}

    def keep(notebook, output, parameters, terminal):
        given[notebook.stem] = parameters | {"processes": num_processes()}

    monkeypatch.setattr(pipeline, "run_notebook", keep)
    return given


def test_a_run_shows_what_was_trained_before_it(project, notebooks, monkeypatch, capsys):
    small = ("-p", "train.max_steps=2", "-p", "teacher.build.max_steps=2", "-p", "distill.equal_time_baseline=false")
    words = ["configs/tiny.yaml", "--name", "r", *small]

    def call(verb, *more):
        notebooks.clear()
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([verb, *words, *more])
        assert ended.value.code == 0
        return capsys.readouterr().out

    assert "student: 2 steps in " in call("distill")
    run = Run(project / "runs" / "r", project / ".cache")
    entry = run.status()["03_distill"]
    assert (entry["state"], entry["processes"]) == ("trained", 1)
    weights = (run.path / "student" / "model.safetensors").read_bytes()
    assert "03_distill: trained before, inputs unchanged" in call("distill")
    run.set_status("03_distill", **(entry | {"processes": 2}))
    assert "trained before by kdkit distill, shown here" in call("run")
    assert notebooks["03_distill"]["RESUME"] is True
    # a cache holds what all processes have read, so the notebook must ask for that
    assert notebooks["03_distill"]["processes"] == 2 and notebooks["04_evaluate"]["processes"] == 1
    assert run.status()["03_distill"]["state"] == "done"
    assert "trained before" in call("distill") and weights == (run.path / "student" / "model.safetensors").read_bytes()
    (project / "corpus.txt").write_text((project / "corpus.txt").read_text() + "\n\nOne paragraph more.")
    call("run")
    assert notebooks["03_distill"]["RESUME"] is False


def test_a_checkpoint_of_two_processes_is_not_gone_on_with_in_one(tmp_path):
    run = make_run(tmp_path)
    keep_processes(run, "student", 2, 0)
    keep_processes(run, "student", 2, 4)
    with pytest.raises(
        UserError, match=r"^student: expected 2 processes, in which its checkpoint at step 4 was made, "
    ):
        keep_processes(run, "student", 1, 4)
    keep_processes(run, "student", 1, 0)  # it begins anew
    with pytest.raises(UserError, match=r"expected one process, .* got 2; start it without a launcher, or leave out"):
        keep_processes(run, "student", 2, 4)


def test_what_others_would_write_is_left_out(tmp_path):
    run = make_run(tmp_path)
    run.append_metrics({"phase": "student", "step": 1})
    other = replace(run, writes=False)
    other.append_metrics({"phase": "student", "step": 2})
    other.drop_metrics("student")
    other.set_status("03_distill", state="done")
    other.write_json("training.json", {})
    assert len(run.read_metrics()) == 1 and [path.name for path in run.path.iterdir()] == ["metrics.jsonl"]


def test_only_before_the_processes_meet_one_computes_alone(monkeypatch):
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    with alone():
        assert "WORLD_SIZE" not in os.environ and num_processes() == 2, "what a step reads is planned for both"
    assert os.environ["WORLD_SIZE"] == "2" and "KDKIT_PROCESSES" not in os.environ
    monkeypatch.setattr(together, "joined_processes", lambda: Processes(2, 0))
    with pytest.raises(RuntimeError, match="has not met the others yet"), alone():
        pass


@pytest.mark.parametrize(("words", "expected"), [
    (["/bin/python3", sys.executable, "launch", "--config_file", "two.yaml", "-m", "kdkit", "distill", "demo"],
     [Path(sys.executable).name, "launch", "--config_file", "two.yaml", "-m", "kdkit"]),
    (["/bin/python3", "-m", "torch.distributed.run", "--nproc_per_node", "2", "-m", "kdkit", "distill"],
     ["python", "-m", "torch.distributed.run", "--nproc_per_node", "2", "-m", "kdkit"]),
    (["slurmstepd"], ["torchrun", "--nproc_per_node", "2", "-m", "kdkit"]),
])  # fmt: skip
def test_the_command_that_goes_on_has_its_launcher(words, expected, monkeypatch, tmp_path):
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "cmdline").write_text("\0".join(words) + "\0")
    monkeypatch.setattr(machines, "PROCESSES_FOLDER", tmp_path)
    monkeypatch.setattr(os, "getppid", lambda: 7)
    assert machines.launcher() == ["python", "-m", "kdkit"]
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert machines.launcher() == expected


def test_the_notebooks_of_a_language_model_are_not_launched(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, code in (("0", 2), ("1", 0)):
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(SystemExit) as ended:
            main(["run", "smoke"])
        assert int(ended.value.code or 0) == code
    assert capsys.readouterr().err.splitlines() == [
        "kdkit: run: expected one process for a language model, got 2; train in 2 by accelerate launch ... -m kdkit "
        "distill smoke, and call run without a launcher behind it"
    ]
