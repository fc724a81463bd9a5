"""Throughput and memory of training a language model without a teacher, against a bare loop of transformers and torch.

    OMP_NUM_THREADS=1 python -m benchmarks.minillm_throughput [--rounds 5] [--batch 4] [--steps 7]

The seed's model (vocabulary 30,000, width 384, six layers and heads, feed-forward 1,536, length 512, dropout 0.1) from
the same weights on the same random tokens; AdamW (fused), cosine, gradients clipped to norm 1. Each kind is a process
of its own, the kinds take turns, and a ratio is the median over the rounds of ratios within a round. Time is processor
time. Two kinds between tell where a difference is: the bare loop with kdkit's chunked loss, and transformers' Trainer.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments, get_scheduler, set_seed

from benchmarks.divergence_memory import call
from benchmarks.measure import measure, print_row, row, write_results
from benchmarks.step_times import StepTimes
from kdkit.config.language import TrainConfig
from kdkit.data.batches import WindowCollator
from kdkit.data.windows import Windows
from kdkit.losses.chunked.engine import chunked_loss, cross_entropy_chunk, even_chunks, rows_per_chunk
from kdkit.machine.hardware import Hardware
from kdkit.models.heads import find_head, last_hidden_state
from kdkit.training.arguments import make_training_arguments
from kdkit.training.trainer import LanguageModelTrainer

RESULTS = Path(__file__).parent / "results" / "minillm_throughput.json"
VOCABULARY, LENGTH, DROPPED = 30_000, 512, 2
BARE, CHUNKED, TRAINER, OURS = "bare loop", "bare loop, chunked loss", "transformers.Trainer", "kdkit"
LossOf = Callable[[LlamaForCausalLM, torch.Tensor], torch.Tensor]


def make_model() -> LlamaForCausalLM:
    """Build the seed's model, always the same."""
    set_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=384,
            num_hidden_layers=6,
            num_attention_heads=6,
            intermediate_size=1536,
            max_position_embeddings=LENGTH,
            attention_dropout=0.1,
            pad_token_id=0,
        )
    ).train()


def make_sequences(count: int) -> np.ndarray:
    """Draw random tokens, int32, `[count, LENGTH]`."""
    return np.random.default_rng(0).integers(5, VOCABULARY, (count, LENGTH)).astype(np.int32)


def plain_loss(model: LlamaForCausalLM, ids: torch.Tensor) -> torch.Tensor:
    """Return transformers' own cross-entropy."""
    return model(input_ids=ids, labels=ids, use_cache=False).loss


def loss_in_chunks(model: LlamaForCausalLM, ids: torch.Tensor) -> torch.Tensor:
    """Return cross-entropy without all logits at once."""
    head, hidden = find_head_once(model), last_hidden_state(model, ids)[:, :-1].flatten(0, 1)
    weights = torch.full((len(hidden),), 1.0 / len(hidden))
    chunks = even_chunks(len(hidden), rows_per_chunk(VOCABULARY, ids.device))
    return chunked_loss(hidden, head, cross_entropy_chunk(ids[:, 1:].flatten(), weights), chunks)[0]


def find_head_once(model: LlamaForCausalLM, found: dict[int, Any] = {}) -> Any:  # noqa: B006 - a cache
    """Return a model's head, checked when it is asked for first."""
    if id(model) not in found:
        found[id(model)] = find_head(model, VOCABULARY)
    return found[id(model)]


def run_bare(loss_of: LossOf, batch: int, steps: int) -> tuple[list[float], list[float]]:
    """Train with a loop as one writes it; return processor seconds and losses of the steps."""
    model, ids = make_model(), torch.from_numpy(make_sequences(batch * steps).astype(np.int64))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01, fused=True)
    scheduler = get_scheduler("cosine", optimizer, num_warmup_steps=20, num_training_steps=steps)
    seconds, losses = [], []
    for part in ids.split(batch):
        start = time.process_time()
        loss = loss_of(model, part)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        seconds.append(time.process_time() - start)
    return seconds, losses


class Ids(torch.utils.data.Dataset):
    """Sequences as transformers' Trainer reads them."""

    def __init__(self, ids: np.ndarray):
        self.ids = torch.from_numpy(ids.astype(np.int64))

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.ids[row], "labels": self.ids[row]}


def run_trainer(ours: bool, batch: int, steps: int) -> tuple[list[float], list[float]]:
    """Train with `LanguageModelTrainer` or transformers' own; return processor seconds and losses of the steps."""
    sizes = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": 1}
    train = TrainConfig(**sizes, learning_rate=1e-3, log_every=1, save_every=10**6)
    times, model, ids = StepTimes(), make_model(), make_sequences(batch * steps)
    with tempfile.TemporaryDirectory() as folder:
        hardware = Hardware("cpu", "cpu", "fp32", "cpu", "benchmark")
        arguments = make_training_arguments(train, hardware, Path(folder), max_steps=steps, seed=0)
        trainer = _make_trainer(ours, model, arguments, ids)
        trainer.add_callback(times)
        trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return times.processor_seconds(), losses


def _make_trainer(ours: bool, model: LlamaForCausalLM, arguments: TrainingArguments, ids: np.ndarray) -> Trainer:
    """Make one of the two trainers."""
    if not ours:
        return Trainer(model, arguments, train_dataset=Ids(ids))
    positions = np.tile(np.arange(LENGTH, dtype=np.int32), (len(ids), 1))
    windows = Windows(ids, ids, positions, np.ones(ids.shape, dtype=bool), np.full(len(ids), LENGTH))
    return LanguageModelTrainer(model, arguments, WindowCollator(windows), VOCABULARY, order=list(range(len(ids))))


def run_kind(kind: str, batch: int, steps: int) -> dict[str, Any]:
    """Train a kind for a few steps and return its row."""
    torch.set_num_threads(1)
    with measure() as found:
        if kind in (BARE, CHUNKED):
            seconds, losses = run_bare(plain_loss if kind == BARE else loss_in_chunks, batch, steps)
        else:
            seconds, losses = run_trainer(kind == OURS, batch, steps)
    timed = seconds[DROPPED:]
    return row(
        kind,
        found,
        cpu_seconds_per_step=round(statistics.median(timed), 4),
        tokens_per_cpu_second=round(batch * LENGTH / statistics.median(timed), 1),
        timed_steps=len(timed),
        batch=batch,
        first_loss=round(losses[0], 4),
        last_loss=round(losses[-1], 4),
    )


def main() -> None:
    """Run all kinds in turns and print their ratios to the bare loop."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=7, help=f"of a process; the first {DROPPED} are not counted")
    parser.add_argument("--one", default="", help="run this kind only")
    arguments = parser.parse_args()
    if arguments.one:
        print_row(run_kind(arguments.one, arguments.batch, arguments.steps))
        return
    shared = ["--batch", str(arguments.batch), "--steps", str(arguments.steps)]
    commands = [
        [sys.executable, "-m", "benchmarks.minillm_throughput", *shared, "--one", kind]
        for kind in (BARE, CHUNKED, TRAINER, OURS)
    ]
    rounds = [[call(command) for command in commands] for _ in range(arguments.rounds)]
    base = [found[0] for found in rounds]
    write_results(RESULTS, [_summarise(list(runs), base) for runs in zip(*rounds, strict=True)])


def _summarise(runs: list[dict[str, Any]], base: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the run of the median speed, with the median and the range of ratios to the bare loop's runs."""
    middle = sorted(runs, key=lambda values: values["cpu_seconds_per_step"])[len(runs) // 2]
    pairs = list(zip(runs, base, strict=True))
    speeds = [mine["tokens_per_cpu_second"] / its["tokens_per_cpu_second"] for mine, its in pairs]
    memory = [mine["peak_mb"] / its["peak_mb"] for mine, its in pairs]
    return middle | {
        "speed / bare loop": round(statistics.median(speeds), 4),
        "speeds": f"{min(speeds):.3f} to {max(speeds):.3f}",
        "memory / bare loop": round(statistics.median(memory), 4),
        "memories": f"{min(memory):.3f} to {max(memory):.3f}",
        "rounds": len(runs),
    }


if __name__ == "__main__":
    main()
