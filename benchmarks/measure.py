"""Time and memory of a piece of code, the divergence problem, and results as JSON and as a table.

Memory is resident memory (RSS) of this process above its value at the start, in MB of 2**20 bytes, so each
measurement wants a process of its own. It is the larger of two readings: RSS sampled every 2 ms, and the
high-water mark `ru_maxrss`, which the kernel keeps exactly; `peak_by` says which of the two was larger.
"""

import ctypes
import gc
import json
import os
import platform
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import torch

PEERS = ("trl", "sentence-transformers", "liger-kernel", "unsloth")
PACKAGES = ("kdkit", "torch", "transformers", "accelerate", "numpy", *PEERS)
MB = 2**20
SAMPLE_SECONDS = 0.002
WARM_UP_TOKENS = 64


@dataclass
class Measurement:
    """What `measure` found; filled when its block ends."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    """Processor time of all threads: nearly the same when other processes take part of the processor."""
    peak_mb: float = 0.0
    peak_by: str = ""
    """`sampled` or `ru_maxrss`."""


@contextmanager
def measure() -> Iterator[Measurement]:
    """Measure the seconds and the peak memory above the start of a `with` block (Linux)."""
    result = Measurement()
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # or freed memory counts as present at the start
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again here
    peaks = [_rss()]
    stop = threading.Event()
    sampler = threading.Thread(target=_sample, args=(peaks, stop), daemon=True)
    start_rss, start_mark = _rss(), _high_water_mark()
    sampler.start()
    start, start_cpu = time.perf_counter(), time.process_time()
    try:
        yield result
    finally:
        result.seconds, result.cpu_seconds = time.perf_counter() - start, time.process_time() - start_cpu
        stop.set()
        sampler.join()
        sampled, mark = peaks[0], _high_water_mark()
        if mark <= start_mark:  # an older peak was higher, so the mark says nothing about this block
            mark = 0
        result.peak_mb = (max(sampled, mark) - start_rss) / MB
        result.peak_by = "ru_maxrss" if mark > sampled else "sampled"


def _sample(peaks: list[int], stop: threading.Event) -> None:
    while not stop.wait(SAMPLE_SECONDS):
        peaks[0] = max(peaks[0], _rss())


def _rss() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _high_water_mark() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Problem(NamedTuple):
    """Hidden states and output heads of a student and a teacher over one vocabulary."""

    student_hidden: torch.Tensor
    """fp32, tokens x student width, requires grad."""
    student_head: torch.Tensor
    """fp32, vocabulary x student width, requires grad."""
    teacher_hidden: torch.Tensor | None
    """fp32, tokens x teacher width; None where its answers are known."""
    teacher_head: torch.Tensor | None
    """fp32, vocabulary x teacher width."""

    def first(self, tokens: int) -> "Problem":
        """Take the first tokens, with gradients of their own."""
        return Problem(
            self.student_hidden.detach()[:tokens].clone().requires_grad_(),
            self.student_head.detach().requires_grad_(),
            None if self.teacher_hidden is None else self.teacher_hidden[:tokens].clone(),
            self.teacher_head,
        )


def problem(
    seed: int = 0, tokens: int = 4096, vocabulary: int = 49152, student_width: int = 576, teacher_width: int = 1024
) -> Problem:
    """Make a random problem: hidden states from N(0, 1), heads from N(0, 0.05), so logits of about 1.2 and 1.6."""
    torch.manual_seed(seed)
    return Problem(
        torch.randn(tokens, student_width).requires_grad_(),
        torch.randn(vocabulary, student_width).mul_(0.05).requires_grad_(),
        torch.randn(tokens, teacher_width),
        torch.randn(vocabulary, teacher_width).mul_(0.05),
    )


def measure_divergence(
    name: str, divergence: Callable[[Problem], torch.Tensor], whole: Problem | None = None
) -> dict[str, Any]:
    """Measure forward and backward of a divergence, after a warm-up on a few tokens.

    Args:
        name: what the row is called.
        divergence: from a problem to KL(teacher || student), the mean over the tokens, a scalar to backpropagate.
        whole: None: `problem()`.

    Returns:
        A row for `print_row` and `write_results`: the loss and the norms of its two gradients are in it.
    """
    whole = whole or problem()
    divergence(whole.first(WARM_UP_TOKENS)).backward()
    whole.student_hidden.grad = whole.student_head.grad = None
    with measure() as found:
        loss = divergence(whole)
        loss.backward()
    norms = {
        f"{side}_gradient": tensor.grad.norm().item() if tensor.grad is not None else 0.0
        for side, tensor in (("hidden", whole.student_hidden), ("head", whole.student_head))
    }
    return row(name, found, loss=loss.item(), **norms)


def row(name: str, found: Measurement, **values: Any) -> dict[str, Any]:
    """Make a row of results from a measurement, further values and the versions."""
    return {
        "name": name,
        "seconds": round(found.seconds, 3),
        "cpu_seconds": round(found.cpu_seconds, 3),
        "peak_mb": round(found.peak_mb, 1),
        "peak_by": found.peak_by,
        **values,
        "versions": versions(),
    }


def print_row(values: dict[str, Any]) -> None:
    """Print a row as one line of JSON, for the script that started this one."""
    print(json.dumps(values), flush=True)


def versions() -> dict[str, Any]:
    """Collect the versions of Python and of the installed packages, the platform and the number of threads."""
    found = {"python": platform.python_version(), "platform": platform.platform(), "threads": torch.get_num_threads()}
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def write_results(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows with the command and the versions as JSON, and print them as a table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps({"command": [Path(word).name for word in sys.argv], "versions": versions(), "rows": rows}, indent=1)
    )
    print_table(rows)


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print rows as a table: a column per key, without the versions."""
    columns = list(dict.fromkeys(key for values in rows for key in values if key != "versions"))
    table = [columns, *[[_cell(values.get(column, "")) for column in columns] for values in rows]]
    widths = [max(len(line[column]) for line in table) for column in range(len(columns))]
    for line in table:
        print(line[0].ljust(widths[0]) + "".join(f"  {line[i]:>{widths[i]}}" for i in range(1, len(line))))


def _cell(value: Any) -> str:
    return f"{value:,.3f}" if isinstance(value, float) else str(value)
