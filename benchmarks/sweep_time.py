"""What a sweep of twelve runs takes, against a run with its notebooks and against a run of that sweep alone.

    python -m benchmarks.sweep_time [--times 2] [--config configs/smoke.yaml]

Everything is fresh: no text is prepared and no teacher built. A run (`python -m kdkit run`) makes data, teacher,
student and three baselines in five notebooks; the sweep is four temperatures x three seeds, so it prepares three texts
and builds three teachers; a run alone is one of its variants with one seed. The three alternate. Processor time of the
command and of all processes that it starts, so that what else runs on the machine hardly matters, and wall time beside
it. Prints a row for each command, the ratios, and writes `benchmarks/results/sweep_time.json`.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import print_table, versions

RESULTS = Path(__file__).parent / "results" / "sweep_time.json"
GRID = ["--grid", "distill.temperature=1,1.5,2,3"]
COMMANDS = {
    "run": ["run"],
    "sweep of 12": ["sweep", *GRID, "--seeds", "3"],
    "run of the sweep": ["sweep", *GRID, "--seeds", "1", "--only", "temperature=1"],
}
PER_FOUR = 4 / 12
"""The sweep's time is divided by its runs and multiplied by four."""


def main() -> None:
    """Time the commands as often as asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=2)
    parser.add_argument("--config", default="configs/smoke.yaml")
    arguments = parser.parse_args()
    rows = []
    for number in range(arguments.times):
        for name, words in COMMANDS.items():
            rows.append({"round": number, "what": name} | time_command(arguments.config, words))
            print(json.dumps(rows[-1]), flush=True)
    ratios = {}
    for kind in ("cpu_seconds", "seconds"):
        took = {name: statistics.median(row[kind] for row in rows if row["what"] == name) for name in COMMANDS}
        four = PER_FOUR * took["sweep of 12"]
        ratios[kind] = {
            "four_runs_of_a_sweep_to_a_run": round(four / took["run"], 3),
            "four_runs_of_a_sweep_to_one_alone": round(four / took["run of the sweep"], 3),
        }
    load = [round(value, 1) for value in os.getloadavg()]
    found = {"versions": versions(), "load": load, "config": arguments.config, "ratios": ratios, "rows": rows}
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    print_table(rows)
    print(json.dumps(ratios, indent=1))


def time_command(config: str, words: list[str]) -> dict[str, Any]:
    """Run a command of kdkit in an empty folder; return what it took."""
    folder = Path(tempfile.mkdtemp(prefix="sweep-time-"))
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    verb, *options = words
    places = ["--runs-dir", str(folder / "runs"), "--name", "timed", "-p", f"cache_dir={folder / 'cache'}"]
    command = [sys.executable, "-m", "kdkit", verb, config, *options, *places]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    shutil.rmtree(folder)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": round(time.perf_counter() - start, 1), "cpu_seconds": round(cpu, 1)}


if __name__ == "__main__":
    main()
