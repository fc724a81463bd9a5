"""The demo over several seeds: does distillation beat both baselines on every one, and by how much?

    python benchmarks/demo_seeds.py [--config configs/demo.yaml] [--seeds 0 1 2] [-p section.key=value ...]

Each seed is a whole run (its own split, teacher, student and baselines). Prints a table and writes
`runs/<config>-seeds.json` with the figures, the command and the versions.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Run every seed and summarise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/demo.yaml")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("-p", dest="overrides", action="append", default=[])
    arguments = parser.parse_args()
    rows = [run_seed(arguments.config, seed, arguments.overrides) for seed in arguments.seeds]
    print_table(rows)
    name = f"{Path(arguments.config).stem}-seeds"
    environment = json.loads((ROOT / "runs" / rows[0]["run"] / "env.json").read_text())
    summary = {"command": sys.argv, "rows": rows, "environment": environment}
    (ROOT / "runs" / f"{name}.json").write_text(json.dumps(summary, indent=1))


def run_seed(config: str, seed: int, overrides: list[str]) -> dict[str, Any]:
    """Run one seed and return its figures."""
    name = f"{Path(config).stem}-seed-{seed}"
    settings = [part for override in [*overrides, f"seed={seed}"] for part in ("-p", override)]
    command = [sys.executable, "-m", "kdkit", "run", config, "--name", name, *settings]
    subprocess.run(command, cwd=ROOT, check=True)
    run = ROOT / "runs" / name
    evaluation = json.loads((run / "evaluation.json").read_text())
    status = json.loads((run / "status.json").read_text())
    return {
        "run": name,
        "bits_per_byte": {model: entry["bits_per_byte"] for model, entry in evaluation["models"].items()},
        "gap_closed": evaluation["gap_closed"],
        "differences": evaluation["differences"],
        "seconds": {stage: entry["seconds"] for stage, entry in status.items()},
    }


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print a line per seed, then mean and spread of the gap closed."""
    models = list(rows[0]["bits_per_byte"])
    print(f"{'run':<20}" + "".join(f"{model:>22}" for model in models) + f"{'gap closed':>14}{'seconds':>10}")
    for row in rows:
        values = "".join(f"{row['bits_per_byte'][model]:>22.3f}" for model in models)
        print(f"{row['run']:<20}{values}{row['gap_closed']:>14.2f}{sum(row['seconds'].values()):>10.0f}")
    gaps = [row["gap_closed"] for row in rows]
    spread = statistics.stdev(gaps) if len(gaps) > 1 else 0.0
    print(f"gap closed: mean {statistics.mean(gaps):.2f}, standard deviation {spread:.2f}, over {len(gaps)} seeds")


if __name__ == "__main__":
    main()
