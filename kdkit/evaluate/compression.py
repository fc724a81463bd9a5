"""What a model costs: parameters, bytes, speed and memory."""

import sys
import time

import torch
from transformers import PreTrainedModel

from kdkit.data.batches import Side
from kdkit.data.windows import Windows
from kdkit.losses.cross_entropy import IGNORE_INDEX
from kdkit.machine.memory import memory_in_use, read_peak, start_peak
from kdkit.models.heads import autocast
from kdkit.training.scoring import iterate_batches


def count_parameters(model: PreTrainedModel) -> int:
    """Count parameters; tied weights count once."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_bytes(model: PreTrainedModel) -> int:
    """Sum the bytes of parameters and buffers as they lie in memory."""
    tensors = [*model.parameters(), *model.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def measure_speed(
    model: PreTrainedModel, windows: Windows, side: Side, batch_size: int, autocast_dtype: torch.dtype | None = None
) -> dict[str, float]:
    """Time forward passes over windows, after one pass to warm up.

    Returns:
        `tokens_per_second` in the model's own tokens, and `bytes_per_second` of text, which compares
        models whose tokenizers differ.
    """
    batches = list(iterate_batches(windows, side, batch_size))
    forward(model, batches[0]["input_ids"], autocast_dtype)
    _synchronize(model)
    start = time.perf_counter()
    for batch in batches:
        forward(model, batch["input_ids"], autocast_dtype)
    _synchronize(model)
    seconds = time.perf_counter() - start
    tokens = sum(int((batch["labels"] != IGNORE_INDEX).sum()) for batch in batches)
    return {"tokens_per_second": tokens / seconds, "bytes_per_second": float(windows.num_bytes.sum()) / seconds}


def measure_peak_memory(
    model: PreTrainedModel, windows: Windows, side: Side, batch_size: int, autocast_dtype: torch.dtype | None = None
) -> int | None:
    """Return the bytes that the weights and the forward pass of one batch occupy at their peak.

    On a GPU: allocated memory. On Linux without one: the growth of the process's resident memory
    during the pass, plus the weights; None on other systems.
    """
    batch = next(iter(iterate_batches(windows, side, batch_size)))
    if model.device.type != "cuda" and not sys.platform.startswith("linux"):
        return None
    start_peak(model.device)
    before = memory_in_use(model.device)
    forward(model, batch["input_ids"], autocast_dtype)
    return max(0, read_peak(model.device) - before) + count_bytes(model)


@torch.no_grad()
def forward(model: PreTrainedModel, input_ids: torch.Tensor, autocast_dtype: torch.dtype | None) -> None:
    """Run one forward pass and drop its result."""
    with autocast(model, autocast_dtype):
        model(input_ids=input_ids.to(model.device))


def _synchronize(model: PreTrainedModel) -> None:
    """Wait for the GPU, so that a clock read next is true."""
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
