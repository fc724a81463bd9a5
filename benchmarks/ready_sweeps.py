"""What the five ready sweeps answer: the teacher's weight, temperatures, caches, stages, learning rates.

    python -m benchmarks.ready_sweeps [--only alpha stages] [--seeds 0 1 2] [-p train.max_steps=125]

The files `configs/sweep_*.yaml`, seed by seed, so that every sweep has its first pairs early. Stopped (Ctrl-C, or
`timeout -s INT 840 ...`) and started again it goes on. The configuration itself is the reference of all five: it is
trained in the first sweep and copied to the others, which train it themselves if it is not the same run. With `-p` all
variants are changed; the steps of stages are their own. Prints a row for each variant and writes
`benchmarks/results/ready_sweeps.json`.
"""

import argparse
import json
import os
import shutil
from pathlib import Path
from typing import Any

from benchmarks.measure import print_table, versions
from kdkit.workflow.several.sweep import SweepRequest, run_sweep
from kdkit.workflow.several.variants import folder_name, load_sweep

RESULTS = Path(__file__).parent / "results" / "ready_sweeps.json"
SWEEPS = ("alpha", "temperature", "lr_multipliers", "stages", "top_k")
SHARED = ("baselines", "teachers")
"""Folders of a sweep that hold what a seed's runs share."""


def main() -> None:
    """Train what is missing and write what is known after every sweep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SWEEPS, default=SWEEPS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--runs-dir", default="runs")
    parser.add_argument("-p", action="append", default=[], metavar="SECTION.KEY=VALUE")
    arguments = parser.parse_args()
    found: dict[str, list[dict[str, Any]]] = {}
    for count in range(1, len(arguments.seeds) + 1):
        seeds = arguments.seeds[:count]
        for name in arguments.only:
            folder = Path(arguments.runs_dir).resolve() / f"ready_{name}"
            if name != arguments.only[0]:
                copy_reference(folder.with_name(f"ready_{arguments.only[0]}"), arguments.only[0], folder, name, seeds)
            listed = ",".join(map(str, seeds)) + ","
            run_sweep(
                SweepRequest(f"configs/sweep_{name}.yaml", arguments.p, folder.name, str(folder.parent), seeds=listed)
            )
            found[name] = rows_of(json.loads((folder / "sweep.json").read_text()))
            facts = {"versions": versions(), "load": os.getloadavg(), "overrides": arguments.p, "sweeps": found}
            RESULTS.write_text(json.dumps(facts, indent=1) + "\n")
    print_table([{"sweep": name} | row for name, rows in found.items() for row in rows])


def copy_reference(source: Path, of_source: str, target: Path, of_target: str, seeds: list[int]) -> None:
    """Give a sweep the runs of its reference that the first one has trained, with teacher score and baseline."""
    first, second = (folder_name(load_sweep(f"configs/sweep_{name}.yaml").reference) for name in (of_source, of_target))
    for part in SHARED:
        if (source / part).is_dir():
            shutil.copytree(source / part, target / part, symlinks=True, dirs_exist_ok=True)
    for seed in seeds:
        if not (target / f"{second}-seed-{seed}").exists():
            shutil.copytree(source / f"{first}-seed-{seed}", target / f"{second}-seed-{seed}", symlinks=True)


def rows_of(sweep: dict[str, Any]) -> list[dict[str, Any]]:
    """Return mean, spread, gain over the reference, its intervals and corrected p of every variant."""
    rows = []
    for entry in sweep["variants"]:
        gain = entry["difference"] or {}
        row = {"variant": entry["name"], "steps": entry["steps"], "levels": entry["levels"], "mean": entry["mean"]}
        row |= {"spread": entry["spread"], "better by": gain.get("mean")}
        row |= {"interval over seeds": gain.get("interval_95"), "p corrected": gain.get("p_corrected")}
        row |= {"interval over text": gain.get("interval_95_over_text"), "seconds": entry["mean_seconds"]}
        rows.append(row)
    return rows


if __name__ == "__main__":
    main()
