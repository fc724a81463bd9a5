"""Two processes beside one: training throughput on two cores, and the teacher's answers in two shards beside one build.

    python -m benchmarks.processes [--rounds 3] [--steps 120] [--folder .cache/processes]

Training: the quick start's student from a cache (no teacher in the loop), in one process with two threads and a batch
of 32, and in two processes (gloo) with one thread and a batch of 16 each: the same global batch. Answers: its teacher
on all training sequences, in one process with one thread, then the two halves at once. The arms take turns, since
others may use the processor, and the load is noted. Two measures: the wall time that the run itself notes (of a busy
machine a lottery), and processor seconds of all processes, less those of the same command with one step, or with
nothing to build.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import write_results

ROOT = Path(__file__).resolve().parents[1]
CONFIG = "configs/quick.yaml"
RESULT = ROOT / "benchmarks" / "results" / "processes.json"


@dataclass(frozen=True)
class Cost:
    """What some work took, in seconds."""

    wall: float
    processor: float


def train(folder: Path, processes: int, steps: int, number: int) -> Cost:
    """Train a student in some processes, two threads in all."""
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] * (processes > 1)
    name = f"train-{processes}-{number}"
    changes = [
        f"cache_dir={folder / 'cache'}",
        f"train.batch_size={32 // processes}",
        f"train.max_steps={steps}",
        "train.evaluate_every=100000",
        "train.wandb=disabled",
        "distill.start_from_teacher=false",
        "cache.enabled=true",
        "cache.sequences=all",
    ]
    words = [word for change in changes for word in ("-p", change)]
    command = [*launch, "-m", "kdkit", "distill", CONFIG, *words, "--name", name, "--runs-dir", str(folder / "runs")]
    processor = run([command], 2 // processes)
    entry = json.loads((folder / "runs" / name / "training.json").read_text())["student"]
    return Cost(entry["seconds"], processor)


def answer(folder: Path, shards: int, out: Path) -> Cost:
    """Build a cache in some processes at once, one thread each; the wall time is the slowest one's, without imports."""
    command = ["-m", "kdkit", "cache", "build", CONFIG, "-p", f"cache_dir={folder / 'cache'}"]
    command += ["-p", "cache.sequences=all", "-p", "cache.samples_per_chunk=64", "-p", "train.wandb=disabled"]
    command += ["--runs-dir", str(folder / "runs"), "--output", str(out)]
    parts = [[]] if shards == 1 else [["--shard", f"{i}/{shards}"] for i in range(1, shards + 1)]
    processor = run([[*command, *part] for part in parts], 1)
    files = [out] if shards == 1 else [out.with_name(f"{out.stem}.{i}-of-{shards}.h5") for i in range(1, shards + 1)]
    return Cost(max(json.loads(Path(f"{file}.cost.json").read_text())["seconds"] for file in files), processor)


def run(commands: list[list[str]], threads: int) -> float:
    """Execute commands of this Python at once; return the processor seconds of all that they started."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "cwd": ROOT, "env": environment}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for process in [subprocess.Popen([sys.executable, *words], **options) for words in commands]:
        out, _ = process.communicate()
        assert process.returncode == 0, out[-3000:]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure, print and write the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--folder", type=Path, default=ROOT / ".cache" / "processes")
    options = parser.parse_args()
    folder, stamp, rounds = options.folder, int(time.time()), []
    train(folder, 1, 1, stamp)  # makes data, teacher and cache
    overhead = {size: train(folder, size, 1, stamp + 1).processor for size in (1, 2)}
    for number in range(options.rounds):
        load = round(os.getloadavg()[0], 1)
        costs = {size: train(folder, size, options.steps, stamp + 2 + number) for size in (1, 2)}
        steps = {size: cost.processor - overhead[size] for size, cost in costs.items()}
        outs = {shards: folder / f"answers-{shards}-{stamp + number}.h5" for shards in (1, 2)}
        built = {shards: answer(folder, shards, out) for shards, out in outs.items()}
        again = {shards: answer(folder, shards, out).processor for shards, out in outs.items()}
        made = {shards: cost.processor - again[shards] for shards, cost in built.items()}
        row = {
            "load": load,
            "training_wall": {size: cost.wall for size, cost in costs.items()},
            "training_processor": {size: round(seconds, 2) for size, seconds in steps.items()},
            "training_throughput_wall": round(costs[1].wall / costs[2].wall, 3),
            "training_throughput_processor": round(steps[1] / steps[2], 3),
            "answers_wall": {shards: cost.wall for shards, cost in built.items()},
            "answers_processor": {shards: round(seconds, 2) for shards, seconds in made.items()},
            "answers_throughput_wall": round(built[1].wall / (2 * built[2].wall), 3),
            "answers_throughput_processor": round(made[1] / made[2], 3),
        }
        rounds.append(row)
        print(row, flush=True)
    throughputs = [name for name in rounds[0] if "throughput" in name]
    medians = {name: statistics.median(row[name] for row in rounds) for name in throughputs}
    rows = [{"round": number} | row for number, row in enumerate(rounds, start=1)] + [{"round": "median"} | medians]
    write_results(RESULT, rows)


if __name__ == "__main__":
    main()
