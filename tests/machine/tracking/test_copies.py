"""Copies in W&B hold what metrics.jsonl holds, offline and online, after stops too; a failure is one line."""

import json
import math
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import pytest
import wandb
from matplotlib.figure import Figure

from kdkit.config.training import OptimizationConfig
from kdkit.machine.interrupt import Stopped
from kdkit.machine.tracking import copies, keys
from kdkit.machine.tracking.copies import TrainingCopy, copy_report, sync_command
from kdkit.runs.folder import Run
from kdkit.workflow.summary import summarise
from tests.wandb_files import read_config, read_rows, read_run, read_summary
from tests.wandb_server import wandb_server

OFFLINE = OptimizationConfig(wandb="offline", wandb_project="mine")
KEY = "5ecret0wandb0" + "0123456789abcdef" * 2


@pytest.fixture(autouse=True)
def never_waits(monkeypatch):
    """Look into metrics.jsonl at every update; leave wandb no session for later tests."""
    monkeypatch.setattr(copies, "SECONDS_BETWEEN", 0.0)
    yield
    wandb.teardown()


@pytest.fixture
def run(tmp_path):
    run = Run(tmp_path / "runs" / "one", tmp_path / "cache")
    run.path.mkdir(parents=True)
    return run


def train(run, start, end, where=OFFLINE, error=None, **more):
    """Write the lines of some steps, as a training does that goes on from a checkpoint."""
    run.drop_metrics("student", start or -1)
    with TrainingCopy(run, "student", where, {"seed": 1}, **more) as copy:
        copy.begin(start)
        for step in range(start + 1, end + 1):
            line = {"phase": "student", "step": step, "seconds": 0.5 * step}
            run.append_metrics(line | {"evaluation_bits_per_byte": 8 / step})
            run.append_metrics(line | {"loss": 1 / step, "ce_loss": math.pi / step, "learning_rate": 1e-5 * step})
            copy.update()
        if error is not None:
            raise error


def folder_of(run, name="student"):
    """Return the one folder of a copy."""
    entry = run.read_json("wandb.json")["copies"][name]
    (folder,) = (run.path / "wandb").glob(f"offline-run-*-{entry['id']}*")
    assert folder == run.path / entry["folder"]
    return folder


def lines_of(run, *phases):
    """Return the lines of phases without that name."""
    return [{k: v for k, v in line.items() if k != "phase"} for line in run.read_metrics() if line["phase"] in phases]


def without_speed(rows):
    return [{name: value for name, value in row.items() if name != "steps_per_second"} for row in rows]


def test_every_line_is_a_row_and_every_row_a_line(run, capsys):
    train(run, 0, 30)
    folder = folder_of(run)
    assert without_speed(read_rows(folder)) == lines_of(run, "student") and len(lines_of(run, "student")) == 60
    assert {row["steps_per_second"] for row in read_rows(folder) if "loss" in row} == {2.0}
    assert f"wandb sync {folder}" in capsys.readouterr().out.splitlines()[-1]
    assert summarise(run) == [f"W&B: wandb sync {run.path}/wandb/offline-run-*"]
    assert not [path for path in run.path.rglob("*") if path.is_symlink()]


def test_a_training_is_a_run_of_its_own_among_those_of_its_run(run):
    train(run, 0, 2)
    seen = read_run(folder_of(run))
    names = seen.display_name, seen.run_group, seen.job_type, seen.project
    assert names == ("one/student", "one", "student", "mine") and read_config(folder_of(run)) == {"seed": 1}


def test_rows_stay_equal_to_the_lines_when_unsaved_steps_are_dropped(run):
    with pytest.raises(OSError, match="killed"):
        train(run, 0, 7, error=OSError("killed"))
    before = run.read_json("wandb.json")["copies"]["student"]
    train(run, 5, 9)
    after = run.read_json("wandb.json")["copies"]["student"]
    assert without_speed(read_rows(folder_of(run))) == lines_of(run, "student")
    assert [row["step"] for row in read_rows(folder_of(run))[::2]] == list(range(1, 10))
    assert after["id"] == before["id"] and not (run.path / before["folder"]).exists()


def test_what_a_killed_process_had_begun_to_copy_is_removed(run):
    begun = run.path / "wandb" / "offline-run-20260101_000000-abcdefgh"
    begun.mkdir(parents=True)
    train(run, 0, 2)
    assert not begun.exists() and len(list((run.path / "wandb").glob("offline-run-*"))) == 1


def test_what_was_sent_before_is_kept_and_the_whole_gets_a_new_id(run):
    with pytest.raises(Stopped):
        train(run, 0, 3, error=Stopped("saved"))
    first = folder_of(run)
    (first / f"{next(first.glob('*.wandb')).name}.synced").touch()  # as `wandb sync` does
    train(run, 3, 5)
    assert first.is_dir() and folder_of(run) != first
    assert without_speed(read_rows(folder_of(run))) == lines_of(run, "student")


def test_lines_beside_the_training_are_columns_with_their_name(run):
    shares = [[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]
    run.append_metrics({"phase": "router", "step": 1, "top_k": 2, "shares": shares, "kl": [0.1, 0.2]})
    run.append_metrics({"phase": "teachers", "step": 1, "tokens": {"a": {"text": 3.0}}})
    run.append_metrics({"phase": "baseline", "step": 1, "seconds": 1.0, "loss": 9.0})
    train(run, 0, 1, beside=("router", "teachers"))
    router, teachers = read_rows(folder_of(run))[:2]
    assert router.pop("router/entropy") == pytest.approx(math.log(2) / 2)
    assert [router.pop(f"router/share/{expert}") for expert in range(3)] == [0.75, 0.25, 0.0]
    assert router == {"step": 1, "router/top_k": 2, "router/shares": shares, "router/kl": [0.1, 0.2]}
    assert teachers == {"step": 1, "teachers/tokens/a/text": 3.0}
    assert len(read_rows(folder_of(run))) == 4, "the baseline has a run of its own"


def test_passwords_in_addresses_are_not_copied(run):
    with TrainingCopy(run, "student", OFFLINE, {"data": {"path": "https://me:pa55word@host/x", "n": [1]}}) as copy:
        run.append_metrics({"phase": "student", "step": 1, "seconds": 1.0, "loss": 1.0})
        copy.update()
    assert read_config(folder_of(run)) == {"data": {"path": "https://host/x", "n": [1]}}


@pytest.fixture
def server(monkeypatch):
    """A server on this machine, and its key where only Kaggle's secrets have it."""
    for name in ("HTTPS_PROXY", "https_proxy", "WANDB_MODE", "WANDB_API_KEY", "RANK"):
        monkeypatch.delenv(name, raising=False)
    client = SimpleNamespace(get_secret={"WANDB_API_KEY": KEY}.__getitem__)
    module = SimpleNamespace(UserSecretsClient=lambda: client, __spec__=SimpleNamespace(name="kaggle_secrets"))
    monkeypatch.setitem(sys.modules, "kaggle_secrets", module)
    with wandb_server() as received:
        monkeypatch.setenv("WANDB_BASE_URL", received.address)
        yield received


def test_online_with_a_kaggle_secret_a_resumed_training_sends_each_line_once(run, server, capsys):
    auto = OptimizationConfig()
    with pytest.raises(Stopped):
        train(run, 0, 7, auto, error=Stopped("saved"))
    train(run, 5, 9, auto)
    ((name, rows),) = server.rows.items()
    sent = [{k: v for k, v in rows[i].items() if not k.startswith("_")} for i in range(len(rows))]
    assert without_speed(sent) == lines_of(run, "student")
    assert run.read_json("wandb.json")["copies"]["student"] == {"id": name, "folder": None}
    assert f"{server.address}/me/mine/runs/{name}".replace("mine", "kdkit") in capsys.readouterr().out
    assert any("Basic" in str(key) for key in server.keys) and sync_command(run) == ""
    files = [file for file in run.path.rglob("*") if file.is_file()]
    assert files and [file for file in files if KEY.encode() in file.read_bytes()] == []


def test_a_training_begun_anew_is_another_run_online(run, server):
    train(run, 0, 3, OptimizationConfig())
    train(run, 0, 2, OptimizationConfig())
    assert sorted(len(rows) for rows in server.rows.values()) == [4, 6]


def test_a_server_that_refuses_the_key_leaves_the_copy_offline(run, server, capsys):
    server.refuses = True
    train(run, 0, 3, OptimizationConfig())
    assert without_speed(read_rows(folder_of(run))) == lines_of(run, "student")
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert len(notes) == 1 and "refuses an online copy" in notes[0] and KEY not in notes[0]


def test_a_copy_that_breaks_off_is_one_line_and_no_training_ends(tmp_path):
    program = """
        import os, signal, subprocess, sys
        from pathlib import Path
        from kdkit.config.training import OptimizationConfig
        from kdkit.machine.tracking import copies, keys
        from kdkit.runs.folder import Run

        copies.SECONDS_BETWEEN = 0.0
        run = Run(Path(sys.argv[1]), Path(sys.argv[1]))
        with copies.TrainingCopy(run, "student", OptimizationConfig(wandb="offline"), {}) as copy:
            for step in range(5):
                run.append_metrics({"phase": "student", "step": step, "seconds": step, "loss": 1.0})
                copy.update()
                if step == 1:
                    listed = subprocess.run(["ps", "-o", "pid,cmd", "--ppid", str(os.getpid())], capture_output=True)
                    (line,) = [l for l in listed.stdout.decode().splitlines() if "wandb-core" in l]
                    os.kill(int(line.split()[0]), signal.SIGKILL)
        print("trained to the end")
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    lines = done.stdout.splitlines()
    assert lines[-1] == "trained to the end" and len([line for line in lines if "no more is copied" in line]) == 1


def test_the_report_s_pictures_tables_and_figures_are_copied_beside_the_trainings(run, tmp_path):
    picture = tmp_path / "curves.png"
    Figure(figsize=(1, 1)).savefig(picture)
    arguments = {"Learning curves": picture}, {"comparison": (["", "bits"], [["student", "2.5"]]), "none": None}
    figures = {"student": {"bits_per_byte": 2.5, "training": {"steps": 4}}}
    copy_report(run, *arguments, figures)
    assert not (run.path / "wandb.json").exists(), "where no training was copied, no report is"
    train(run, 0, 2)
    copy_report(run, *arguments, figures)
    copy_report(run, *arguments, figures | {"baseline": {"bits_per_byte": 3.5}})
    folder = folder_of(run, "report")
    (copied,) = folder.rglob("*.png")
    assert copied.read_bytes() == picture.read_bytes()
    (table,) = folder.rglob("*.table.json")
    assert json.loads(table.read_text())["data"] == [["student", "2.5"]]
    summary = read_summary(folder)
    assert summary["student/bits_per_byte"] == 2.5 and summary["student/training/steps"] == 4
    assert summary["baseline/bits_per_byte"] == 3.5 and read_run(folder).run_group == "one"


def test_a_report_is_made_though_the_server_is_gone_since_the_training(run, monkeypatch, capsys):
    run.write_json("wandb.json", {"mode": "online", "project": "mine", "copies": {}})
    monkeypatch.setattr(keys, "server_is_reachable", lambda: False)
    copy_report(run, {}, {}, {})
    assert "note: report: not copied to W&B (UserError: train.wandb: expected" in capsys.readouterr().out


def test_a_torn_list_of_copies_costs_a_new_copy_and_nothing_else(run, capsys):
    train(run, 0, 4)
    (run.path / "wandb.json").write_text('{"mode": "off')
    copy_report(run, {}, {}, {})
    assert sync_command(run) == ""
    train(run, 2, 6)
    assert len(read_rows(folder_of(run))) == len(lines_of(run, "student")) == 12
    assert "no more is copied" not in capsys.readouterr().out
