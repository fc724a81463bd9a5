"""Ctrl-C at the command line, with real signals: who gets them, what is said, and that the named command goes on."""

import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest

from kdkit import cli
from kdkit.machine.interrupt import FIRST
from tests.workflow.projects import read_status, write_notebook

TRAINING = """
import time
from kdkit import cli
from kdkit.machine.interrupt import stop_when_saved
print("note: student:", "goes on from step 3 of 9" if RESUME else "begins")
with stop_when_saved() as request:
    for step in range(4 if RESUME else 1, 10):
        print(f"student {step}/9  loss 1.0  {9 - step} s left", flush=True)
        while not (RESUME or request.wanted or HANGS):
            time.sleep(0.02)
        while HANGS and not RESUME:
            time.sleep(0.02)
        if request.wanted:
            request.check("student: step 3 of 9 is saved")
"""
"""A notebook that trains as kdkit does: it waits in its first step until it is stopped, or hangs in it."""


def start(*arguments, stdout=subprocess.PIPE):
    """Start kdkit in a session of its own, as a terminal does."""
    command = [sys.executable, "-m", "kdkit", *arguments]
    return subprocess.Popen(command, stdout=stdout, stderr=subprocess.PIPE, text=True, start_new_session=True)


def run_in_this_process(capsys, arguments):
    """Do what a command does that no signal reaches; return its exit code, output and errors."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    said = capsys.readouterr()
    return stop.value.code, said.out, said.err


def press(process):
    """Do what Ctrl-C in a terminal does: a signal to the whole foreground group."""
    os.killpg(process.pid, signal.SIGINT)


def wait_for(process, words):
    """Read lines until one holds some words."""
    for line in process.stdout:
        if words in line:
            return
    pytest.fail(f"no {words!r}: {process.stderr.read()[-2000:]}")


def test_the_training_is_saved_and_the_named_command_goes_on(project, capsys):
    write_notebook(project, "03_distill", "HANGS = False" + TRAINING)
    arguments = ["run", "configs/tiny.yaml", "--name", "r", "-p", "report.title=Two words", "--from", "02"]
    process = start(*arguments)
    wait_for(process, "student 1/9")
    press(process)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error.splitlines()[0] == FIRST, "once, at once"
    last = error.splitlines()[-1]
    assert last.startswith("kdkit: stopped; student: step 3 of 9 is saved; to go on: python -m kdkit run ")
    assert len(error.splitlines()) == 2
    assert read_status(project / "runs" / "r")["03_distill"]["state"] == "interrupted"
    words = shlex.split(last.partition("to go on: python -m kdkit ")[2])
    assert words == ["run", "configs/tiny.yaml", "-p", "report.title=Two words", "--name", "r", "--resume"]
    code, out, error = run_in_this_process(capsys, words)
    assert code == 0, error
    assert "student: goes on from step 3 of 9" in out and "student 9/9" in out
    assert [f"{n}: done before" in out for n in ("01_data", "02_teacher_probe", "03_distill")] == [True, True, False]
    assert {entry["state"] for entry in read_status(project / "runs" / "r").values()} == {"done"}


BUDGETED = """
from pathlib import Path
from kdkit.machine.interrupt import stop_when_saved
from kdkit.runs.folder import Run
with stop_when_saved(Run(Path(RUNS_DIR) / RUN, Path(RUNS_DIR)), None if RESUME else 1e-9) as request:
    request.look()
    request.check("student: step 3 of 9 is saved")
print("note: student: goes on from step 3 of 9")
"""


def test_when_the_time_is_up_the_notebooks_after_it_are_not_run(project, capsys):
    write_notebook(project, "03_distill", BUDGETED)
    run = project / "runs" / "r"
    process = start("run", "configs/tiny.yaml", "--name", "r")
    _, error = process.communicate(timeout=400)
    assert process.returncode == 75, error
    words = shlex.split(error.splitlines()[-1].partition("to go on: python -m kdkit ")[2])
    assert words == ["run", "configs/tiny.yaml", "--name", "r", "--resume"]
    values = json.loads((run / "status.json").read_text())
    assert (values["state"], values["resume_needed"], values["phase"]) == ("stopped", True, "03_distill")
    assert "step 3 of 9 is saved" in values["reason"] and values["command"].endswith("tiny.yaml --name r --resume")
    assert values["03_distill"]["state"] == "interrupted" and "04_evaluate" not in values
    # a budget that is used up begins no notebook, and is no other configuration
    code, _, error = run_in_this_process(capsys, [*words, "-p", "train.time_budget_hours=1e-9"])
    assert code == 75 and "03_distill was not begun" in error, error
    code, out, error = run_in_this_process(capsys, words)
    assert code == 0, error
    assert "student: goes on from step 3 of 9" in out and out.count("done before") == 2
    values = json.loads((run / "status.json").read_text())
    assert (values["state"], values["resume_needed"]) == ("finished", False) and "command" not in values


def test_a_second_one_stops_at_once_even_what_hangs(project):
    write_notebook(project, "03_distill", "HANGS = True" + TRAINING)
    process = start("run", "configs/tiny.yaml", "--name", "r", "--only", "03,04")
    wait_for(process, "student 1/9")
    press(process)
    assert process.stderr.readline().strip() == FIRST
    assert process.poll() is None, "it hangs"
    started = time.monotonic()
    press(process)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130 and time.monotonic() - started < 10
    assert "03_distill was not finished" in error and "--only 03,04 --resume" in error


def test_outside_a_training_it_stops_at_once(project):
    write_notebook(project, "02_teacher_probe", 'print("note: asleep", flush=True)\nimport time\ntime.sleep(60)')
    process = start("run", "configs/tiny.yaml", "--name", "r")
    wait_for(process, "asleep")
    press(process)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "stopped; 02_teacher_probe was not finished, those before it are kept; to go on: " in error


def test_at_a_terminal_one_line_is_rewritten(project):
    code = "\n".join(f'print("student {step}/3  loss 1.0  {3 - step} s left")' for step in (1, 2, 3))
    write_notebook(project, "03_distill", 'print("a sample of the corpus")\n' + code)
    master, slave = pty.openpty()
    process = start("run", "configs/tiny.yaml", "--name", "r", stdout=slave)
    os.close(slave)
    shown = b""
    while True:
        try:
            part = os.read(master, 4096)
        except OSError:  # the other side is closed
            break
        shown += part
        if not part:
            break
    assert process.wait(timeout=60) == 0, process.stderr.read()
    text = shown.decode()
    assert "\r\x1b[K[3/5] student 1/3 · 2 s left" in text
    left = [re.split(r"\r\x1b\[K", line)[-1] for line in text.replace("\r\n", "\n").split("\n")]
    assert "[3/5] 03_distill: done" in " ".join(left)
    sizes = [line for line in left if line.startswith(("student: ", "teacher: "))]  # said before they are built
    assert len(sizes) == 2 and all("parameters" in line for line in sizes)
    left = [line for line in left if line not in sizes]
    assert not any("student" in line or "sample of the corpus" in line for line in left), "what stays on the screen"
    assert max(map(len, left)) <= 100 + len(str(project))


def test_verbose_shows_what_the_notebooks_print(project, capsys):
    write_notebook(project, "01_data", 'print("a sample of the corpus")')
    for option, seen in (([], False), (["--verbose"], True)):
        with pytest.raises(SystemExit) as stop:
            cli.main(["run", "configs/tiny.yaml", "--name", "r", "--only", "01", *option])
        assert stop.value.code == 0
        assert ("a sample of the corpus" in capsys.readouterr().out) is seen
    executed = json.loads((project / "runs" / "r" / "notebooks" / "01_data.ipynb").read_text())
    assert "a sample of the corpus" in json.dumps(executed)
