"""The demo over several seeds: is the distilled student better than one without a teacher, after the same time too?

    python -m benchmarks.demo_seeds [--config configs/demo.yaml] [--seeds 0 1 2] [--limits STEPS ...] [-p KEY=VALUE ...]

Each seed has its own split, teacher, student and baselines; see `benchmarks.equal_time` for what is compared. Prints a
table and writes `benchmarks/results/demo_seeds.json` after every seed; seeds that it holds are not run again. With
`--limits` the first seed is also trained without a teacher for so many steps: how good the student can get at all.
"""

import argparse
import json
import sys
from pathlib import Path

from benchmarks.equal_time import compare, print_table, summary

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Run every seed that is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/demo.yaml")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--limits", type=int, nargs="*", default=[])
    parser.add_argument("-p", dest="overrides", action="append", default=[])
    arguments = parser.parse_args()
    run_seeds(RESULTS / "demo_seeds.json", arguments)


def run_seeds(file: Path, arguments: argparse.Namespace) -> None:
    """Compare the seeds that a file of results lacks, add them to it, and print all."""
    rows = json.loads(file.read_text())["rows"] if file.is_file() else []
    for seed in arguments.seeds:
        if all(row["seed"] != seed for row in rows):
            limits = arguments.limits if seed == arguments.seeds[0] else []
            rows.append(compare(arguments.config, seed, arguments.overrides, limits))
            command = [Path(word).name for word in sys.argv]
            file.write_text(json.dumps(summary(command, rows), indent=1))
    print_table(rows)


if __name__ == "__main__":
    main()
