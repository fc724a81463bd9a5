"""How far student and teacher agree on what comes next, beside the loss: shared top-k tokens, and their entropies.

Where a student drifts from its teacher these show it earlier than the loss does: the share of the most likely tokens
that both have, how much probability each gives to those, and whether the student is surer of itself than the teacher.

Source: the overlap diagnostics of on-policy distillation in verl.
"""

from dataclasses import dataclass

import torch

from kdkit.losses.chunked.engine import Head, to_device
from kdkit.losses.chunked.events import EventPair
from kdkit.losses.chunked.signals import DenseSignals, Signals, SparseSignals
from kdkit.losses.sparse import at_temperature

NAMES = ("overlap_share", "overlap_teacher_mass", "overlap_student_mass", "overlap_entropy_gap")
"""Values of `top_k_overlap`, as metrics.jsonl has them."""
MAX_ROWS = 128
"""Rows of a batch that are looked at; a share that differs by 0.2 from row to row is then known to 0.02."""


def top_k_overlap(student: torch.Tensor, teacher: torch.Tensor, top_k: int) -> torch.Tensor:
    """Compare whole distributions, row by row.

    Args:
        student: fp32, `[rows, E]`: log-probabilities of events (tokens, with one tokenizer).
        teacher: fp32, `[rows, E]`: of the same events.
        top_k: size of the sets that are compared; at most E.

    Returns:
        fp32, `[rows, 4]`, see `NAMES`: the share of the teacher's `top_k` most likely events among the student's; the
        teacher's probability of the shared ones; the student's; and the student's entropy less the teacher's, in nats.
    """
    expected = teacher.topk(top_k, dim=-1).indices
    gap = entropy(student) - entropy(teacher)
    return _compare(student, teacher.gather(-1, expected), expected, top_k, gap)


def sparse_overlap(
    student: torch.Tensor, ids: torch.Tensor, kept: torch.Tensor, rest: torch.Tensor, top_k: int
) -> torch.Tensor:
    """Compare with the kept events of a cache; entropies are over these and one outcome for all others.

    Args:
        student: fp32, `[rows, E]`: log-probabilities of events.
        ids: int64, `[rows, K]`: the teacher's most likely events, in any order.
        kept: fp32, `[rows, K]`: their log-probabilities; -inf for places that are not used.
        rest: fp32, `[rows, 1]`: log of the probability of all others.
        top_k: size of the sets that are compared; at most K.

    Returns:
        As `top_k_overlap`.
    """
    best = kept.topk(top_k, dim=-1)
    used = kept > -torch.inf
    mine = student.gather(-1, ids).masked_fill(~used, -torch.inf)
    others = torch.log1p(-mine.exp().sum(dim=-1, keepdim=True).clamp(max=1.0))
    gap = entropy(torch.cat([mine, others], dim=-1)) - entropy(torch.cat([kept, rest], dim=-1))
    return _compare(student, best.values, ids.gather(-1, best.indices), top_k, gap)


def _compare(
    student: torch.Tensor, teacher_top: torch.Tensor, expected: torch.Tensor, top_k: int, gap: torch.Tensor
) -> torch.Tensor:
    """Return the four values from the teacher's top-k events, `[rows, k]`, and their log-probabilities."""
    best = student.topk(top_k, dim=-1).indices
    is_shared = (expected[:, :, None] == best[:, None, :]).any(dim=-1) & (teacher_top > -torch.inf)
    share = is_shared.float().mean(dim=-1)
    theirs = (teacher_top.exp() * is_shared).sum(dim=-1)
    mine = (student.gather(-1, expected).exp() * is_shared).sum(dim=-1)
    return torch.stack([share, theirs, mine, gap], dim=-1)


def entropy(logprobs: torch.Tensor) -> torch.Tensor:
    """Return the entropy of distributions, in nats, `[rows]`; events with probability 0 add nothing."""
    return torch.special.entr(logprobs.exp()).sum(dim=-1)


@dataclass(frozen=True)
class OverlapMeter:
    """Measures the overlap in a training, for little: no gradient, few rows."""

    events: EventPair
    """The outcomes that both are compared on."""
    top_k: int
    """Size of the sets; fewer where there are fewer events, or where a cache keeps fewer."""

    @torch.no_grad()
    def measure(
        self,
        hidden: torch.Tensor,
        head: Head,
        passes: tuple[Signals, ...],
        places: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    ) -> dict[str, float]:
        """Compare at some places of a batch, at temperature 1.

        Args:
            hidden: `[student_rows, H]`: what the student's head reads.
            head: the student's.
            passes: the teacher's signals for the batch, one of each pass.
            places: int64, `[N]` each, on the CPU: spans, and the student's and the teacher's row that predicts their
                beginning.

        Returns:
            Means over places and passes, by `NAMES`; empty where signals hold no distribution, or there is no place.
        """
        passes = tuple(part for part in passes if isinstance(part, DenseSignals | SparseSignals))
        if not len(places[0]) or not passes:
            return {}
        chosen = torch.linspace(0, len(places[0]) - 1, min(MAX_ROWS, len(places[0]))).round().long()
        spans, rows, teacher_rows = (part[chosen] for part in places)
        # picked, not arranged: an arranged head is a copy, which the student's next step would leave behind
        columns = self.events.student.pick(head.logits(hidden.index_select(0, to_device(rows, hidden.device))))
        student, _ = self.events.student.softmax_(columns)
        values = [self._compare(student, part, spans, teacher_rows).mean(dim=0) for part in passes]
        return dict(zip(NAMES, torch.stack(values).mean(dim=0).tolist(), strict=True))

    def _compare(
        self, student: torch.Tensor, signals: Signals, spans: torch.Tensor, teacher_rows: torch.Tensor
    ) -> torch.Tensor:
        """Return the values of one pass, `[rows, 4]`."""
        if isinstance(signals, DenseSignals):
            teacher = signals.logprobs(to_device(teacher_rows, signals.device), self.events.teacher, 1.0)
            return top_k_overlap(student, teacher.to(student), min(self.top_k, self.events.size))
        assert isinstance(signals, SparseSignals)
        kept = signals.at(spans)
        at_one = at_temperature(kept.logprobs, kept.rest, kept.temperature, self.events.size)
        return sparse_overlap(student, kept.ids, *at_one, min(self.top_k, kept.ids.shape[1]))
