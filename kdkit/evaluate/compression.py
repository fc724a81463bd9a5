"""What a model costs: parameters, bytes, speed and memory."""

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from kdkit.data.batches import Side
from kdkit.data.windows import Windows
from kdkit.evaluate.language import Interval
from kdkit.evaluate.significance import paired_t_test
from kdkit.losses.chunked.engine import even_chunks, rows_per_chunk
from kdkit.losses.cross_entropy import IGNORE_INDEX
from kdkit.machine.memory import read_peak, start_peak
from kdkit.models.heads import autocast
from kdkit.models.quantised.model import count_coded
from kdkit.models.reading import Reader
from kdkit.training.scoring import iterate_batches

SIZE_DTYPE = torch.float32
"""In which the sizes of models are compared, whatever dtype they are loaded in."""
SPEED_ROUNDS = 5
"""How often a speed is measured, which tells how far to trust it."""
GENERATED_TOKENS = 16


def count_parameters(model: PreTrainedModel) -> int:
    """Count parameters, those in 8 or 4 bits among them; tied weights count once."""
    return sum(parameter.numel() for parameter in model.parameters()) + count_coded(model)


def count_bytes(model: PreTrainedModel, dtype: torch.dtype | None = None) -> int:
    """Sum the bytes of parameters and buffers, as they lie in memory, or with all floating point numbers in `dtype`."""
    tensors = [*model.parameters(), *model.buffers()]
    sizes = [
        dtype.itemsize if dtype is not None and tensor.is_floating_point() else tensor.element_size()
        for tensor in tensors
    ]
    return sum(tensor.numel() * size for tensor, size in zip(tensors, sizes, strict=True))


def measure_speeds(
    models: Mapping[str, tuple[PreTrainedModel | Reader, Side]],
    windows: Windows,
    batch_size: int,
    autocast_dtype: torch.dtype | None = None,
) -> dict[str, dict[str, Any]]:
    """Time forward passes over windows without keys and values, in rounds that take the models in turn.

    Args:
        models: or readers, with whose tokens each one reads.

    Returns:
        Per model `tokens_per_second` in its own tokens, `bytes_per_second` of text, which compares models whose
        tokenizers differ, and the latter for each round: `bytes_per_second_by_round`.
    """
    batches = {name: list(iterate_batches(windows, side, batch_size)) for name, (_, side) in models.items()}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for name, (model, _) in models.items():  # the first pass pays for what the others share
        forward(model, batches[name][0]["input_ids"], autocast_dtype)
    for _ in range(SPEED_ROUNDS):
        for name, (model, _) in models.items():
            _synchronize(model.device)
            start = time.perf_counter()
            for batch in batches[name]:
                forward(model, batch["input_ids"], autocast_dtype)
            _synchronize(model.device)
            seconds[name].append(time.perf_counter() - start)
    num_bytes = float(windows.num_bytes.sum())
    return {
        name: {
            "tokens_per_second": SPEED_ROUNDS * _count_tokens(batches[name]) / sum(times),
            "bytes_per_second": SPEED_ROUNDS * num_bytes / sum(times),
            "bytes_per_second_by_round": [num_bytes / each for each in times],
        }
        for name, times in seconds.items()
    }


def compare_speeds(faster: Sequence[float], slower: Sequence[float]) -> Interval | None:
    """Return the 95 % interval of a ratio of speeds that were measured in the same rounds; None for one round."""
    ratios = [math.log(one / other) for one, other in zip(faster, slower, strict=True)]
    interval = paired_t_test(ratios).interval
    return None if interval is None else (math.exp(interval[0]), math.exp(interval[1]))


@torch.no_grad()
def measure_generation(
    model: PreTrainedModel, windows: Windows, side: Side, autocast_dtype: torch.dtype | None = None
) -> dict[str, float | None]:
    """Time how a model goes on with the first half of one window, with keys and values, after one go to warm up.

    Returns:
        `tokens_per_second`, `bytes_per_second` (as many bytes a token as the held-out text has) and
        `peak_memory_bytes`, weights included; see `measure_peak_memory`.
    """
    ids = next(iter(iterate_batches(windows, side, 1)))["input_ids"].to(model.device)

    def write(prompt: torch.Tensor, count: int) -> None:
        options = {"max_new_tokens": count, "min_new_tokens": count, "do_sample": False, "use_cache": True}
        with autocast(model, autocast_dtype):
            model.generate(prompt, attention_mask=torch.ones_like(prompt), pad_token_id=0, **options)

    return time_writing(write, ids, windows, side, model.device, count_bytes(model))


def time_writing(
    write: Callable[[torch.Tensor, int], None],
    ids: torch.Tensor,
    windows: Windows,
    side: Side,
    device: torch.device,
    weight_bytes: int | None,
) -> dict[str, float | None]:
    """Time whatever goes on with the first half of a window; see `measure_generation`.

    Args:
        write: takes a prompt, int64, `[1, S]`, and how many tokens to write.
        ids: int64, `[1, S]`: the window.
        weight_bytes: of the weights in memory; None: not known, and so is the peak.
    """
    prompt = ids[:, : max(1, ids.shape[1] // 2)]
    # a prompt and its continuation are no longer than a window, so they fit every model
    count = max(1, min(GENERATED_TOKENS, ids.shape[1] - prompt.shape[1]))
    write(prompt, count)
    _synchronize(device)
    start = time.perf_counter()
    write(prompt, count)
    _synchronize(device)
    speed = count / (time.perf_counter() - start)
    peak = _peak_of(device, weight_bytes, lambda: write(prompt, count))
    tokens = sum(_count_tokens([batch]) for batch in iterate_batches(windows, side, 8))
    bytes_per_token = float(windows.num_bytes.sum()) / max(tokens, 1)
    return {"tokens_per_second": speed, "bytes_per_second": speed * bytes_per_token, "peak_memory_bytes": peak}


def measure_peak_memory(
    model: PreTrainedModel | Reader,
    windows: Windows,
    side: Side,
    batch_size: int,
    autocast_dtype: torch.dtype | None = None,
    weight_bytes: int | None = None,
) -> int | None:
    """Return the bytes that the weights and the forward pass of one batch occupy at their peak.

    On a GPU: allocated memory. On Linux without one: the growth of the process's resident memory
    during the pass, plus the weights; None on other systems.

    Args:
        weight_bytes: of what is read with, where that is no model of transformers; None: not known, and so is the peak.
    """
    batch = next(iter(iterate_batches(windows, side, batch_size)))
    weight_bytes = weight_bytes if isinstance(model, Reader) else count_bytes(model)
    return _peak_of(model.device, weight_bytes, lambda: forward(model, batch["input_ids"], autocast_dtype))


def _peak_of(device: torch.device, weight_bytes: int | None, run: Callable[[], None]) -> int | None:
    """Return the bytes that the weights and a call occupy at their peak; see `measure_peak_memory`."""
    if weight_bytes is None or (device.type != "cuda" and not sys.platform.startswith("linux")):
        run()
        return None
    before = start_peak(device, generation=1)  # the models stay, and a whole collection takes half a second
    run()
    return max(0, read_peak(device) - before) + weight_bytes


@torch.no_grad()
def forward(model: PreTrainedModel | Reader, input_ids: torch.Tensor, autocast_dtype: torch.dtype | None) -> None:
    """Run one forward pass, which keeps no keys and values, and drop its result; a reader's chunk by chunk."""
    if isinstance(model, Reader):
        logits_of, rows = model.read(input_ids), torch.arange(input_ids.numel())
        for part in even_chunks(len(rows), rows_per_chunk(model.vocab_size, model.device)):
            logits_of(rows[part])
        return
    with autocast(model, autocast_dtype):
        model(input_ids=input_ids.to(model.device), use_cache=False)


def _count_tokens(batches: list[dict[str, torch.Tensor]]) -> int:
    return sum(int((batch["labels"] != IGNORE_INDEX).sum()) for batch in batches)


def _synchronize(device: torch.device) -> None:
    """Wait for the GPU, so that a clock read next is true."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
