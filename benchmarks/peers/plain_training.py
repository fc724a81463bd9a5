"""Training without a teacher by transformers, kdkit and Unsloth; prints one line of JSON.

    python -m benchmarks.peers.plain_training KIND --folder FOLDER [--steps 6]     (unsloth==2026.10.9, KDKIT_TEST_DATA)

The random student of benchmarks/peers/gkd_problem.py (vocabulary 49,152, width 192, four layers), batch 4, length 256,
fp32, AdamW, on Tiny Shakespeare. transformers and Unsloth in a bare loop; kdkit by its trainer. Unsloth loads the
folder with `FastLanguageModel`; on a CPU it takes its own path, which says what it does: "chunked CE = True". Its
default, gradient checkpointing, is a kind of its own.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

UNSLOTH = {"Unsloth": False, "Unsloth, its checkpointing": "unsloth"}
if __name__ == "__main__":  # it must be imported before transformers, and patches it
    KIND = argparse.ArgumentParser(add_help=False)
    KIND.add_argument("kind", nargs="?")
    if KIND.parse_known_args()[0].kind in UNSLOTH:
        import unsloth  # noqa: F401

import numpy as np
import torch
from transformers import LlamaForCausalLM

from benchmarks.measure import measure, print_row, row
from benchmarks.peers.gkd_problem import BATCH, LENGTH, VOCABULARY, load_tokenizer, make_models, make_sequences
from benchmarks.step_times import StepTimes
from kdkit.config.language import TrainConfig
from kdkit.data.batches import WindowCollator
from kdkit.data.windows import Windows
from kdkit.machine.hardware import Hardware
from kdkit.training.arguments import make_training_arguments
from kdkit.training.trainer import LanguageModelTrainer

DROPPED, LEARNING_RATE = 2, 1e-3
Times = tuple[list[float], list[float]]
"""Processor seconds and losses of the steps."""


def load(kind: str, folder: Path) -> LlamaForCausalLM:
    """Load the student as a user of the library does."""
    if kind not in UNSLOTH:
        return LlamaForCausalLM.from_pretrained(folder).train()
    from unsloth import FastLanguageModel

    model, _ = FastLanguageModel.from_pretrained(
        str(folder),
        max_seq_length=LENGTH,
        dtype=torch.float32,
        load_in_4bit=False,
        full_finetuning=True,
        use_gradient_checkpointing=UNSLOTH[kind],
        device_map="cpu",
    )
    return model.train()


def run_bare(model: LlamaForCausalLM, ids: np.ndarray) -> Times:
    """Train in a loop as one writes it."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01, fused=True)
    seconds, losses = [], []
    for part in torch.from_numpy(ids).split(BATCH):
        start = time.process_time()
        loss = model(input_ids=part, labels=part, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        seconds.append(time.process_time() - start)
    return seconds, losses


def run_kdkit(model: LlamaForCausalLM, ids: np.ndarray) -> Times:
    """Train with kdkit's trainer."""
    sizes = {"per_device_train_batch_size": BATCH, "gradient_accumulation_steps": 1, "warmup_steps": 0}
    settings = {"learning_rate": LEARNING_RATE, "lr_schedule": "constant", "log_every": 1, "save_every": 10**6}
    train, ids = TrainConfig(**sizes, **settings), ids.astype(np.int32)
    positions = np.tile(np.arange(LENGTH, dtype=np.int32), (len(ids), 1))
    windows = Windows(ids, ids, positions, np.ones(ids.shape, dtype=bool), np.full(len(ids), LENGTH))
    times = StepTimes()
    with tempfile.TemporaryDirectory() as folder:
        hardware = Hardware("cpu", "cpu", "fp32", "cpu", "benchmark")
        steps = len(ids) // BATCH
        arguments = make_training_arguments(train, hardware, Path(folder), max_steps=steps, seed=0)
        order = list(range(len(ids)))
        trainer = LanguageModelTrainer(model, arguments, WindowCollator(windows), VOCABULARY, order=order)
        trainer.add_callback(times)
        trainer.train()
    return times.processor_seconds(), [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def main() -> None:
    """Train for a few steps and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["transformers", "kdkit", *UNSLOTH])
    parser.add_argument("--folder", type=Path, required=True, help="for the model, which is shared")
    parser.add_argument("--steps", type=int, default=6)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder = arguments.folder / "plain_model"
    if not folder.is_dir():
        make_models()[0].save_pretrained(folder)
        load_tokenizer().save_pretrained(folder)
    model, ids = load(arguments.kind, folder), make_sequences(BATCH * arguments.steps)
    run: Callable[[Any, np.ndarray], Times] = run_kdkit if arguments.kind == "kdkit" else run_bare
    with measure() as found:
        seconds, losses = run(model, ids)
    median = statistics.median(seconds[DROPPED:])
    figures = {"cpu_seconds_per_step": round(median, 4), "first_loss": losses[0], "last_loss": losses[-1]}
    print_row(row(arguments.kind, found, tokens_per_cpu_second=round(BATCH * LENGTH / median, 1), **figures))


if __name__ == "__main__":
    main()
