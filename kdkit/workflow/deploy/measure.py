"""An exported model beside the one that it was made from: size, speed, bits per byte, difference of logits."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel

from kdkit.models.generation import Sampling, generate_ids
from kdkit.models.loading import context_length
from kdkit.models.reading import ModelReader, Reader
from kdkit.training.scoring import score_windows
from kdkit.workflow.deploy.text import RunText, made_up_rows

ROUNDS = 5
"""How often each speed is taken, in turns with torch; the fastest counts: other work on a machine only slows."""
CLOCK = time.perf_counter
"""Wall time: what a user waits. A benchmark on a busy machine takes processor time, of one thread."""
PROMPT, WRITTEN = 16, 64
"""Tokens that are read before, and tokens that are written, one at a time with keys and values kept."""
READ = 4, 128
"""Sequences that are read at once, and their tokens."""
COMPARED = 2
"""Of these sequences, those whose logits are compared."""

Write = Callable[[list[list[int]], Sampling], Any]
"""Writes after prompts, always to the end."""


@dataclass(frozen=True)
class Opened:
    """A model that can be measured."""

    reader: Reader
    num_bytes: int
    """Of its weights on the disk."""
    write: Write | None
    """None: nothing here can write with it."""
    reads_here: bool = True
    """Whether the reader is what will run it; else its weights were only looked at, and the speed says nothing."""


def open_torch(model: PreTrainedModel, vocab_size: int, num_bytes: int, reads_here: bool = True) -> Opened:
    """Return a model of transformers, in fp32 or with weights of few bits, ready to be measured."""
    write = _writes(model, vocab_size) if reads_here else None
    return Opened(ModelReader(model, vocab_size), num_bytes, write, reads_here)


def open_generating(model: PreTrainedModel, reader: Reader, num_bytes: int) -> Opened:
    """Return what writes as a model of transformers does, and reads by itself."""
    return Opened(reader, num_bytes, _writes(model, reader.vocab_size))


def _writes(model: PreTrainedModel, vocab_size: int) -> Write:
    def write(prompts: list[list[int]], sampling: Sampling) -> None:
        generate_ids(model, prompts, sampling, [], vocab_size=vocab_size)

    return write


@torch.no_grad()
def measure(full: PreTrainedModel, full_bytes: int, other: Opened, text: RunText | None) -> dict[str, Any]:
    """Measure an exported model beside the full one, in one run.

    Args:
        full: in fp32, on the CPU.
        full_bytes: of its parameters in fp32.
        text: to judge on; None: bits per byte stay unknown, and speeds are taken on ids that mean nothing.

    Returns:
        `bytes` and `share` (of fp32); `written_per_second`, `read_per_second` (tokens), each also with `torch_` before
        it, None where nobody runs it here; `bits_per_byte`, `full_bits_per_byte`, `largest_logit_difference`,
        `threads`.
    """
    torch_model = open_torch(full, other.reader.vocab_size, full_bytes)
    count, length = READ
    context = context_length(full.config) or length
    rows = made_up_rows(other.reader.vocab_size, count, min(length, context))
    rows = rows if text is None else text.rows(count, min(length, context))
    logits = [_read(each.reader, rows[:COMPARED]) for each in (torch_model, other)]
    row = {
        "bytes": other.num_bytes,
        "share": other.num_bytes / full_bytes,
        "largest_logit_difference": float((logits[0] - logits[1]).abs().max()),
        "bits_per_byte": None,
        "full_bits_per_byte": None,
        "threads": torch.get_num_threads(),
    }
    if text is not None:
        row |= {"bits_per_byte": judge(other.reader, text), "full_bits_per_byte": judge(torch_model.reader, text)}
    return row | _speeds(torch_model, other, rows, context)


def judge(reader: PreTrainedModel | Reader, text: RunText) -> float:
    """Return bits per byte on a run's held-out text."""
    return score_windows(reader, text.held_out, text.side, text.config.evaluate.batch_size).bits_per_byte


def _read(reader: Reader, rows: torch.Tensor) -> torch.Tensor:
    """Return all logits of some sequences, `[B * S, V]`."""
    return reader.read(rows)(torch.arange(rows.numel()))


def _speeds(full: Opened, other: Opened, rows: torch.Tensor, context: int) -> dict[str, float | None]:
    """Take both speeds of both models, in turns."""
    prompt = rows[:1, : min(PROMPT, max(1, context // 2))].tolist()
    sampling = Sampling(temperature=0.0, max_new_tokens=min(WRITTEN, context - len(prompt[0])))
    works: dict[str, tuple[int, Callable[[], Any]]] = {}
    for start, each in (("torch_", full), ("", other)):
        if other.reads_here:
            works[f"{start}read_per_second"] = rows.numel(), partial(_read, each.reader, rows)
        if other.write is not None:
            works[f"{start}written_per_second"] = sampling.max_new_tokens, partial(each.write, prompt, sampling)
    fastest = dict.fromkeys(works, float("inf"))
    for _ in range(ROUNDS):
        for name, (_, work) in works.items():
            start = CLOCK()
            work()
            fastest[name] = min(fastest[name], CLOCK() - start)
    names = [f"{start}{kind}_per_second" for start in ("", "torch_") for kind in ("written", "read")]
    return {name: works[name][0] / fastest[name] if name in works else None for name in names}
