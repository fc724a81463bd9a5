"""Memory of this process: what it holds, and the most that it held since a moment. All in bytes."""

import contextlib
import ctypes
import gc
import sys
from pathlib import Path

import torch


def memory_in_use(device: torch.device, generation: int = 2) -> int:
    """Return what is held: torch's tensors on a GPU, else the process's resident set (0 where the system hides it).

    Garbage is collected first, and what was freed is given back to the system.

    Args:
        generation: the oldest that is collected; 1: what the last calls have left, in no time.
    """
    gc.collect(generation)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return torch.cuda.memory_allocated(device)
    _give_back()
    return _read_status("VmRSS")


def start_peak(device: torch.device, generation: int = 2) -> int:
    """Count the peak from now on; return what is held, as `memory_in_use` does."""
    held = memory_in_use(device, generation)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):  # a system without it counts from the start of the process
            Path("/proc/self/clear_refs").write_text("5")  # the peak (VmHWM) becomes the present size: man 5 proc
    return held


def read_peak(device: torch.device) -> int:
    """Return the most that was held since `start_peak`; see `memory_in_use`."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _read_status("VmHWM")


def _give_back() -> None:
    """Return to the system what malloc keeps of freed blocks, which would hide growth (glibc)."""
    if sys.platform.startswith("linux"):
        with contextlib.suppress(AttributeError):  # musl has no such call
            ctypes.CDLL(None).malloc_trim(0)


def _read_status(name: str) -> int:
    """Read one size of /proc/self/status in bytes; 0 where there is none."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), 0)
