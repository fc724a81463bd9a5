"""Order in which sequences are read, so that every pass reads each of them once, in however many processes."""

import math
import os
from collections.abc import Iterator

import numpy as np
import torch

PROCESSES = "KDKIT_PROCESSES"
"""Environment variable: how many processes train together, where this one is not one of them."""


def num_processes() -> int:
    """Return how many processes train together, as their launcher says: what a step reads is planned by it."""
    return int(os.environ.get("WORLD_SIZE") or os.environ.get(PROCESSES) or "1")


def shuffled_order(num_sequences: int, num_draws: int, seed: int) -> list[int]:
    """Return row numbers for a training: passes over all sequences, the last one cut short.

    Every pass is shuffled as accelerate's SeedableRandomSampler does it, so that a training reads in the order that it
    would have without this one.
    """
    order: list[int] = []
    for number in range(math.ceil(num_draws / num_sequences)):
        order += torch.randperm(num_sequences, generator=torch.Generator().manual_seed(seed + number)).tolist()
    return order[:num_draws]


class EvenBatches(torch.utils.data.BatchSampler):
    """Batches for several processes, which take them in turn: as many for each, and no sequence twice.

    accelerate fills the last round up with sequences that have been read already; here its sequences are shared out,
    so that some batches are smaller. Only where fewer are left than there are processes one must be read twice.
    """

    def __init__(self, sampler: torch.utils.data.Sampler[int], batch_size: int, num_processes: int):
        """Wrap a sampler; accelerate may replace it, in `sampler`, by one that is seeded alike in every process."""
        super().__init__(sampler, batch_size, drop_last=False)
        self.size, self.num_processes = batch_size, num_processes
        self.batch_size = None  # tells accelerate that the sizes differ

    def __len__(self) -> int:
        return math.ceil(len(self.sampler) / (self.size * self.num_processes)) * self.num_processes

    def __iter__(self) -> Iterator[list[int]]:
        rows = list(self.sampler)
        round_size = self.size * self.num_processes
        whole = len(rows) // round_size * round_size
        if 0 < len(rows) - whole < self.num_processes and whole and self.size > 1:
            whole -= round_size  # the last two rounds are shared out together
        for start in range(0, whole, self.size):
            yield rows[start : start + self.size]
        if not (rest := rows[whole:]):
            return
        num_batches = math.ceil(len(rest) / round_size) * self.num_processes
        rest += rows[: max(0, num_batches - len(rest))]
        while len(rest) < num_batches:
            rest += rest[: num_batches - len(rest)]
        yield from (part.tolist() for part in np.array_split(rest, num_batches))
