"""What a choice among a small student's samples is worth, beside its greedy answer and one answer of its teacher.

    nice -n 19 python -m benchmarks.maths_selection [--config configs/maths_demo.yaml] [--seeds 0] [--set KEY=VALUE ...]

The demo's problems with a smaller student, trained for half the steps, so that there is something to choose: a student
that is nearly always right has nothing to vote on. Accuracy with intervals over held-out problems, compute in tokens
times parameters; see `kdkit.evaluate.maths.selection`.
"""

import json
from pathlib import Path

from benchmarks.maths_demo import open_config, read_arguments, train
from benchmarks.measure import write_results
from kdkit.evaluate.evaluation import load_students
from kdkit.evaluate.maths.judge import evaluate_maths
from kdkit.evaluate.maths.sets import find_sets
from kdkit.machine.hardware import Hardware
from kdkit.machine.session import Session
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
    arguments = read_arguments(__doc__, RESULTS)
    rows = []
    for seed in arguments.seeds:
        with open_config(arguments, [f"seed={seed}", *SMALLER]) as (config, run):
            data, _ = train(config, run)
            session = Session(config, run, Hardware("cpu", "cpu", "fp32", "cpu", "benchmark"))
            sets = find_sets(run.path / "data", config.maths.judging)
            maths = evaluate_maths(session, data, prepare_teacher(session, data), load_students(session), sets)["maths"]
        rows.append({"seed": seed, "verifier": maths["verifier"], **maths["sets"]["held_out"]["selection"]})
        print(json.dumps(rows[-1]), flush=True)
    write_results(arguments.results, rows)


if __name__ == "__main__":
    main()
