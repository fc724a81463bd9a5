"""The time of a session: from when it counts, how much there is, and when it is nearly used up."""

import subprocess
import sys
import time

import pytest

from kdkit.machine import budget
from kdkit.machine.interrupt import Stopped, StopRequest, stop_when_saved
from kdkit.runs.folder import Run


@pytest.mark.parametrize(
    ("hours", "kernel", "seconds"),
    [
        (None, None, None),
        (None, "Batch", 40_500),
        (None, "Interactive", 40_500),
        (2, "Batch", 7_200),
        (0.5, None, 1_800),
    ],
)
def test_kaggle_has_a_budget_and_a_number_counts_everywhere(monkeypatch, hours, kernel, seconds):
    monkeypatch.delenv("KAGGLE_KERNEL_RUN_TYPE", raising=False)
    if kernel is not None:
        monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", kernel)
    found = budget.find_budget(hours)
    assert (found and found.seconds) == seconds


def test_the_longest_step_must_still_fit(monkeypatch):
    times = iter([10, 20, 60, 70, 79, 80])
    monkeypatch.setattr(budget, "elapsed", lambda: next(times))
    own = budget.TimeBudget(120)
    assert [own.is_used_up() for _ in range(6)] == [False, False, False, False, False, True], "a step took 40 s"


def test_it_counts_from_the_start_of_the_first_process(monkeypatch):
    code = (
        "import subprocess, sys, time\nfrom kdkit.machine.budget import elapsed, hand_on_start\n"
        "if len(sys.argv) > 1:\n    print(elapsed())\nelse:\n"
        "    time.sleep(1)\n    print(elapsed())\n    hand_on_start()\n"
        "    subprocess.run([sys.executable, '-c', open('/proc/self/cmdline').read().split(chr(0))[2], 'child'])\n"
    )
    monkeypatch.delenv(budget.STARTED, raising=False)
    began = time.monotonic()
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    took = time.monotonic() - began
    own, child = map(float, out.split())
    assert 1 <= own < child <= took + 0.05  # the system counts in hundredths


def test_a_user_and_the_clock_end_a_training_differently(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(budget, "elapsed", lambda: 3600.0)
    run = Run(tmp_path / "r", tmp_path)
    with stop_when_saved(run, 1.0) as request:
        request.check("nothing")
        assert request.look() and request.look()
    with pytest.raises(SystemExit) as stop:
        request.check("step 3 is saved")
    assert stop.value.code == 0 and str(stop.value) == "0"  # papermill takes no other for a good end
    said = run.progress()
    assert (said["state"], said["resume_needed"]) == ("stopped", True)
    assert said["reason"] == "time budget of 1 h used up; step 3 is saved" and said["command"].endswith(" --resume")
    assert f"{said['reason']}. To go on, run all cells again" in capsys.readouterr().out
    with pytest.raises(Stopped):
        StopRequest(wanted=True, run=run).check("step 4 is saved")
    assert run.progress()["reason"] == "stopped by its user; step 4 is saved"
    run.set_progress("running", phase="student", step=5)
    assert run.progress() == {"state": "running", "resume_needed": False, "reason": "", "phase": "student", "step": 5}
    run.set_status("04_evaluate", state="running")
    run.set_progress("running", phase="04_evaluate")
    assert "step" not in run.progress() and run.progress()["phase"] == "04_evaluate"
    assert run.status() == {"04_evaluate": {"state": "running"}}
