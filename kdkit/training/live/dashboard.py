"""Dashboard of a training in an open notebook: charts, the time that is left, and a button that stops and saves.

It takes at most a hundredth of the training's time: how long an update took decides when the next one may come. Behind
the training plain HTML takes the place of the widgets, so that a saved notebook holds what became of it.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from kdkit.machine.budget import elapsed
from kdkit.machine.interrupt import StopRequest
from kdkit.runs.curves import LABELS
from kdkit.runs.folder import Run, is_watched
from kdkit.runs.messages import say_time
from kdkit.training.live.clicks import hear_clicks
from kdkit.training.live.drawing import Head, draw_charts, draw_head, page
from kdkit.training.live.readings import Readings

SHARE = 0.01
"""Of the training's time that updates may take."""
EVERY = 1.0
"""Seconds between two updates, at least."""
LISTEN_EVERY = 0.2
"""Seconds between two looks at the button."""
INTERRUPT = "Interrupt (■) finishes the step, saves it and stops."
STOP, STOPPING = "Stop and save", "Stopping: this step is saved first"


class Dashboard:
    """Shows one training, from its first step to its last."""

    def __init__(self, run: Run, phase: str, request: StopRequest, quantity: str, unit: str):
        """Show the dashboard below the cell that runs.

        Args:
            phase: the training that runs now.
            request: what the button asks for; its budget is shown too.
            quantity: what the learning curves measure, in words.
            unit: what the training reads, `tokens` or `sentences`.
        """
        import ipywidgets
        from IPython.display import display

        self.request = request
        self.readings = Readings(run, phase, quantity, unit)
        self.step = self.total = 0
        self.seconds = 0.0
        self.cost = 0.0
        """Seconds that all updates have taken."""
        self.head, self.charts = ipywidgets.HTML(), ipywidgets.HTML()
        layout = ipywidgets.Layout(width="max-content", align_self="flex-start")
        self.button = ipywidgets.Button(description=STOP, icon="stop", layout=layout)
        self.button.tooltip = "Finish this step, save it and stop; with RESUME = True the training goes on from there"
        self.button.on_click(lambda _: self.stop())
        self._was_clicked = hear_clicks(self.button.comm.comm_id)
        parts = [self.head, self.button, self.charts] if self._was_clicked else [self.head, self.charts]
        self.box = ipywidgets.VBox(parts)
        self.box.add_class("kdkit-live")
        self._handle = display(self.box, display_id=True)
        self._next = self._next_look = 0.0
        self._has_news = True

    def start(self, step: int, total: int, seconds: float) -> None:
        """Show what there is before the first step, of a training that goes on too."""
        self.step, self.total, self.seconds = step, total, seconds
        self.readings.read()
        self._has_news = True
        self._draw()

    def advance(self, step: int, seconds: float) -> None:
        """Note a step; called behind each. Most of the time this does nothing else."""
        self.step, self.seconds = step, seconds
        now = time.perf_counter()
        if self._was_clicked and now >= self._next_look and not self.request.wanted:
            if self._was_clicked():
                self.stop()
            self._next_look = now + LISTEN_EVERY
        if now >= self._next:
            self._draw()

    def add(
        self, step: int, seconds: float, values: Mapping[str, Any], shares: list[list[float]] | None = None
    ) -> None:
        """Note a line of metrics, and how a routed teacher weighs its experts."""
        self.readings.add(step, seconds, values)
        self.readings.shares = shares
        self._has_news = True

    def measure(self, step: int, value: float) -> None:
        """Note a point of the learning curve."""
        self.readings.measure(step, value)
        self._has_news = True

    def stop(self) -> None:
        """Ask the training to stop behind the step that is being made, which is saved."""
        self.request.wanted = True
        self.button.description, self.button.disabled = STOPPING, True

    def finish(self) -> None:
        """Leave what became of the training as plain HTML in the place of the widgets."""
        if self._was_clicked and self._was_clicked():  # behind the last look
            self.request.wanted = True
        state = "done" if self.step >= self.total else "stopped" if self.request.wanted else "ended early"
        head = self._head(state)
        words = f"{head.name}: {state} at step {self.step} of {self.total}, {self.seconds:.0f} s"
        content = page(draw_head(head), draw_charts(self.readings.charts(), self.readings.shares, self.total))
        if self._handle is not None:  # there is none outside of IPython
            self._handle.update({"text/html": content, "text/plain": words}, raw=True)
        for widget in (*self.box.children, self.box):
            widget.close()

    def _draw(self) -> None:
        began = time.perf_counter()
        self.head.value = page(draw_head(self._head("stopping" if self.request.wanted else "training")))
        if self._has_news:
            self.charts.value = page(draw_charts(self.readings.charts(), self.readings.shares, self.total))
            self._has_news = False
        took = time.perf_counter() - began
        self.cost += took
        self._next = began + took + max(EVERY, took / SHARE)

    def _head(self, state: str) -> Head:
        readings, facts = self.readings, {}
        per_step = self.seconds / self.step if self.step else None
        left = per_step * (self.total - self.step) if per_step else None
        note = "" if self._was_clicked or state != "training" else INTERRUPT
        if left and state == "training":
            facts["time left"] = say_time(left)
        facts["running for" if state in ("training", "stopping") else "took"] = say_time(self.seconds)
        if per_step:
            facts["per step"] = f"{per_step:.2f} s" if per_step >= 0.1 else f"{1000 * per_step:.0f} ms"
        if (rate := readings.last("rate")) is not None:
            facts[f"{readings.unit} per second"] = f"{rate:,.0f}"
        if (learning_rate := readings.last("learning_rate")) is not None:
            facts["learning rate"] = f"{learning_rate:.2e}"
        if (budget := self.request.budget) is not None and state == "training":
            session = max(budget.seconds - elapsed(), 0.0)
            facts["session"] = f"{say_time(session)} left of {budget.hours}"
            if left and left > session:
                reached = self.step + int(session / per_step)
                note = f"The session ends first: about step {reached:,} the training is saved and stops. {note}".strip()
        return Head(LABELS.get(readings.phase, readings.phase), state, self.step, self.total, facts, note)


@contextmanager
def watched(run: Run, phase: str, request: StopRequest, quantity: str, unit: str) -> Iterator[Dashboard | None]:
    """Show a dashboard while a training runs, if a person watches, and leave what became of it; see `Dashboard`."""
    dashboard = Dashboard(run, phase, request, quantity, unit) if is_watched() else None
    try:
        yield dashboard
    finally:
        if dashboard is not None:
            dashboard.finish()
