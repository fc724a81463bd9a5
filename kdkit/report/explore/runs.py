"""Runs of a folder side by side: their curves over each other, and what their settings changed. Never imports torch."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from IPython.display import HTML, Markdown
from matplotlib.figure import Figure

from kdkit.config.reading import read_values
from kdkit.errors import UserError
from kdkit.report.compare import COLOURS
from kdkit.report.display import show_comparison
from kdkit.report.explore.widgets import NAMED, WIDE, Explorer, answering, unheard
from kdkit.report.figures import tidy, to_png
from kdkit.runs.folder import Run, is_watched

Compare = Callable[[Sequence[str], str | Path], dict[str, Any]]
"""From the names of runs, the first to compare the others with, and their folder: `compare_runs`."""
Metrics = dict[str, list[dict[str, Any]]]
"""The lines of `metrics.jsonl` by the name of a run."""

QUALITY = "evaluation_bits_per_byte"
PLACES = {"optimizer steps": "step", "training seconds": "seconds"}
PHASES = {"student": "-", "baseline": ":"}
"""Trainings that are drawn, and the line of each."""


def show_runs(run: Run, asked: Sequence[str], compare: Compare, runs_dir: str | Path) -> HTML | Markdown | Explorer:
    """Return what a notebook shows (05): widgets that choose runs for a person, the comparison asked for otherwise.

    Args:
        run: to compare the others with, until somebody chooses another.
        asked: names of other runs.
        compare: compares finished runs.
        runs_dir: the folder that holds them.

    Raises:
        UserError: runs that were asked for cannot be compared; see `compare_runs`.
    """
    still: HTML | Markdown = Markdown("No other run was named in `COMPARE`.")
    if asked:
        still = show_comparison(compare([run.name, *asked], runs_dir))
    if not is_watched():
        return still
    return Explorer(choose_runs(run, asked, compare, runs_dir), still.data)


def choose_runs(run: Run, asked: Sequence[str], compare: Compare, runs_dir: str | Path) -> Any:
    """Return widgets: a reference, runs to compare with it, what to draw, the curves, and the tables of the comparison.

    Args:
        run: and the rest: see `show_runs`.
    """
    import ipywidgets

    names = list(dict.fromkeys([*asked, *list_runs(run), run.name]))
    reference = ipywidgets.Dropdown(options=names, value=run.name, description="reference", style=NAMED, layout=WIDE)
    part = ipywidgets.Text(placeholder="part of a name", description="filter", style=NAMED, layout=WIDE)
    others = ipywidgets.SelectMultiple(
        options=names, value=list(asked), description="runs", rows=6, style=NAMED, layout=WIDE
    )
    metric = ipywidgets.Dropdown(description="metric", style=NAMED, layout=WIDE)
    over = ipywidgets.Dropdown(options=PLACES, description="over", style=NAMED, layout=WIDE)
    message, tables = ipywidgets.HTML(), ipywidgets.HTML()
    picture = ipywidgets.Image(format="png", layout={"max_width": "820px"})

    def picked() -> list[str]:
        return list(dict.fromkeys([reference.value, *others.value]))

    def draw(_: Any) -> None:
        picture.value = b""
        picture.value = to_png(draw_runs(read_metrics(run, picked()), metric.value, over.value))

    def tell(_: Any) -> None:
        if len(picked()) < 2:
            tables.value = "Choose runs to compare with the reference; hold Ctrl for several."
        else:
            tables.value = show_comparison(compare(picked(), runs_dir), with_curves=False).data

    def narrow(_: Any) -> None:
        """Leave the names that hold the text, and those that are chosen."""
        kept = others.value
        with unheard(others, on_runs):
            others.options = [name for name in names if part.value.lower() in name.lower() or name in kept]
            others.value = kept

    def on_runs(change: Any) -> None:
        """Offer what was measured in the runs that are picked, draw it, and compare them."""
        known, kept = metrics_of(read_metrics(run, picked())), metric.value
        with unheard(metric, on_metric):
            metric.options = [(name.replace("_", " "), name) for name in known]
            metric.value = kept if kept in known else next(iter(known), None)
        on_metric(change)
        answering(tables, tell)(change)

    on_metric = answering(message, draw)
    part.observe(narrow, "value")
    metric.observe(on_metric, "value")
    over.observe(on_metric, "value")
    reference.observe(on_runs, "value")
    others.observe(on_runs, "value")
    on_runs(None)
    return ipywidgets.VBox([reference, part, others, metric, over, message, picture, tables])


def list_runs(run: Run) -> list[str]:
    """Return the names of the runs beside this one that are of its kind and have begun to train."""
    places = run.path.parent.glob("*/config.yaml")
    trained = [path.parent for path in places if (path.parent / "metrics.jsonl").is_file()]
    kind = _is_embedding(run.path)
    return sorted(path.name for path in trained if _is_embedding(path) is kind)


def _is_embedding(folder: Path) -> bool | None:
    """Return whether a run is of an embedding model; None where its configuration cannot be read."""
    try:
        return "method" in read_values(folder / "config.yaml")
    except UserError:
        return None


def read_metrics(run: Run, names: Sequence[str]) -> Metrics:
    """Read what runs have measured.

    Args:
        run: one in the folder that holds them.
        names: of runs in that folder, or paths of others.
    """
    places = {name: run.path.parent / name for name in names}
    folders = {name: place if place.is_dir() else Path(name) for name, place in places.items()}
    return {name: Run(folder, folder).read_metrics() for name, folder in folders.items()}


def metrics_of(metrics: Metrics) -> list[str]:
    """Return the names of all that was measured while the students and baselines trained, quality first."""
    found = {
        key
        for lines in metrics.values()
        for line in lines
        for key, value in line.items()
        if line.get("phase") in PHASES and isinstance(value, int | float) and key not in PLACES.values()
    }
    return sorted(found, key=lambda key: (key != QUALITY, key))


def draw_runs(metrics: Metrics, metric: str | None, over: str) -> Figure:
    """Draw one metric of several runs over each other; dotted: without a teacher.

    Args:
        metrics: see there.
        metric: a name that `metrics_of` returns; None: it returned none.
        over: `step` or `seconds`.

    Raises:
        UserError: there is no metric to draw.
    """
    if metric is None:
        raise UserError(
            f"runs: expected one whose student or baseline has begun to train, got {', '.join(metrics)}; "
            "choose another, or wait"
        )
    figure = Figure(figsize=(9.2, 3.9), layout="constrained")
    axes = figure.subplots()
    for place, (name, lines) in enumerate(metrics.items()):
        for phase, style in PHASES.items():
            measured = [line for line in lines if line.get("phase") == phase and metric in line and line["step"] > 0]
            points = [(line[over], line[metric]) for line in measured]
            if points:
                label = name if phase == "student" else f"{name}, baseline"
                colour = COLOURS[place % len(COLOURS)]
                axes.plot(*zip(*points, strict=True), style, marker=".", color=colour, label=label)
    label = next(label for label, key in PLACES.items() if key == over)
    axes.set(xlabel=label, ylabel=metric.replace("_", " "))
    tidy(axes)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return figure
