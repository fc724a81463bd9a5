"""Where the student is taught, and how strongly: its capacity and its gap to the teacher, measured, not predicted.

Capacity is the loss that the student itself expects: the entropy of its prediction. Where it is low, the student copes,
and the teacher is not asked (Tavor et al. 2026, "SE-KD", arXiv:2602.01395). The gap is the divergence that is being
trained; the larger it is, the more its position counts. What is large is decided by the step before, so a position's
weight does not depend on the batch that it stands in.
"""

from typing import Any

import torch

from kdkit.alignment.spans import Spans
from kdkit.config.teacher import RouterConfig
from kdkit.losses.chunked.engine import even_chunks, log_softmax_, rows_per_chunk
from kdkit.losses.closed_forms import LOWEST
from kdkit.losses.cross_entropy import IGNORE_INDEX
from kdkit.teachers.online import StudentRows

MAX_RATIO = 16.0
"""A gap counts for at most this many times the mean, and for at least one such part of it."""


class Emphasis:
    """Spans at which the teacher is asked, and factors of their weights that are 1 on average."""

    def __init__(self, settings: RouterConfig):
        """Begin with a teacher that is asked everywhere, and everywhere alike: nothing is measured yet."""
        self.ask_share = settings.ask_share if settings.uses("capacity") else 1.0
        self.gap_power = settings.gap_power if settings.uses("gap") else 0.0
        self.threshold = -torch.inf
        """Entropy, nats, above which the teacher is asked: the quantile of the last step."""
        self.mean_gap = 0.0
        """Of the last step; 0: nothing measured."""
        self.mean_power = 1.0
        """Mean of the last step's ratios to the mean gap, raised to the power."""
        self.asked = torch.empty(0, dtype=torch.bool)
        """bool, `[N]`: the spans of the last batch at which the teacher is asked; on the CPU."""
        self._entropies: list[torch.Tensor] = []
        self._gaps: list[torch.Tensor] = []
        self._sums = torch.zeros(2)

    def begin_step(self) -> dict[str, float]:
        """Let the step that is over decide about the next one; return its figures, see `RoutedTeacher.describe`."""
        figures = {}
        if self._entropies and (entropies := torch.cat(self._entropies)).numel():
            figures["asked"] = (entropies > self.threshold).float().mean().item()
            figures["entropy"] = entropies.mean().item()
            kept = min(len(entropies), max(1, round(self.ask_share * len(entropies))))
            below = len(entropies) - kept
            quantile = entropies.kthvalue(below).values if below else entropies.new_tensor(-torch.inf)
            self.threshold = _mean_over_processes(quantile)
        if self._gaps and (gaps := torch.cat(self._gaps)).numel():
            figures["signal_moved"] = moved(self.factors_of(gaps))
            self.mean_gap = _mean_over_processes(gaps.mean())
            figures["loss_gap"] = self.mean_gap
            self.mean_power = _mean_over_processes(self._powers(gaps).mean())
        self._entropies, self._gaps = [], []
        return figures

    def ask(self, student: StudentRows, spans: Spans) -> None:
        """Decide at which spans of a batch the teacher is asked."""
        self._sums = torch.zeros(2)
        starts = spans.student_starts[:-1]
        self.asked = torch.ones(len(starts), dtype=torch.bool)
        if self.ask_share == 1.0:
            return
        entropies = student_entropy(student, starts)
        self._entropies.append(entropies[(student.targets != IGNORE_INDEX)[starts.to(student.targets.device)]])
        self.asked = (entropies > self.threshold).cpu()

    def factors(self, gaps: torch.Tensor) -> torch.Tensor:
        """Return what the weight of some positions is multiplied by, given their divergence, `[positions]`."""
        gaps = gaps.detach()
        factors = self.factors_of(gaps)
        if self.gap_power != 0.0:
            self._gaps.append(gaps)
            self._sums = self._sums.to(gaps.device) + torch.stack([(factors * gaps).sum(), gaps.sum()])
        return factors

    def factors_of(self, gaps: torch.Tensor) -> torch.Tensor:
        """Return the same and remember nothing."""
        if self.mean_gap <= 0.0 or self.gap_power == 0.0:
            return torch.ones_like(gaps)
        return self._powers(gaps) / self.mean_power

    @property
    def shift(self) -> torch.Tensor:
        """Weighted over unweighted sum of the last batch's divergences: what the factors made of the teacher's term."""
        weighted, plain = self._sums
        return torch.where(plain > 0.0, weighted / plain.clamp(min=1e-30), 1.0)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed training needs: the last step is not over until the next one begins."""
        return {
            "threshold": self.threshold,
            "mean_gap": self.mean_gap,
            "mean_power": self.mean_power,
            "entropies": self._entropies,
            "gaps": self._gaps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.threshold, self.mean_gap = state["threshold"], state["mean_gap"]
        self.mean_power = state["mean_power"]
        self._entropies, self._gaps = list(state["entropies"]), list(state["gaps"])

    def _powers(self, gaps: torch.Tensor) -> torch.Tensor:
        return (gaps / self.mean_gap).clamp(1.0 / MAX_RATIO, MAX_RATIO) ** self.gap_power


@torch.no_grad()
def student_entropy(student: StudentRows, rows: torch.Tensor) -> torch.Tensor:
    """Return the entropy of the student's predictions at some of its rows, nats, fp32, `[rows]`."""
    rows = rows.to(student.hidden.device)
    parts = []
    for chunk in even_chunks(len(rows), rows_per_chunk(student.head.vocab_size, rows.device)):
        logits = student.head.logits(student.hidden.index_select(0, rows[chunk]))
        log_softmax_(logits)
        parts.append(-(logits.exp() * logits.clamp(min=LOWEST)).sum(dim=-1))  # 0 * -inf is not 0
    return torch.cat(parts) if parts else student.hidden.new_zeros(0, dtype=torch.float32)


def moved(factors: torch.Tensor) -> float:
    """Return the share of the teacher's signal that factors move from some positions to others."""
    return (factors / factors.mean() - 1.0).abs().mean().item() / 2.0


def _mean_over_processes(value: torch.Tensor) -> float:
    """Average a scalar over all processes."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        value = value.clone()
        torch.distributed.all_reduce(value)
        value /= torch.distributed.get_world_size()
    return value.item()
