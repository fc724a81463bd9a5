"""Two processes beside one: training on two cores, and the teacher's answers in two shards beside one build.

    python -m benchmarks.processes [--rounds 3] [--steps 40] [--folder .cache/processes]

Training: the quick start's student from a cache (no teacher in the loop), in one process with two threads and a batch
of 32, and in two processes (gloo) with one thread and a batch of 16 each: the same global batch. Answers: its teacher
on all training sequences, in one process with one thread, then the two halves at once. The arms take turns, since
others may use the processor, and the load is noted. Two measures: wall time, of a busy machine a lottery, and the
processor seconds of all threads and processes, which say what two processes cost beside the work itself. Imports, data
and the first five steps are not in them; the teacher is trained for 20 steps only, since what it says is no matter.
"""

import argparse
import multiprocessing
import os
import socket
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from benchmarks.measure import write_results
from kdkit.data.prepare import prepare_data
from kdkit.distill.open_teacher import build_cache, open_teacher
from kdkit.distill.plan import TrainingPlan, plan_training
from kdkit.distill.student import make_student
from kdkit.distill.train import make_trainer
from kdkit.machine.open_session import open_session
from kdkit.runs.store import Shard

ROOT = Path(__file__).resolve().parents[1]
CONFIG = str(ROOT / "configs" / "quick.yaml")
RESULT = ROOT / "benchmarks" / "results" / "processes.json"
WARM = 5
"""Steps that are not counted."""


class Clock(TrainerCallback):
    """Counts the steps behind the first ones."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin behind the first steps."""
        if state.global_step == WARM:
            self.begin = time.perf_counter(), time.process_time()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End behind the last one."""
        self.seconds = time.perf_counter() - self.begin[0], time.process_time() - self.begin[1]


def make_plan(folder: Path, name: str, *changes: str) -> TrainingPlan:
    """Open a run of this process alone."""
    overrides = [
        f"cache_dir={folder / 'cache'}",
        "teacher.build.max_steps=20",
        "train.evaluate_every=100000",
        "train.log_every=1000",
        "train.wandb=disabled",
        "distill.start_from_teacher=false",
        "cache.enabled=true",
        "cache.sequences=all",
        "cache.samples_per_chunk=64",
        *changes,
    ]
    session = open_session(CONFIG, overrides, name, folder / "runs")
    return plan_training(session, prepare_data(session))


def train(rank: int, size: int, port: int, folder: Path, steps: int, results: Any) -> None:
    """Train a student, as one of `size` processes with two threads in all."""
    torch.set_num_threads(2 // size)
    if size > 1:
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_WORLD_SIZE": str(size)}
        os.environ |= address | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
    changes = f"train.batch_size={32 // size}", f"train.max_steps={steps + WARM}"
    plan = make_plan(folder, f"train-{size}-{rank}-{steps}", *changes)
    student = make_student(plan.session.config, plan.data)
    trainer = make_trainer(plan, plan.stages[0], student, open_teacher(plan))
    trainer.add_callback(clock := Clock())
    trainer.train()
    results.put(clock.seconds)


def answer(rank: int, size: int, port: int, folder: Path, number: int, results: Any) -> None:
    """Build a cache, or a shard of one, with one thread."""
    torch.set_num_threads(1)
    plan = make_plan(folder, f"answer-{size}-{rank}-{number}", f"cache.file={folder / f'{size}-{number}.h5'}")
    begin = time.perf_counter(), time.process_time()
    build_cache(plan, None if size == 1 else Shard(rank + 1, size))
    results.put((time.perf_counter() - begin[0], time.process_time() - begin[1]))


def measure(work: Any, size: int, folder: Path, number: int) -> tuple[float, float]:
    """Let some processes work at once; return the wall seconds of the slowest, and the processor seconds of all."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.processes"])
    results = context.SimpleQueue()
    processes = [
        context.Process(target=work, args=(rank, size, port, folder, number, results), daemon=True)
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    found = [results.get() for _ in processes]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    return max(wall for wall, _ in found), sum(processor for _, processor in found)


def main() -> None:
    """Measure, print and write the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--folder", type=Path, default=ROOT / ".cache" / "processes")
    options = parser.parse_args()
    folder, stamp, rows = options.folder.resolve(), int(time.time()), []
    measure(train, 1, folder, 1)  # makes data, teacher and cache
    for number in range(options.rounds):
        load = round(os.getloadavg()[0], 1)
        steps = {size: measure(train, size, folder, options.steps) for size in (1, 2)}
        built = {size: measure(answer, size, folder, stamp + number) for size in (1, 2)}
        row = {
            "round": number + 1,
            "load": load,
            "training, wall": round(steps[1][0] / steps[2][0], 3),
            "training, processor": round(steps[1][1] / steps[2][1], 3),
            "answers, wall": round(built[1][0] / (2 * built[2][0]), 3),
            "answers, processor": round(built[1][1] / built[2][1], 3),
            "seconds": {"steps": steps, "answers": built},
        }
        rows.append(row)
        print(row, flush=True)
    ratios = [name for name in rows[0] if "," in name]
    rows.append({"round": "median"} | {name: statistics.median(row[name] for row in rows) for name in ratios})
    write_results(RESULT, rows)


if __name__ == "__main__":
    main()
