"""Dynamic batching: the sequences of an optimizer step, sorted by length and cut into micro-batches by their tokens.

Which sequences a step reads and what its loss is divided by stay as they are: only the padding becomes less.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol


class StepPart(Protocol):
    """Collates some sequences of a step, as `WindowCollator` does."""

    def lengths(self, rows: list[int]) -> list[int]:
        """Return the tokens of each sequence."""

    def __call__(self, rows: list[int]) -> dict[str, Any]:
        """Build a micro-batch."""


OVERHEAD = 1 / 8
"""What a micro-batch costs beside its tokens, as a share of a full one: with 0 there would be many small ones without
padding, with 1 the fewest, padded ones."""


def group_by_length(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Cut sequences into few micro-batches with little padding: the cut that costs least, see `OVERHEAD`.

    Args:
        lengths: tokens of each sequence.
        budget: tokens of a micro-batch at most, padding included; a sequence that is longer stands alone.

    Returns:
        Places of the sequences of each micro-batch, increasing; micro-batches in the order of their first sequences, so
        that the first one has not always the longest.
    """
    order = sorted(range(len(lengths)), key=lambda place: lengths[place])
    # of the shortest sequences up to each: the cost of the best cut, and where its last micro-batch starts
    best = [(0.0, 0)]
    for end in range(1, len(order) + 1):
        longest = lengths[order[end - 1]]
        most = max(1, budget // longest)
        starts = range(max(0, end - most), end)
        best.append(min((best[start][0] + longest * (end - start) + OVERHEAD * budget, start) for start in starts))
    groups, end = [], len(order)
    while end:
        start = best[end][1]
        groups.append(sorted(order[start:end]))
        end = start
    return sorted(groups)


def padded_size(lengths: Sequence[int], batch_size: int) -> int:
    """Return the tokens of micro-batches of so many sequences each, as they come, padding included."""
    batches = [lengths[start : start + batch_size] for start in range(0, len(lengths), batch_size)]
    return sum(len(batch) * max(batch) for batch in batches)


@dataclass(frozen=True)
class StepCollator:
    """Turns the row numbers of a whole optimizer step into its micro-batches."""

    collate: StepPart
    """Makes each of them."""
    budget: int
    """Tokens of one at most; see `group_by_length`."""
    batch_size: int
    """Sequences that one would have without this."""

    def __call__(self, rows: list[int]) -> dict[str, Any]:
        """Build a step: `micro_batches`, and `ungrouped`, the tokens that they would have without this."""
        lengths = self.collate.lengths(rows)
        groups = group_by_length(lengths, self.budget)
        return {
            "micro_batches": [self.collate([rows[place] for place in group]) for group in groups],
            "ungrouped": padded_size(lengths, self.batch_size),
        }
