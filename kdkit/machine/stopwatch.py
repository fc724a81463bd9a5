"""A stopwatch for parts of a training, which adds no waiting on a GPU."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Stopwatch:
    """Adds up the seconds that a part of a program takes on a device."""

    def __init__(self, device: torch.device):
        """Start at 0."""
        self.device = device
        self._seconds = 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the time of a `with` block."""
        if self.device.type != "cuda":
            start = time.perf_counter()
            try:
                yield
            finally:
                self._seconds += time.perf_counter() - start
            return
        stream = torch.cuda.current_stream(self.device)
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record(stream)
        try:
            yield
        finally:
            last.record(stream)
            self._events.append((first, last))

    def seconds(self) -> float:
        """Return the sum; waits for a GPU to finish what was timed."""
        for first, last in self._events:
            last.synchronize()
            self._seconds += first.elapsed_time(last) / 1e3
        self._events = []
        return self._seconds
