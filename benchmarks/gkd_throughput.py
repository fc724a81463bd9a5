"""Training throughput and memory against TRL's GKDTrainer: same models, same sequences, same loss.

    python -m benchmarks.gkd_throughput --trl PYTHON        (needs KDKIT_TEST_DATA)

Random Llama student (192 x 4) and teacher (384 x 6), vocabulary 49,152, batch 4, length 256, forward KL, fp32. Each
side is a process of its own; kdkit runs before and after TRL, and the slower of its two runs counts.
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
from kdkit.teachers.online import OnlineTeacher

RESULTS = Path(__file__).parent / "results" / "gkd_throughput.json"


def kdkit_row() -> dict[str, Any]:
    """Train for a few steps with kdkit."""
    student, teacher = make_models()
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
    step = statistics.median(times.seconds()[DROPPED_STEPS - 1 :])
    return row(
        "kdkit",
        found,
        seconds_per_step=round(step, 3),
        tokens_per_second=round(BATCH * LENGTH / step, 1),
        timed_steps=len(times.seconds()[DROPPED_STEPS - 1 :]),
        first_loss=losses[0],
        last_loss=losses[-1],
    )


def main() -> None:
    """Run both sides and print their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trl", default="", help="a Python that has trl==1.16.0")
    parser.add_argument("--one", action="store_true", help="run kdkit's side only and print its row")
    arguments = parser.parse_args()
    if arguments.one:
        print_row(kdkit_row())
        return
    ours = [sys.executable, "-m", "benchmarks.gkd_throughput", "--one"]
    rows = [call(ours)]
    if arguments.trl:
        rows += [call([arguments.trl, "-m", "benchmarks.peers.trl_gkd"]), call(ours)]
        slower = max(rows[0], rows[2], key=lambda values: values["seconds_per_step"])
        for values in rows:
            values["tokens/s of TRL"] = values["tokens_per_second"] / rows[1]["tokens_per_second"]
            values["memory of TRL"] = values["peak_mb"] / rows[1]["peak_mb"]
        print(f"kdkit / TRL: tokens per second {slower['tokens/s of TRL']:.2f}, memory {slower['memory of TRL']:.2f}")
    write_results(RESULTS, rows)


if __name__ == "__main__":
    main()
