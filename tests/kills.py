"""`kill -9` at the places where a training changes files: each in a process of its own, and the one after it.

    python -m tests.kills FOLDER [NAME ...]

Python tells an audit hook of every file that it opens to write, renames or removes, before it is done; what libraries
write in other languages lies between two of these. One training is left alone; others die at the first change of each
NAME, or at every single change in a random order, and go on. Prints a line of JSON for each, and one of all.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import torch

from kdkit.config.language import Config
from kdkit.data.prepare import PreparedData
from kdkit.distill import train
from kdkit.runs.disk import remove_leftovers
from kdkit.runs.folder import Run
from kdkit.teachers.prepare import prepare_teacher
from tests.tiny import make_config, make_data, make_plan

CHANGES = {"os.rename": (0, 1), "os.remove": (0,), "os.rmdir": (0,), "os.mkdir": (0,), "os.link": (0, 1)}
"""Events of audit hooks, and which of their arguments are paths."""
TRAIN = {"max_steps": 5, "log_every": 4, "save_every": 2}
TEACHER = {"max_steps": 5, "num_experts": 4, "num_experts_per_tok": 2}


class Changes:
    """Counts the changes of files below a folder, and kills this process at one of them."""

    def __init__(self, folder: Path, last: int = 0):
        """Begin to count; `last`: the change at which to die, 0: none."""
        self.folder, self.last, self.names = str(folder), last, []
        sys.addaudithook(self.note)

    def note(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Take note of an event."""
        if event == "open":
            path, mode, flags = arguments
            is_change = any(letter in (mode or "") for letter in "wax+") or bool(flags & (os.O_WRONLY | os.O_RDWR))
            paths = [path] if is_change else []
        else:
            paths = [arguments[place] for place in CHANGES.get(event, ())]
        if any(str(path).startswith(self.folder) for path in paths):
            self.names.append(f"{event} {str(paths[0]).removeprefix(self.folder)}")
            if len(self.names) == self.last:
                os.kill(os.getpid(), signal.SIGKILL)


def train_all(config: Config, data: PreparedData, run: Run, resume: bool) -> None:
    """Build the teacher, train the student and the baseline."""
    plan = make_plan(config, run, data)
    teacher = prepare_teacher(plan.session, data)
    train.distill(plan, teacher, resume)
    train.train_baseline(plan, resume)


def in_a_process(folder: Path, last: int, config: Config, data: PreparedData, resume: bool) -> int:
    """Train in a process of its own, which dies at a change of a file; return how it ended.

    The names of the changes are left in `changes.txt`, where it did not die.
    """
    # fork: importing torch anew would take seconds
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code = 1
    try:
        with (folder / "said.txt").open("a") as said:
            os.dup2(said.fileno(), 1)
        run = Run(folder / "work" / "run", folder / "work" / "cache")
        remove_leftovers(run.path)  # as whoever opens a run does
        changes = Changes(folder / "work", last)
        train_all(config, data, run, resume)
        (folder / "changes.txt").write_text("\n".join(changes.names))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def describe(folder: Path) -> dict[str, Any]:
    """Return what a training has left: its files, the hashes of the weights, the lines of its metrics."""
    work = folder / "work"
    weights = sorted(work.rglob("*.safetensors"))
    lines = [json.loads(line) for line in (work / "run" / "metrics.jsonl").read_text().splitlines()]
    results = json.loads((work / "run" / "training.json").read_text())
    counts = {name: results[name]["tokens"] for name in ("student", "baseline")}
    return {
        "files": sorted(str(path.relative_to(work)) for path in work.rglob("*")),
        "weights": {str(file.relative_to(work)): hashlib.sha256(file.read_bytes()).hexdigest() for file in weights},
        "metrics": [{key: value for key, value in line.items() if key != "seconds"} for line in lines],
        "tokens": counts,
    }


def main() -> None:
    """Kill trainings at places of one that is left alone, and compare what comes after."""
    folder, names = Path(sys.argv[1]), sys.argv[2:]
    torch.set_num_threads(1)
    config = make_config(folder, train=TRAIN)
    build = config.teacher.build.model_copy(update=TEACHER)
    config = config.model_copy(update={"teacher": config.teacher.model_copy(update={"build": build})})
    data = make_data(config, folder)
    whole = folder / "whole"
    (whole / "work").mkdir(parents=True)
    assert in_a_process(whole, 0, config, data, False) == 0
    expected, changes = describe(whole), (whole / "changes.txt").read_text().splitlines()
    found = [next(place for place, change in enumerate(changes, 1) if name in change) for name in names]
    rows = []
    for place in found or random.Random(0).sample(range(1, len(changes) + 1), len(changes)):
        trial = folder / f"{place:04d}"
        (trial / "work").mkdir(parents=True)
        died = in_a_process(trial, place, config, data, False)
        after = in_a_process(trial, 0, config, data, True)
        different = [name for name, value in describe(trial).items() if value != expected[name]] if not after else []
        rows.append({"place": place, "change": changes[place - 1], "died": died, "after": after, "not": different})
        print(json.dumps(rows[-1]), flush=True)
        if not (after or different):
            shutil.rmtree(trial)
    print("ANSWER" + json.dumps({"changes": len(changes), "rows": rows}))


if __name__ == "__main__":
    main()
