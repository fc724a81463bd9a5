"""Training steps of TRL's `GKDTrainer` on the throughput problem; prints one line of JSON.

    python -m benchmarks.peers.trl_gkd [--gradient-checkpointing]      (needs trl==1.16.0 and KDKIT_TEST_DATA)

Forward KL (`beta=0`) on given text (`lmbda=0`), fp32, CPU. TRL's default, gradient checkpointing, is off unless asked
for: it costs time and saves next to nothing here, where the logits take the memory. A step is counted from the end of
one to the end of the next, so it includes making the batch; the first steps are dropped. Memory counts from both models
being there: gradients, optimizer, activations, logits. `seconds` is the whole training with its setup.
"""

import argparse
import os
import statistics
import tempfile
import time
from typing import Any

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from trl.experimental.gkd import GKDConfig, GKDTrainer

from benchmarks.measure import measure, print_row, row
from benchmarks.peers.gkd_problem import (
    BATCH,
    DROPPED_STEPS,
    LEARNING_RATE,
    LENGTH,
    STEPS,
    load_tokenizer,
    make_models,
    make_sequences,
)


class StepTimes(TrainerCallback):
    """When each step ended, in processor time of all threads."""

    def __init__(self):
        self.ends: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Note the time."""
        self.ends.append(time.process_time())


def main() -> None:
    """Train for a few steps and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gradient-checkpointing", action="store_true")
    checkpointing = parser.parse_args().gradient_checkpointing
    student, teacher = make_models()
    tokenizer = load_tokenizer()
    # the first token is the prompt that TRL asks for, so 255 tokens of 256 are predicted
    mask = [0] + [1] * (LENGTH - 1)
    examples = [{"prompt": "", "input_ids": ids, "completion_mask": mask} for ids in make_sequences().tolist()]
    times = StepTimes()
    with tempfile.TemporaryDirectory() as folder:
        settings = GKDConfig(
            output_dir=folder,
            lmbda=0.0,
            beta=0.0,
            temperature=1.0,
            max_length=LENGTH,
            per_device_train_batch_size=BATCH,
            max_steps=STEPS,
            learning_rate=LEARNING_RATE,
            gradient_checkpointing=checkpointing,
            bf16=False,
            use_cpu=True,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=0,
        )
        trainer = GKDTrainer(
            model=student,
            teacher_model=teacher,
            args=settings,
            train_dataset=Dataset.from_list(examples),
            processing_class=tokenizer,
            callbacks=[times],
        )
        trainer.remove_callback(PrinterCallback)
        with measure() as found:
            trainer.train()
    steps = [after - before for before, after in zip(times.ends[:-1], times.ends[1:], strict=True)]
    seconds = statistics.median(steps[DROPPED_STEPS - 1 :])
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    print_row(
        row(
            "trl_gkd_checkpointing" if checkpointing else "trl_gkd",
            found,
            cpu_seconds_per_step=round(seconds, 3),
            tokens_per_cpu_second=round(BATCH * LENGTH / seconds, 1),
            timed_steps=len(steps[DROPPED_STEPS - 1 :]),
            first_loss=losses[0],
            last_loss=losses[-1],
        )
    )


if __name__ == "__main__":
    main()
