"""Progress of a training: metrics.jsonl, a progress line when nobody watches, a dashboard when somebody does."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from kdkit.data.batches import Side
from kdkit.data.windows import Windows
from kdkit.machine.interrupt import StopRequest
from kdkit.machine.tracking.copies import TrainingCopy
from kdkit.runs.folder import Run
from kdkit.runs.messages import step_line
from kdkit.training.live.dashboard import Dashboard, watched
from kdkit.training.options.averaging import WeightAverage
from kdkit.training.scoring import score_windows
from kdkit.training.together import whole_model

NOTABLE_PADDING = 0.01
"""Share of padding from which on a line says it."""


@dataclass
class Curve:
    """Learning curve of one training: what it is measured on, and how often."""

    windows: Windows
    side: Side
    batch_size: int
    every: int
    """Optimizer steps between points."""
    autocast_dtype: torch.dtype | None = None


@dataclass
class Progress(TrainerCallback, ExportableState):
    """Record and show one phase of training (`teacher`, `student`, `baseline`, ...)."""

    run: Run
    phase: str
    curve: Curve
    total_steps: int = 0
    """Optimizer steps of all stages; 0: those of the only one."""
    first_step: int = 0
    """Optimizer steps of the stages before the one that runs."""
    seconds: float = 0.0
    """Wall time of the steps; the curve's own evaluations are not in it."""
    average: WeightAverage | None = None
    """Averaged weights of the model that is trained: points of the curve score them, too."""
    copy: TrainingCopy | None = None
    """Where the lines are copied to; None: nowhere."""
    dashboard: Dashboard | None = field(init=False, default=None)
    """Where a person watches; see `shown`."""
    routing: Callable[[], dict[str, Any]] | None = field(init=False, default=None)
    """Says how a routed teacher weighs its experts: `shares`, `[num_layers, num_experts]`."""
    _started: float = field(init=False, default=0.0)

    @contextmanager
    def shown(self, request: StopRequest) -> Iterator[None]:
        """Show a dashboard while the training runs, if a person watches, and leave what became of it.

        Args:
            request: what its button asks for.
        """
        with watched(self.run, self.phase, request, "bits per byte, held-out text", "tokens") as self.dashboard:
            yield
        self.dashboard = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock; a resumed training continues its own."""
        step = self.first_step + state.global_step
        self.run.drop_metrics(self.phase, step if step else -1)
        if self.copy is not None:
            self.copy.begin(step)
        # for a later stage in the metrics, and in the checkpoint: a teacher's may be another run's
        past = [line["seconds"] for line in self.run.read_metrics() if line.get("phase") == self.phase]
        self.seconds = past[-1] if past else 0.0
        kept = state.stateful_callbacks.setdefault(type(self).__name__, {})
        if state.global_step:
            self.seconds = kept.get("attributes", {}).get("seconds", self.seconds)
        if self.dashboard is not None:
            self.dashboard.start(step, self.total_steps or state.max_steps, self.seconds)
        if not step:
            self._measure(kwargs["model"], state)
        self._note(state)
        self._started = time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Measure a point of the curve when one is due."""
        if self.dashboard is not None:
            self._stop_clock()
            self.dashboard.advance(self.first_step + state.global_step, self.seconds)
            self._started = time.monotonic()
        if (self.first_step + state.global_step) % self.curve.every == 0 or state.global_step == state.max_steps:
            self._stop_clock()
            self._measure(kwargs["model"], state)
            self._started = time.monotonic()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float],
        **kwargs: Any,
    ) -> None:
        """Write a line of metrics and show it; there is no loss where every step was left out."""
        if "loss" not in logs:
            return
        self._stop_clock()
        names = ("loss", "ce_loss", "kd_loss", "grad_norm", "learning_rate", "tokens")
        values = {name: logs[name] for name in names if name in logs}
        values |= {
            name: value
            for name, value in logs.items()
            if name.endswith(("_loss", "_weighted")) or name.startswith(("overlap_", "padding_"))
        }
        self._record(state, values)
        self._note(state)
        if self.copy is not None:
            self.copy.update()
            self._started = time.monotonic()  # it is no part of the training's time
        step, total = self.first_step + state.global_step, self.total_steps or state.max_steps
        eta = self.seconds / step * (total - step)
        terms = "  ".join(f"{name.removesuffix('_loss')} {values[name]:.3f}" for name in names[:3] if name in values)
        if (padding := values.get("padding_share", 0.0)) >= NOTABLE_PADDING:
            terms += f"  padding {padding:.0%}"
        if self.dashboard is None:
            print(step_line(self.phase, step, total, terms, eta), flush=True)
        else:
            self.dashboard.add(step, self.seconds, values, self.routing().get("shares") if self.routing else None)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Say in the run's status from which step the training can go on."""
        self._note(state)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: the time up to here, which the last line of the log does not know yet."""
        return {"args": {}, "attributes": {"seconds": self.seconds + time.monotonic() - self._started}}

    def _note(self, state: TrainerState) -> None:
        """Keep in the run's status how far this training is."""
        if state.is_world_process_zero:
            step, total = self.first_step + state.global_step, self.total_steps or state.max_steps
            values = {"phase": self.phase, "step": step, "total_steps": total, "seconds": round(self.seconds, 1)}
            self.run.set_progress("running", **values)

    def _stop_clock(self) -> None:
        now = time.monotonic()
        self.seconds += now - self._started
        self._started = now

    def _measure(self, model: torch.nn.Module, state: TrainerState) -> None:
        """Score the curve's windows and record the point."""
        if (whole := whole_model(model)) is None:
            return
        point = {"evaluation_bits_per_byte": self._score(whole)}
        if self.average is not None and self.average.model is not None:
            point["averaged_bits_per_byte"] = self._score(self.average.model)
        self._record(state, point)
        if self.dashboard is not None:
            self.dashboard.measure(self.first_step + state.global_step, point["evaluation_bits_per_byte"])

    def _score(self, model: torch.nn.Module) -> float:
        curve = self.curve
        return score_windows(model, curve.windows, curve.side, curve.batch_size, curve.autocast_dtype).bits_per_byte

    def _record(self, state: TrainerState, values: dict[str, float]) -> None:
        if state.is_world_process_zero:
            step = self.first_step + state.global_step
            line = {"phase": self.phase, "step": step, "seconds": round(self.seconds, 3)}
            self.run.append_metrics(line | values)
