"""What a choice among a small student's samples is worth, beside its greedy answer and one answer of its teacher.

    nice -n 19 python -m benchmarks.maths_selection [--config configs/maths_demo.yaml] [--seeds 0] [--set KEY=VALUE ...]

The demo's problems with a smaller student, trained for half the steps, so that there is something to choose: a student
that is nearly always right has nothing to vote on. Accuracy with intervals over held-out problems, compute in tokens
times parameters; see `kdkit.evaluate.maths.selection`.
"""

import argparse
import json
import tempfile
from pathlib import Path

import torch

from benchmarks.maths_demo import train
from benchmarks.measure import write_results
from kdkit.config.language import load_config
from kdkit.evaluate.evaluation import load_students
from kdkit.evaluate.maths.judge import evaluate_maths
from kdkit.evaluate.maths.sets import find_sets
from kdkit.machine.hardware import Hardware
from kdkit.machine.session import Session
from kdkit.runs.folder import Run
from kdkit.teachers.prepare import prepare_teacher

RESULTS = Path(__file__).parent / "results" / "maths_selection.json"
SMALLER = (
    "student.build.hidden_size=64",
    "student.build.intermediate_size=192",
    "train.max_steps=150",
    "maths.judging.num_samples=8",
    "maths.judging.verifier=true",
    "maths.judging.max_problems=120",
)


def main() -> None:
    """Train, judge and write the results of every seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/maths_demo.yaml"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = []
    for seed in arguments.seeds:
        with tempfile.TemporaryDirectory() as folder:
            config = load_config(arguments.config, [f"seed={seed}", *SMALLER, *arguments.set])
            run = Run(Path(folder) / "run", Path(folder) / "cache")
            run.path.mkdir(parents=True)
            data, _ = train(config, run)
            session = Session(config, run, Hardware("cpu", "cpu", "fp32", "cpu", "benchmark"))
            sets = find_sets(run.path / "data", config.maths.judging)
            maths = evaluate_maths(session, data, prepare_teacher(session, data), load_students(session), sets)["maths"]
        held_out = maths["sets"]["held_out"]
        rows.append({"seed": seed, "verifier": maths["verifier"], **held_out["selection"]})
        print(json.dumps(rows[-1]), flush=True)
    write_results(arguments.results, rows)


if __name__ == "__main__":
    main()
