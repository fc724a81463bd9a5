"""Training throughput and memory against TRL's GKDTrainer: same models, same sequences, same loss.

    python -m benchmarks.gkd_throughput --trl PYTHON [--rounds 3]       (needs KDKIT_TEST_DATA)

Random Llama student (192 x 4) and teacher (384 x 6), vocabulary 49,152, batch 4, length 256, forward KL, fp32; kdkit
also with the teacher in bf16. Each side is a process of its own, the sides take turns, and a ratio is the median over
the rounds of ratios within a round. Time is processor time, which a busy machine changes little.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainingArguments

from benchmarks.divergence_memory import call
from benchmarks.measure import measure, print_row, row, write_results
from benchmarks.peers.gkd_problem import (
    BATCH,
    DROPPED_STEPS,
    LEARNING_RATE,
    LENGTH,
    STEPS,
    VOCABULARY,
    make_models,
    make_sequences,
)
from benchmarks.step_times import StepTimes
from kdkit.config.losses import ForwardKL
from kdkit.data.batches import WindowCollator
from kdkit.data.windows import Windows
from kdkit.distill.objective import Objective
from kdkit.distill.trainer import DistillationTrainer
from kdkit.losses.chunked.events import EventPair, TokenEvents
from kdkit.losses.measures import make_measure
from kdkit.machine.hardware import DTYPES
from kdkit.teachers.online import OnlineTeacher

RESULTS = Path(__file__).parent / "results" / "gkd_throughput.json"


def kdkit_row(precision: str) -> dict[str, Any]:
    """Train for a few steps with kdkit, the teacher in a precision."""
    student, teacher = make_models()
    teacher.to(DTYPES[precision])
    ids = make_sequences().astype(np.int32)
    positions = np.tile(np.arange(LENGTH, dtype=np.int32), (len(ids), 1))
    windows = Windows(ids, ids, positions, np.ones(ids.shape, dtype=bool), np.full(len(ids), LENGTH))
    events = EventPair(TokenEvents(), TokenEvents(), VOCABULARY, "tokens")
    objective = Objective(1.0, 1.0, VOCABULARY, events, make_measure(ForwardKL()))
    times = StepTimes()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=BATCH,
            max_steps=STEPS,
            learning_rate=LEARNING_RATE,
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
            remove_unused_columns=False,
            seed=0,
        )
        trainer = DistillationTrainer(
            student,
            OnlineTeacher(teacher, VOCABULARY),
            arguments,
            WindowCollator(windows, with_teacher=True),
            objective=objective,
            order=list(range(len(ids))),
        )
        trainer.add_callback(times)
        with measure() as found:
            trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    steps = times.processor_seconds()[DROPPED_STEPS - 1 :]
    return row(
        f"kdkit, teacher in {precision}",
        found,
        cpu_seconds_per_step=round(statistics.median(steps), 3),
        tokens_per_cpu_second=round(BATCH * LENGTH / statistics.median(steps), 1),
        timed_steps=len(steps),
        first_loss=losses[0],
        last_loss=losses[-1],
    )


def main() -> None:
    """Run both sides and print their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trl", default="", help="a Python that has trl==1.16.0")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", default="", help="run kdkit's side only, its teacher in this precision")
    arguments = parser.parse_args()
    if arguments.one:
        print_row(kdkit_row(arguments.one))
        return
    ours = [[sys.executable, "-m", "benchmarks.gkd_throughput", "--one", precision] for precision in ("fp32", "bf16")]
    commands = [[arguments.trl, "-m", "benchmarks.peers.trl_gkd"]] if arguments.trl else []
    rounds = [[call(command) for command in [*commands, *ours]] for _ in range(arguments.rounds)]
    write_results(
        RESULTS, [summarise(list(runs), [found[0] for found in rounds]) for runs in zip(*rounds, strict=True)]
    )


def summarise(runs: list[dict[str, Any]], base: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the run of the median speed, with the median and the range of ratios to the base's runs."""
    middle = sorted(runs, key=lambda values: values["cpu_seconds_per_step"])[len(runs) // 2]
    speeds = [
        mine["tokens_per_cpu_second"] / its["tokens_per_cpu_second"] for mine, its in zip(runs, base, strict=True)
    ]
    memory = [mine["peak_mb"] / its["peak_mb"] for mine, its in zip(runs, base, strict=True)]
    return middle | {
        f"speed / {base[0]['name']}": statistics.median(speeds),
        "speeds": f"{min(speeds):.2f} to {max(speeds):.2f}",
        f"memory / {base[0]['name']}": statistics.median(memory),
        "memories": f"{min(memory):.2f} to {max(memory):.2f}",
    }


if __name__ == "__main__":
    main()
