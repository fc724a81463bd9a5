"""Micro-batches that do not fit in memory: halved, with the same optimizer step made of more of them."""

import gc
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from kdkit.data.batches import WindowCollator, counted_rows
from kdkit.errors import UserError

PARTS_OF_BATCH_FILE = "micro_batch.json"
"""In a checkpoint: into how many parts every micro-batch is cut."""
_WORDS = ("out of memory", "not enough memory", "can't allocate memory", "ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory was not enough: a GPU's, or the CPU's allocator in its own words."""
    said = isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)
    return said or isinstance(error, torch.OutOfMemoryError)


def free_memory() -> None:
    """Let go of what a failed step has left behind; call it outside the `except`, which holds its tensors."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def even_parts(count: int, parts: int) -> list[list[int]]:
    """Cut a number of sequences into parts of about as many each, none of them empty; return the places in each."""
    ends = [round(number * count / parts) for number in range(parts + 1)]
    return [list(range(start, end)) for start, end in pairwise(ends) if start < end]


def cut_batch(batch: dict[str, Any], collate: WindowCollator, parts: Sequence[list[int]]) -> list[dict[str, Any]]:
    """Cut a micro-batch into parts.

    Args:
        batch: of this collator; what was hidden of its tokens stays hidden.
        parts: places of the sequences in each.
    """
    cut = []
    for places in parts:
        part = collate([batch["windows"][place] for place in places])
        width = part["input_ids"].shape[1]
        for name in ("labels", "masked_input_ids"):
            if name in batch:
                part[name] = batch[name][places, :width]
        if "spans" in part:
            part["counted"] = counted_rows(part["labels"].cpu(), part["spans"])
        cut.append(part)
    return cut


def too_large(batch_size: int, accumulation: int, said: str, why: str) -> UserError:
    """Return what to read and do where a micro-batch does not fit and cannot be cut.

    Args:
        said: by whoever had no memory.
        why: it is not cut here.
    """
    if batch_size > 1:
        remedy = f"set train.batch_size={batch_size // 2} train.gradient_accumulation_steps={2 * accumulation}"
    else:
        remedy = "set train.gradient_checkpointing=true, or lower data.max_length"
    return UserError(
        f"train.batch_size: expected a micro-batch that fits in memory, got {batch_size} ({said}) and {why}; {remedy}"
    )


def too_many_tokens(tokens: int, longest: int, said: str, why: str) -> UserError:
    """Return what to read and do where a micro-batch of `train.micro_batch_tokens` does not fit and cannot be cut.

    Args:
        longest: tokens of a sequence at most.
        said: by whoever had no memory.
        why: it is not cut here.
    """
    remedy = f"set train.micro_batch_tokens={max(tokens // 2, longest)}"
    if tokens == longest or "single" in why:
        remedy = "set train.gradient_checkpointing=true, or lower data.max_length"
    return UserError(
        f"train.micro_batch_tokens: expected a micro-batch that fits in memory, got {tokens} tokens ({said}) and "
        f"{why}; {remedy}"
    )


def save_parts(folder: Path, parts: int) -> None:
    """Keep in a checkpoint into how many parts micro-batches are cut."""
    (folder / PARTS_OF_BATCH_FILE).write_text(json.dumps({"parts": parts}))


def load_parts(folder: Path) -> int:
    """Return what `save_parts` has kept; 1: they are whole."""
    file = folder / PARTS_OF_BATCH_FILE
    return int(json.loads(file.read_text())["parts"]) if file.is_file() else 1
