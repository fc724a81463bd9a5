"""Schedules of batch size and length: which sequences a step reads, how many at once, and in what pieces."""

import math
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any

import torch

from kdkit.config.recipe.settings import RecipeConfig
from kdkit.data.batches import WindowCollator
from kdkit.data.cutting import cut_windows
from kdkit.training.order import num_processes


@dataclass(frozen=True)
class BatchPlan:
    """What the steps of a training read; a step consists of equally many micro-batches, perhaps but for the last."""

    sizes: list[int]
    """Sequences of a micro-batch, of every optimizer step."""
    lengths: list[int]
    """Tokens of a sequence at most, of every optimizer step; 0: as long as it is."""
    micro_batches: int
    """Of a step, over all processes."""
    most: int | None = None
    """Sequences that are read in all, where passes are to be whole; null: as many as the steps can take."""

    @cached_property
    def batches(self) -> list[int]:
        """Return the sequences of every micro-batch; those behind `most` are taken off from the end.

        One process may leave out micro-batches of the last step; several take them in turn, so none may lack one.
        """
        batches = [size for size in self.sizes for _ in range(self.micro_batches)]
        surplus = 0 if self.most is None else max(0, sum(batches) - self.most)
        may_lack = len(batches) - self.micro_batches if num_processes() == 1 else len(batches)
        for place in reversed(range(len(batches))):
            taken = min(surplus, batches[place] - (place <= may_lack))
            batches[place] -= taken
            surplus -= taken
        return [size for size in batches if size]

    @cached_property
    def ends(self) -> list[int]:
        """Return how many sequences have been read at the end of every step."""
        read = list(accumulate(self.batches))
        return [*read[self.micro_batches - 1 : -1 : self.micro_batches], read[-1]]

    @property
    def num_sequences(self) -> int:
        """Return how many sequences are read."""
        return self.ends[-1]


def has_plan(train: RecipeConfig) -> bool:
    """Return whether sizes or lengths change in a training."""
    return bool(train.batch_schedule or train.length_schedule)


def plan_batches(train: RecipeConfig, steps: int, most: int | None = None) -> BatchPlan:
    """Plan the optimizer steps of a training.

    Args:
        most: sequences that it reads at most; None: those that the steps can take.
    """
    size = train.per_device_train_batch_size
    sizes = [value_at(train.batch_schedule, step / steps, size) for step in range(steps)]
    lengths = [value_at(train.length_schedule, step / steps, 0) for step in range(steps)]
    return BatchPlan(sizes, lengths, train.gradient_accumulation_steps * num_processes(), most)


def value_at(schedule: dict[float, int], share: float, otherwise: int) -> int:
    """Return what holds after a share of the steps.

    Args:
        schedule: values by the share from which they hold.
        otherwise: what holds where there is no schedule.
    """
    begun = [begin for begin in schedule if begin <= share]
    return schedule[max(begun)] if begun else otherwise


def sequences_per_step(train: RecipeConfig) -> float:
    """Return the training sequences of an optimizer step, of all processes, averaged over the steps of a training."""
    shares = [*sorted(train.batch_schedule), 1.0]
    mean = sum(train.batch_schedule[a] * (b - a) for a, b in pairwise(shares))
    return (mean or train.per_device_train_batch_size) * train.gradient_accumulation_steps * num_processes()


def steps_for(train: RecipeConfig, num_sequences: int) -> int:
    """Return the optimizer steps that read some sequences, the last one perhaps not whole."""
    steps = math.ceil(num_sequences / sequences_per_step(train))
    while plan_batches(train, steps).num_sequences < num_sequences:  # the shares of a schedule are rounded to steps
        steps += 1
    return steps


class PlannedRows(torch.utils.data.Dataset):
    """Row numbers of windows in the order of reading, each with the length at which its step reads."""

    def __init__(self, order: list[int], plan: BatchPlan):
        """Keep both; the order is as long as the plan."""
        self.order, self.plan = order, plan

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, place: int) -> tuple[int, int]:
        return self.order[place], self.plan.lengths[bisect_right(self.plan.ends, place)]


class PlannedBatches(torch.utils.data.Sampler[list[int]]):
    """Places in the order of reading, micro-batch by micro-batch; several processes take them in turn."""

    batch_size = None  # tells accelerate that the sizes differ
    drop_last = False

    def __init__(self, plan: BatchPlan):
        """Read by a plan."""
        self.plan = plan

    def __len__(self) -> int:
        return len(self.plan.batches)

    def __iter__(self) -> Iterator[list[int]]:
        start = 0
        for size in self.plan.batches:
            yield list(range(start, start + size))
            start += size


@dataclass(frozen=True)
class PieceCollator:
    """Collates what `PlannedRows` holds: whole windows, or pieces of them."""

    collate: WindowCollator | Any
    """What collates row numbers."""

    def __call__(self, items: list[tuple[int, int]]) -> dict[str, Any]:
        """Build a batch; see `WindowCollator`. All items of one have the same length."""
        rows, length = [row for row, _ in items], items[0][1]
        if not length:
            return self.collate(rows)
        pieces, origins = cut_windows(self.collate.windows.select(rows), length)
        batch = WindowCollator(pieces, self.collate.side, self.collate.with_teacher)(list(range(len(pieces))))
        return batch | {"windows": [rows[place] for place in origins]}
