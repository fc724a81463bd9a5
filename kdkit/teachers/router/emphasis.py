"""How strongly a student is taught at each place: by its capacity and its gap to the teacher, measured, not predicted.

Capacity is the student's own loss on the text: where it is low, the student copes. The gap is the divergence that is
being trained. A place's weight is its capacity and its gap, each over the mean and to a power; both means are those of
the step before, so the weight of a place does not depend on the batch that it stands in.
"""

from typing import Any

import torch
from torch import distributed

from kdkit.alignment.spans import Spans
from kdkit.config.teacher import RouterConfig
from kdkit.losses.chunked.engine import even_chunks, log_softmax_, rows_per_chunk
from kdkit.losses.cross_entropy import IGNORE_INDEX
from kdkit.teachers.online import StudentRows

MAX_RATIO = 16.0
"""A measured value counts for at most this many times the mean, and for at least one such part of it."""


class Ratios:
    """Values over their mean, to a power; over a step they are 1 on average, by the means of the step before."""

    def __init__(self, power: float):
        """Begin with ratios of 1: nothing is measured yet."""
        self.power = power
        self.mean = 0.0
        """Of the values of the last step; 0: nothing measured."""
        self.mean_power = 1.0
        """Mean of what the last step's values became."""
        self.seen: list[tuple[torch.Tensor, torch.Tensor]] = []
        """Values of the step so far, and their weights, `[places]` each."""

    def of(self, values: torch.Tensor) -> torch.Tensor:
        """Return the ratios of some values, `[places]`."""
        return self._raise(values) / self.mean_power if self.power and self.mean else torch.ones_like(values)

    def take(self, values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Return the ratios, and remember the values for the next step."""
        if self.power:
            self.seen.append((values, weights))
        return self.of(values)

    def begin_step(self) -> tuple[float, float] | None:
        """Go over to the means of the step that ends; return its mean and `moved`, None where nothing was seen."""
        if not self.seen:
            return None
        values, weights = (torch.cat(parts) for parts in zip(*self.seen, strict=True))
        self.seen = []
        if not len(values):
            return None
        share = moved(self.of(values), weights)
        self.mean = _mean(values, weights)
        self.mean_power = _mean(self._raise(values), weights)
        return self.mean, share

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed training needs: the last step is not over until the next one begins."""
        return {"mean": self.mean, "mean_power": self.mean_power, "seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.mean, self.mean_power, self.seen = state["mean"], state["mean_power"], list(state["seen"])

    def _raise(self, values: torch.Tensor) -> torch.Tensor:
        return (values / max(self.mean, 1e-12)).clamp(1.0 / MAX_RATIO, MAX_RATIO) ** self.power


class Emphasis:
    """Weights of the places at which the teacher is queried."""

    def __init__(self, settings: RouterConfig):
        """Begin with places that count alike."""
        self.capacity = Ratios(settings.capacity_power if settings.uses("capacity") else 0.0)
        self.gap = Ratios(settings.gap_power if settings.uses("gap") else 0.0)
        self.term = torch.zeros(())
        """The teacher's term of the last batch as it stands in the loss."""
        self._losses = torch.zeros(0)

    def begin_step(self) -> dict[str, float]:
        """Let the step that ends decide about the next one; return its figures, see `RoutedTeacher.describe`."""
        figures = {}
        for name, ratios in (("capacity", self.capacity), ("gap", self.gap)):
            if (found := ratios.begin_step()) is not None:
                figures[f"{name}_mean"], figures[f"{name}_moved"] = found
        return figures

    def look(self, student: StudentRows, spans: Spans) -> None:
        """Measure the student's loss at the places of a batch."""
        self.term = torch.zeros((), device=student.targets.device)
        if self.capacity.power:
            self._losses = student_loss(student, spans.student_starts[:-1].to(student.targets.device))

    def weigh(self, weights: torch.Tensor, spans: torch.Tensor) -> torch.Tensor:
        """Return the weights of some spans with the student's capacity in them.

        Args:
            weights: fp32, `[queried_spans]`.
            spans: int64, `[queried_spans]`: of the batch that was looked at.
        """
        if not self.capacity.power:
            return weights
        return weights * self.capacity.take(self._losses[spans.to(weights.device)], weights)

    def gate(self, gaps: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Return the weights of some places whose divergence is known, with the gap in them, `[places]`."""
        gaps = gaps.detach()
        gated = weights * self.gap.take(gaps, weights)
        self.term = self.term + (gated * gaps).sum()
        return gated

    def state_dict(self) -> dict[str, Any]:
        """Return the state of both."""
        return {"capacity": self.capacity.state_dict(), "gap": self.gap.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.capacity.load_state_dict(state["capacity"])
        self.gap.load_state_dict(state["gap"])


@torch.no_grad()
def student_loss(student: StudentRows, rows: torch.Tensor) -> torch.Tensor:
    """Return the student's cross-entropy at some of its rows, nats, fp32, `[rows]`; 0 for rows in no loss."""
    parts = []
    for chunk in even_chunks(len(rows), rows_per_chunk(student.head.vocab_size, rows.device)):
        logprobs = student.head.logits(student.hidden.index_select(0, rows[chunk]))
        log_softmax_(logprobs)
        targets = student.targets[rows[chunk], None]
        losses = -logprobs.gather(1, targets.clamp(min=0))
        parts.append(losses.masked_fill_(targets == IGNORE_INDEX, 0.0).squeeze(1))
    return torch.cat(parts) if parts else torch.zeros(0, device=rows.device)


def moved(ratios: torch.Tensor, weights: torch.Tensor) -> float:
    """Return the share of the teacher's signal that ratios move from some places to others, 0 to 1."""
    before, after = weights / weights.sum(), weights * ratios / (weights * ratios).sum()
    return (after - before).abs().sum().item() / 2.0


def _mean(values: torch.Tensor, weights: torch.Tensor) -> float:
    """Average values over a step, all processes included."""
    sums = torch.stack([(values * weights).sum(), weights.sum()])
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(sums)
    return (sums[0] / sums[1].clamp(min=1e-30)).item()
