"""From the start of a command to the first step of a training that goes on: the demo, killed while its student learns.

    python -m benchmarks.resume_time [--times 3] [--folder FOLDER]

The teacher of `configs/demo.yaml` is built in fewer steps than there, which the time does not depend on. Wall time and
processor time of the command and of its notebook's kernel, until the status holds the step and until the first step
after it is logged; the latter contains that step. Prints a row for every kill and writes
`benchmarks/results/resume_time.json`.
"""

import argparse
import json
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.kills import Place
from benchmarks.measure import print_table, versions

RESULTS = Path(__file__).parent / "results" / "resume_time.json"
SETTINGS = ["teacher.build.max_steps=20", "train.log_every=1", "train.save_every=10"]
PHASE = "student"


def main() -> None:
    """Kill and go on as often as asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    place = Place(arguments.folder or Path(tempfile.mkdtemp(prefix="resume-")), "configs/demo.yaml", SETTINGS)
    process = place.start(resume=False)
    _first_step(place, process, least=25)
    rows = []
    for number in range(arguments.times):
        before = _kill(place, process)
        process = place.start(resume=True)
        found = _first_step(place, process, least=0)
        _first_step(place, process, least=found["step"] + 15)
        rows.append({"kill": number, "killed_behind_step": before} | found)
        print(json.dumps(rows[-1]), flush=True)
    _kill(place, process)
    shutil.rmtree(place.folder)
    load = [round(value, 1) for value in psutil.getloadavg()]
    RESULTS.write_text(json.dumps({"versions": versions(), "load": load, "rows": rows}, indent=1) + "\n")
    print_table(rows)


def _kill(place: Place, process: subprocess.Popen[str]) -> int:
    """Kill the command and its kernel; return the last step that was logged."""
    step = place.now()[1]
    kernels = psutil.Process(process.pid).children(recursive=True)
    for each in (process, *kernels):
        each.kill()
    process.wait()
    return step


def _first_step(place: Place, process: subprocess.Popen[str], least: int) -> dict[str, Any]:
    """Wait until a step is logged that is the first one here, and at least so high."""
    found: dict[str, Any] = {}
    while process.poll() is None:
        phase, step = place.now()
        if phase == PHASE and "goes_on_from" not in found:
            found = {"goes_on_from": step} | _times(place, process, "ready")
        if phase == PHASE and step >= max(least, found["goes_on_from"] + 1):
            return found | {"step": step} | _times(place, process, "first_step")
        time.sleep(0.02)
    raise RuntimeError((place.folder / "said.txt").read_text()[-2000:])


def _times(place: Place, process: subprocess.Popen[str], name: str) -> dict[str, float]:
    """Return wall time and processor time since the command was started."""
    parent = psutil.Process(process.pid)
    times = [each.cpu_times() for each in (parent, *parent.children(recursive=True))]
    cpu = sum(each.user + each.system for each in times)
    return {f"{name}_seconds": round(time.time() - place.started, 1), f"{name}_cpu_seconds": round(cpu, 1)}


if __name__ == "__main__":
    main()
