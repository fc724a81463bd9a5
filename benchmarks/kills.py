"""Kills at random moments, and whether what comes after is what it would have been: `kill -9`, 30 times.

    python -m benchmarks.kills [--kills 30] [--seed 0] [--folder FOLDER]

One run of `python -m kdkit run` is left alone. Others are killed a few times each, at moments drawn over their
phases, and go on by the same command with --resume; each kill ends the command and its notebook's kernel, or one of
both, as a lack of memory does. When such a run has finished, its weights, answers, losses, evaluation and data are
compared with the first run's, bit for bit; after every kill all files with their final names are read. Lost steps are
those that the log had and that were made again. Prints a row for every kill and writes `benchmarks/results/kills.json`.
"""

import argparse
import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.measure import print_table, versions
from benchmarks.run_files import differences, leftovers, unreadable

RESULTS = Path(__file__).parent / "results" / "kills.json"
CONFIG = "configs/smoke.yaml"
SAVE_EVERY = 3
SETTINGS = [
    "cache.enabled=true",
    "cache.samples_per_chunk=8",
    "teacher.build.max_steps=50",
    "train.max_steps=40",
    "train.log_every=2",
    f"train.save_every={SAVE_EVERY}",
    "distill.equal_time_baseline=false",  # its steps follow from a time
    "evaluate.max_sequences=8",
    "evaluate.num_prompts=1",
    "evaluate.max_new_tokens=4",
]
PHASES = ("data", "teacher", "cache", "student", "baseline", "saving", "evaluation", "report")
"""In the order of a run; `saving`: inside the writing of a checkpoint."""
VICTIMS = ("all", "all", "all", "kernel", "command")
TRAININGS = ("teacher", "student", "baseline")
ENOUGH_SECONDS = 600


@dataclass
class Place:
    """A run and its cache, and where it is at this moment."""

    folder: Path
    config: str = CONFIG
    settings: list[str] = field(default_factory=lambda: SETTINGS)
    longest: dict[str, float] = field(default_factory=dict)
    """Seconds of each phase."""
    started: float = 0.0
    """When its command was last started."""
    is_under_way: bool = False
    """Whether that has begun a notebook."""

    @property
    def run(self) -> Path:
        """The run's folder."""
        return self.folder / "runs" / "r"

    @property
    def cache(self) -> Path:
        """The run's cache."""
        return self.folder / "cache"

    def start(self, resume: bool) -> subprocess.Popen[str]:
        """Start the command, and let it write to `said.txt`."""
        words = [sys.executable, "-m", "kdkit", "run", self.config, "--name", "r", "--runs-dir", str(self.run.parent)]
        for setting in [*self.settings, f"cache_dir={self.cache}"]:
            words += ["-p", setting]
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "said.txt").open("w") as said:
            words += ["--resume"] if resume else []
            self.started, self.is_under_way = time.time(), False
            return subprocess.Popen(words, stdout=said, stderr=subprocess.STDOUT, text=True, start_new_session=True)

    def now(self) -> tuple[str, int]:
        """Return the phase and the optimizer steps of its training, 0 where none is."""
        file = self.run / "status.json"
        status = json.loads(file.read_text()) if file.is_file() else {}
        stage = next((name for name, value in status.items() if _state(value) == "running"), "")
        if _state(status.get("01_data")) != "done":
            return "data", 0
        self.is_under_way |= file.stat().st_mtime > self.started and status.get("phase", "").startswith("0")
        if not self.is_under_way or not stage:  # what is there is from before the kill
            return "starting", 0
        if stage > "04":
            return ("evaluation" if stage < "05" else "report"), 0
        phase, step = status.get("phase", ""), status.get("step", 0)
        if phase in TRAININGS and step < status.get("total_steps", 0):
            return phase, step
        return ("cache" if any(self.cache.glob("answers/*.parts")) else f"in {stage[:2]}"), 0

    def is_saving(self) -> bool:
        """Return whether a checkpoint is being written."""
        return any((*self.run.glob("checkpoints/*/.partial"), *self.cache.glob("teachers/*/.partial")))


def _state(value: Any) -> str:
    return value.get("state", "") if isinstance(value, dict) else ""


def main() -> None:
    """Kill as often as asked and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="kills-"))
    whole = Place(folder / "whole")
    if not (whole.folder / "longest.json").is_file():
        _run_whole(whole)
    whole.longest = json.loads((whole.folder / "longest.json").read_text())
    draw, rows = random.Random(arguments.seed), []
    wanted = [PHASES[number % len(PHASES)] for number in range(arguments.kills)]
    draw.shuffle(wanted)
    while wanted:
        number = min(draw.randint(4, 6), len(wanted))
        chosen, wanted = sorted(wanted[:number], key=PHASES.index), wanted[number:]
        found = _kill_run(Place(folder / f"killed{len(rows):02d}"), whole, chosen, draw)
        wanted += [row["wanted"] for row in found if row["phase"] == "missed"]
        rows += [row | {"kill": len(rows) + place} for place, row in enumerate(found) if row["phase"] != "missed"]
        RESULTS.write_text(json.dumps(_summary(rows, arguments.seed, whole.longest), indent=1) + "\n")
        print_table(found)
    print_table([{key: value for key, value in row.items() if key != "differences"} for row in rows])


def _summary(rows: list[dict[str, Any]], seed: int, longest: dict[str, float]) -> dict[str, Any]:
    """Put the rows together with what they were made with."""
    counts = {
        "kills": len(rows),
        "exact": sum(row["exact"] for row in rows),
        "corrupt_files": sum(len(row["corrupt"]) for row in rows),
        "most_lost_steps": max(row["lost_steps"] or 0 for row in rows),
        "save_every": SAVE_EVERY,
        "longest_until_first_step": max(row["first_step_after"] or 0.0 for row in rows),
    }
    return {"versions": versions(), "seed": seed, **counts, "seconds_of_phases": longest, "rows": rows}


def _run_whole(place: Place) -> None:
    """Make the run that is left alone, and note how long each phase of it lasts."""
    process, seconds, last = place.start(resume=False), {}, time.monotonic()
    while process.poll() is None:
        time.sleep(0.005)
        now, phase = time.monotonic(), place.now()[0]
        seconds[phase] = seconds.get(phase, 0.0) + now - last
        last = now
    assert process.returncode == 0, (place.folder / "said.txt").read_text()[-3000:]
    (place.folder / "longest.json").write_text(json.dumps({name: round(value, 2) for name, value in seconds.items()}))


def _kill_run(place: Place, whole: Place, phases: list[str], draw: random.Random) -> list[dict[str, Any]]:
    """Kill one run in some phases, let it finish, and compare it."""
    rows: list[dict[str, Any]] = []
    for phase in phases:
        row = {"wanted": phase, "victim": draw.choice(VICTIMS), "share": round(draw.random(), 2)}
        process = place.start(resume=bool(rows))
        row |= _watch(place, process, rows[-1] if rows else {}, row, whole.longest)
        row |= _kill(process, row["victim"])
        rows.append(row | {"corrupt": unreadable(place.run) + unreadable(place.cache)})
    process = place.start(resume=True)
    _watch(place, process, rows[-1], None, whole.longest)
    said = (place.folder / "said.txt").read_text()
    found = [said[-2000:]] if process.wait() else differences(place.run, place.cache, whole.run, whole.cache)
    found += [f"left over: {name}" for name in leftovers(place.run, place.cache)]
    found += [f"unreadable: {name}" for name in unreadable(place.run) + unreadable(place.cache)]
    for row in rows:
        row |= {"exact": not found, "differences": found}
    if not found:
        shutil.rmtree(place.folder)
    return rows


def _watch(
    place: Place,
    process: subprocess.Popen[str],
    killed: dict[str, Any],
    wanted: dict[str, Any] | None,
    longest: dict[str, float],
) -> dict[str, Any]:
    """Watch a run until it is to be killed, or ends; note in the row of the kill before what that has cost.

    Args:
        wanted: row of the kill to come; None: none.

    Returns:
        Phase, step and moment, in seconds since the phase was first seen.
    """
    seen, savings, was_saving, first = 0.0, 0, False, None
    found = {"phase": "missed", "step": 0, "saving": False, "moment": 0.0}
    killed["first_step_after"] = None
    while process.poll() is None:
        assert time.time() - place.started < ENOUGH_SECONDS, (place.folder / "said.txt").read_text()[-2000:]
        (phase, step), now, is_saving = place.now(), time.time(), place.is_saving()
        if phase in TRAININGS and killed["first_step_after"] is None:
            first = first or (phase, step)
            killed["first_step_after"] = round(now - place.started, 1) if (phase, step) != first else None
        savings, was_saving = savings + (is_saving and not was_saving), is_saving
        if wanted is not None and phase != "starting":
            is_late = phase in PHASES and PHASES.index(phase) > PHASES.index(wanted["wanted"])
            seen = seen or (now if phase == wanted["wanted"] else 0.0)
            is_due = seen and now - seen >= wanted["share"] * longest.get(wanted["wanted"], 0.0)
            if wanted["wanted"] == "saving":
                is_due = is_saving and savings > 8 * wanted["share"]
            if is_due or is_late:
                found = {"phase": phase, "step": step, "saving": is_saving, "moment": round(now - (seen or now), 2)}
                break
        time.sleep(0.002)
    said = re.findall(r"(\w+): goes on from step (\d+) of", (place.folder / "said.txt").read_text())
    killed["lost_steps"] = None
    if killed.get("phase") in TRAININGS:
        killed["lost_steps"] = max(0, killed["step"] - int(dict(said).get(killed["phase"], 0)))
    return found


def _kill(process: subprocess.Popen[str], victim: str) -> dict[str, Any]:
    """Kill a command, its notebook's kernel, or both; return how the command has ended."""
    kernels = psutil.Process(process.pid).children(recursive=True)
    if victim == "kernel" and kernels:
        for kernel in kernels:
            kernel.kill()
        return {"exit": process.wait(timeout=60)}
    process.kill()
    for kernel in kernels if victim == "all" else []:
        kernel.kill()
    return {"exit": process.wait(timeout=60)}


if __name__ == "__main__":
    main()
