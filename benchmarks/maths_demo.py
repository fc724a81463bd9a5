"""Exact answers of the maths demo's teacher, its student, and the same student without a teacher.

    nice -n 19 python -m benchmarks.maths_demo [--config configs/maths_demo.yaml] [--seeds 0 1 2] [--set KEY=VALUE ...]

Every model writes with the most likely token, and the checker compares what stands in the box: held-out numbers of the
kinds that were taught, by kind and level, and kinds that were not. Seconds are processor time of this process.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks.maths_students import mark
from benchmarks.measure import write_results
from kdkit.config.language import Config, load_config
from kdkit.data.prepare import PreparedData, prepare_data
from kdkit.data.problems import HELD_OUT, HELD_OUT_TEMPLATES
from kdkit.distill.open_teacher import open_teacher
from kdkit.distill.plan import plan_training
from kdkit.distill.train import distill, train_baseline
from kdkit.machine.hardware import Hardware
from kdkit.machine.session import Session
from kdkit.maths.checking.pool import CheckerPool
from kdkit.maths.problem import Problem
from kdkit.models.loading import load_causal_lm
from kdkit.models.writer import model_writer
from kdkit.runs.folder import Run

RESULTS = Path(__file__).parent / "results" / "maths_demo.json"


def train(config: Config, run: Run) -> tuple[PreparedData, dict[str, float]]:
    """Train teacher, student and twin of a configuration; return the data, and the processor time of each."""
    session = Session(config, run, Hardware("cpu", "cpu", "fp32", "cpu", "benchmark"))
    seconds, start = {}, time.process_time()

    def lap(name: str) -> None:
        nonlocal start
        seconds[name], start = round(time.process_time() - start, 1), time.process_time()

    data = prepare_data(session)
    lap("problems and data")
    plan = plan_training(session, data)
    teacher = open_teacher(plan)
    lap("teacher")
    distill(plan, teacher)
    lap("student")
    train_baseline(plan)
    lap("baseline")
    return data, seconds


def shares(problems: list[Problem], right: list[bool]) -> dict[str, Any]:
    """Return the share of right answers in all, and by kind and level."""
    by_kind: dict[str, list[bool]] = defaultdict(list)
    for problem, is_right in zip(problems, right, strict=True):
        by_kind[f"{problem.template}, level {problem.level}"].append(is_right)
    parts = {name: round(statistics.mean(values), 3) for name, values in sorted(by_kind.items())}
    return {"all": round(statistics.mean(right), 3), "problems": len(right), "parts": parts}


def judge(config: Config, run: Run, data: PreparedData, pool: CheckerPool) -> dict[str, Any]:
    """Mark the answers of all three models to both held-out sets."""
    found: dict[str, Any] = {}
    for name, folder in (("teacher", "teacher/model"), ("student", "student"), ("baseline", "baseline")):
        model = load_causal_lm(str(run.path / folder), f"{name}.path")
        tokenizer = data.teacher_tokenizer if name == "teacher" else data.student_tokenizer
        writer = model_writer(model, tokenizer, batch_size=config.evaluate.batch_size)
        sets = {each: data.problems(each) for each in (HELD_OUT, HELD_OUT_TEMPLATES)}
        found[name] = {
            each: shares(problems, mark(writer, problems, pool)) for each, problems in sets.items() if problems
        }
        print(name, json.dumps(found[name]), flush=True)
    return found


def read_arguments(about: str, results: Path) -> argparse.Namespace:
    """Read a command line on trainings of a maths configuration, and set the number of threads."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/maths_demo.yaml"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", type=Path, default=results)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    return arguments


@contextmanager
def open_config(arguments: argparse.Namespace, settings: Sequence[str]) -> Iterator[tuple[Config, Run]]:
    """Open a configuration with settings of its own, and a run in a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder) / "run", Path(folder) / "cache")
        run.path.mkdir(parents=True)
        yield load_config(arguments.config, [*settings, *arguments.set]), run


def main() -> None:
    """Train and judge for every seed, and write the results."""
    arguments = read_arguments(__doc__, RESULTS)
    rows = []
    for seed in arguments.seeds:
        with open_config(arguments, [f"seed={seed}"]) as (config, run):
            started = time.monotonic()
            data, seconds = train(config, run)
            start = time.process_time()
            with CheckerPool(config.maths.checker) as pool:
                found = judge(config, run, data, pool)
            seconds["judging"] = round(time.process_time() - start, 1)
            rows.append({"seed": seed, "seconds": seconds, "clock": round(time.monotonic() - started, 1)} | found)
            print(json.dumps(rows[-1]), flush=True)
    write_results(arguments.results, rows)


if __name__ == "__main__":
    main()
