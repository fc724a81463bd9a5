"""The devices that can be planned for: what they decide, how much they hold, how fast they are."""

import os
import time
from dataclasses import dataclass
from difflib import SequenceMatcher

import torch

from kdkit.config.embeddings import EmbeddingConfig
from kdkit.config.language import Config
from kdkit.errors import UserError
from kdkit.machine.hardware import DTYPES, PLANNED, Hardware, choose_hardware, find_hardware, read_cpu_bf16, read_cuda

NAMES = (*PLANNED, "auto")
MEASURED_WIDTH = {"cpu": 768, "cuda": 4096}
"""Width of the product by which a device is timed."""
CONTEXT = 450_000_000
"""Bytes that CUDA and cuBLAS take of every GPU before the first tensor: 0.3 to 0.5 GB by version and architecture."""
LIBRARIES = 600_000_000
"""Bytes of Python with torch and transformers in a process on a CPU, measured with torch 2.13 and transformers 5.24."""
WORKSPACE = 40_000_000
"""Bytes that transformers' Trainer, its threads and the kernels of a CPU take beside tensors: 5 to 55 MB by
`benchmarks/planner.py`. Of a GPU it is part of the context; the loop of embedding models has not shown it."""
BETWEEN_GPUS = 6e9
"""Bytes a second from one GPU to the other through the host, as on Kaggle's two T4."""


@dataclass(frozen=True)
class Speed:
    """How fast a device is; rough."""

    flops: float
    """Floating-point operations a second in the run's precision that a training reaches."""
    bandwidth: float
    """Bytes a second from and to its memory."""
    source: str
    """Where the numbers come from."""


PUBLISHED = {
    ("p100", "fp16"): Speed(0.5 * 9.3e12, 720e9, "half of the published 9.3 TFLOPS, in fp32: torch multiplies fp16 so"),
    ("p100", "fp32"): Speed(0.5 * 9.3e12, 720e9, "half of the published 9.3 TFLOPS"),
    ("t4", "fp16"): Speed(0.3 * 65e12, 320e9, "30 % of the published 65 TFLOPS of its tensor cores"),
    ("t4", "fp32"): Speed(0.5 * 8.1e12, 320e9, "half of the published 8.1 TFLOPS"),
}


@dataclass(frozen=True)
class Device:
    """A device to plan for."""

    name: str
    hardware: Hardware
    memory_bytes: int
    """Memory of the GPU, of each of two; of a CPU that of the machine."""
    note: str = ""
    """What was decided beside its name."""

    @property
    def base_bytes(self) -> int:
        """What is taken before the first tensor."""
        return LIBRARIES if self.hardware.device == "cpu" else CONTEXT

    @property
    def workspace_bytes(self) -> int:
        """What a training takes beside its tensors."""
        return WORKSPACE if self.hardware.device == "cpu" else 0

    def speed(self) -> Speed:
        """Return the published speed of a named GPU, or measure this machine's."""
        known = PUBLISHED.get((self.name.removesuffix("x2"), self.hardware.precision))
        return known or measure_speed(self.hardware)


def find_device(name: str, config: Config | EmbeddingConfig) -> Device:
    """Return the device of a name, decided by `choose_hardware` as in a run.

    Raises:
        UserError: no such device; a precision that it does not have.
    """
    if name not in NAMES:
        near = sorted(NAMES, key=lambda known: -SequenceMatcher(None, known, name).ratio())
        raise UserError(f"--device: expected {', '.join(near)}, got {name!r}; try --device {near[0]}")
    note = ""
    if name == "auto" and config.train.device == "cuda" and not read_cuda().names:
        name, note = "p100", "train.device is cuda and no GPU is here, so planned for one P100; others: --device t4"
    if name == "auto":
        hardware = find_hardware(config.train.device, config.train.precision)
        return Device(hardware.profile, hardware, hardware.memory_bytes or machine_memory())
    bf16 = read_cpu_bf16() if name == "cpu" else ""
    hardware = choose_hardware(PLANNED[name], "cpu" if name == "cpu" else "auto", config.train.precision, bf16)
    return Device(name, hardware, hardware.memory_bytes or machine_memory(), note)


def machine_memory() -> int:
    """Return the bytes of this machine's memory; those of Kaggle's where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 29_000_000_000


def measure_speed(hardware: Hardware) -> Speed:
    """Time a product and a copy on this machine, well below a second."""
    device = torch.device(hardware.device)
    width = MEASURED_WIDTH[device.type]
    left = torch.ones(width, width, dtype=DTYPES[hardware.precision], device=device)
    product = min(_seconds(lambda: (left @ left)[0, 0].item()) for _ in range(4))
    copy = min(_seconds(lambda: left.clone()[0, 0].item()) for _ in range(4))
    speed = 2 * width**3 / product
    words = f"70 % of the {speed / 1e9:,.0f} GFLOPS of a product of {width} x {width}, timed here"
    return Speed(0.7 * speed, 2 * left.nbytes / copy, words)


def _seconds(work: object) -> float:
    start = time.perf_counter()
    work()  # type: ignore[operator]
    return time.perf_counter() - start
