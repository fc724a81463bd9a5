"""Live chart in an open notebook: a bar, a line of text, and the learning curves of all of a run's trainings so far."""

import html
import io

from matplotlib.figure import Figure

from kdkit.runs.curves import COLOURS, LABELS, gap_closed_so_far, read_curves, teacher_level
from kdkit.runs.folder import Run
from kdkit.runs.messages import visible

TEACHER = "teacher"
"""The one training that is not drawn with the others: what it learns is the dashed line."""


class LiveChart:
    """Widgets for a person at a notebook; every training of a run goes on drawing where the one before it ended."""

    def __init__(self, run: Run, phase: str, quantity: str = "bits per byte, held-out text"):
        """Show the chart below the cell that runs.

        Args:
            phase: the training that runs now.
            quantity: what `metrics.jsonl` measures, for the axis.
        """
        import ipywidgets
        from IPython.display import display

        self.run, self.phase, self.quantity = run, phase, quantity
        self.bar = ipywidgets.IntProgress(min=0, max=1, layout=ipywidgets.Layout(width="60%"))
        self.text = ipywidgets.HTML()
        self.picture = ipywidgets.Image(format="png", layout=ipywidgets.Layout(max_width="720px", display="none"))
        display(ipywidgets.VBox([self.bar, self.text, self.picture]))

    def update(self, step: int, max_steps: int, line: str) -> None:
        """Move the bar; at its end it turns green."""
        self.bar.max, self.bar.value = max_steps, step
        self.bar.bar_style = "success" if step >= max_steps else ""
        self.text.value = f"<pre class='kdkit-progress'>{html.escape(visible(line))}</pre>"

    def finish(self, step: int, max_steps: int, seconds: float) -> None:
        """Say that the training is done; called with fewer steps than there are, the bar stays where it is."""
        words = "done" if step >= max_steps else "stopped"
        self.update(step, max_steps, f"{self.phase}: {words} at step {step} of {max_steps}, {seconds:.0f} s")

    def draw(self) -> None:
        """Draw what has been measured so far."""
        curves, level = read_curves(self.run), teacher_level(self.run)
        drawn = {name: points for name, points in curves.items() if (name == TEACHER) == (self.phase == TEACHER)}
        axes = (figure := Figure(figsize=(7.2, 3.2), layout="constrained")).subplots()
        for name, points in drawn.items():
            label = LABELS.get(name, name)
            axes.plot(*zip(*points, strict=True), marker="o", markersize=4, color=COLOURS.get(name), label=label)
        if level is not None and self.phase != TEACHER:
            axes.axhline(level, color=COLOURS[TEACHER], linestyle="--", label=f"teacher, {level:.3f}")
        if (closed := gap_closed_so_far(drawn, level)) is not None:
            axes.set_title(f"gap closed so far: {closed[1]:.2f} (at step {closed[0]})", fontsize=10, loc="left")
        axes.set(xlabel="optimizer step", ylabel=self.quantity)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, fontsize=8)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=110)
        self.picture.value, self.picture.layout.display = buffer.getvalue(), ""
