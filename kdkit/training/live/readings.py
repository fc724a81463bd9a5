"""What a dashboard shows: the figures of one training so far, and the learning curves of the run's other ones."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kdkit.runs.curves import LABELS, gap_closed_so_far, read_curves, teacher_level
from kdkit.runs.folder import Run
from kdkit.training.live.drawing import COLOURS, Chart, Line, colours_of

TEACHER = "teacher"
"""The one training that is not drawn with the others: what it learns is the dashed line."""
PARTS = {
    "loss": "whole loss",
    "ce_loss": "cross-entropy",
    "kd_loss": "divergence from the teacher",
    "balance_loss": "balance of the experts",
}
"""Labels of a loss and its parts; another part is named as it is."""
AGREEMENT = {
    "overlap_share": "share of most likely tokens in common",
    "overlap_teacher_mass": "teacher's probability of these",
    "overlap_student_mass": "student's probability of these",
}
GREY = COLOURS[-1]


@dataclass
class Readings:
    """Figures of one training by their names, and points of learning curves by the training's name."""

    run: Run
    phase: str
    quantity: str
    """What the learning curves measure."""
    unit: str
    """Of what is read: tokens, sentences."""
    series: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    curves: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    shares: list[list[float]] | None = None
    """Mean weight of every expert, `[num_layers, num_experts]`, where the teacher is routed."""
    level: float | None = None
    """The teacher's, on what the curves are measured on."""
    _seconds: float = 0.0

    def read(self) -> None:
        """Begin with what the run's files hold, of a training that was stopped too."""
        self.series, self.shares, self._seconds = {}, None, 0.0
        for line in self.run.read_metrics():
            if line.get("phase") == self.phase:
                self.add(line["step"], line.get("seconds", self._seconds), line)
        self.curves = {}
        for name, points in read_curves(self.run).items():
            if (name == TEACHER) == (self.phase == TEACHER):
                for step, value in points:
                    self.measure(step, value, name)
        self.level = teacher_level(self.run) if self.phase != TEACHER else None

    def add(self, step: int, seconds: float, values: Mapping[str, Any]) -> None:
        """Add a line of metrics.

        Args:
            seconds: of training so far.
            values: figures by their names; what was read since the line before stands under `unit`.
        """
        for name, value in values.items():
            is_shown = name in ("loss", "learning_rate") or name in AGREEMENT or name.endswith("_loss")
            if is_shown and math.isfinite(value):
                self.series.setdefault(name, []).append((step, value))
        if self.unit in values:
            if seconds > self._seconds:
                self.series.setdefault("rate", []).append((step, values[self.unit] / (seconds - self._seconds)))
            self._seconds = seconds

    def measure(self, step: int, value: float, phase: str = "") -> None:
        """Add a point to a training's learning curve, this one's where none is named; only numbers are kept."""
        if math.isfinite(value):
            self.curves.setdefault(phase or self.phase, []).append((step, value))

    def last(self, name: str) -> float | None:
        """Return the last value of a figure; None: it has none yet."""
        return self.series[name][-1][1] if name in self.series else None

    def charts(self) -> list[Chart]:
        """Return the charts that have something to show."""
        groups = [
            ("Loss and its parts", self._losses(), False),
            ("Agreement with the teacher", {name: AGREEMENT[name] for name in AGREEMENT if name in self.series}, True),
            ("Learning rate", {"learning_rate": ""}, True),
            (f"{self.unit.capitalize()} per second", {"rate": ""}, True),
        ]
        charts = []
        for title, labels, from_zero in groups:
            colours = colours_of(labels)
            lines = [Line(labels[name], self.series[name], colours[name]) for name in labels if name in self.series]
            charts += [Chart(title, lines, from_zero=from_zero)] if lines else []
        curves = self._curves()
        return charts[:1] + ([curves] if curves else []) + charts[1:]

    def _losses(self) -> dict[str, str]:
        """Return the labels of the loss and its parts; the only part is the loss itself."""
        parts = [name for name in self.series if name.endswith("_loss")]
        names = ["loss", *parts] if len(parts) > 1 else parts or ["loss"]
        return {name: PARTS.get(name, name.removesuffix("_loss").replace("_", " ")) for name in names}

    def _curves(self) -> Chart | None:
        if not self.curves:
            return None
        colours = colours_of(self.curves)
        lines = [Line(LABELS.get(name, name), points, colours[name]) for name, points in self.curves.items()]
        level = Line("teacher", [(0, self.level)], GREY) if self.level is not None else None
        closed = gap_closed_so_far(self.curves, self.level)
        title = self.quantity[0].upper() + self.quantity[1:]
        return Chart(title, lines, level, marks=True, note=f"gap closed {closed[1]:.2f}" if closed else "")
