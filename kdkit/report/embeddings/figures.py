"""Pictures of a run of embedding models, from its JSON files, saved as PNG in `figures/`."""

import math
from pathlib import Path
from typing import Any

import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdkit.report.embeddings.tables import COLLAPSED, find_model, label, stored_scores
from kdkit.report.figures import COLOURS, plot_recorded, save, tidy
from kdkit.runs.folder import Run

ROLES = {
    "teacher": COLOURS["teacher"],
    "untrained": COLOURS["baseline"],
    "off_the_shelf": "#1d4ed8",
    "student": COLOURS["student"],
    "compared": "#94a3b8",
}
"""Colour of each role."""
OTHERS = ["#7c3aed", "#be185d", "#d97706", "#1d4ed8", "#65a30d", "#0891b2", "#c2410c", "#6b7280", "#a16207", "#475569"]
"""Colours of the compared methods where each has a line of its own."""
COLUMNS = 4
"""Panels side by side."""
SMALL = {"fontsize": 8, "ha": "center"}
"""Style of a number beside its point."""


def draw_share_of_teacher(run: Run) -> Path | None:
    """Show per task from which share of the teacher's score to which the student was trained, and the others'.

    None where the teacher has no scores.
    """
    evaluation = run.read_json("evaluation.json")
    teacher = find_model(evaluation, "teacher")[1].get("tasks")
    if teacher is None:
        return None
    tasks = [name for name in evaluation["tasks"] if teacher[name]["main"] > 0]
    figure = Figure(figsize=(9.2, 1.4 + 0.4 * len(tasks)), layout="constrained")
    axes = figure.subplots()
    shares = {
        name: [100 * entry["tasks"][task]["main"] / teacher[task]["main"] for task in tasks]
        for name, entry in evaluation["models"].items()
        if "skipped" not in entry and entry["role"] != "teacher"
    }
    student, untrained = (find_model(evaluation, role)[0] for role in ("student", "untrained"))
    gains = [after - before for before, after in zip(shares[untrained], shares[student], strict=True)]
    axes.barh(tasks, gains, left=shares[untrained], height=0.4, color=ROLES["student"], alpha=0.3, label="gained")
    axes.use_sticky_edges = False
    labelled = set()
    for name, values in shares.items():
        role = evaluation["models"][name]["role"]
        text = "compared methods" if role == "compared" else label(name, evaluation["models"][name])
        style = {"color": ROLES[role], "edgecolors": "white", "zorder": 4 if role == "student" else 3}
        size = 90 if role == "student" else 40
        axes.scatter(values, tasks, s=size, label=None if text in labelled else text, **style)
        labelled.add(text)
    for task, share in zip(tasks, shares[student], strict=True):
        axes.annotate(f"{share:.1f}", (share, task), (0, 9), textcoords="offset points", **SMALL)
    axes.axvline(100, color=ROLES["teacher"], linestyle="--", label="teacher")
    axes.set(xlabel="% of the teacher's score")
    axes.margins(y=0.6 / max(len(tasks), 2))
    axes.invert_yaxis()
    tidy(axes)
    figure.legend(loc="outside lower center", ncols=6, frameon=False, fontsize=8)
    return save(figure, run, "share_of_teacher.png")


def draw_embedding_curves(run: Run) -> Path | None:
    """Show the scores of every training after each epoch: their average, each task, and the mean cosine.

    None where nothing was scored on the way.
    """
    points = [line for line in run.read_metrics() if line.get("tasks")]
    if not points:
        return None
    tasks = list(points[0]["tasks"])
    figure, panels = _grid(len(tasks) + 2)
    student = _student_phase(run)
    phases = [student, *dict.fromkeys(line["phase"] for line in points if line["phase"] != student)]
    for number, phase in reversed(list(enumerate(phases))):
        lines = [line for line in points if line["phase"] == phase]
        style = {"color": _phase_colour(number), "marker": "o", "markersize": 3, "linewidth": 1 if number else 2}
        steps = [line["step"] for line in lines]
        average = [sum(line["tasks"].values()) / len(tasks) for line in lines]
        series = [average, *([line["tasks"][task] for line in lines] for task in tasks)]
        series.append([line["mean_off_diagonal_cosine"] for line in lines])
        for axes, values in zip(panels, series, strict=True):
            axes.plot(steps, values, label=phase, **style)
    for axes, title in zip(panels, ["average of the tasks", *tasks, "mean cosine"], strict=True):
        axes.set(xlabel="optimizer step")
        tidy(axes, title)
    if panels[-1].get_ylim()[1] > COLLAPSED:
        panels[-1].axhline(COLLAPSED, color=COLOURS["baseline"], linestyle=":")
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles[::-1], names[::-1], loc="outside lower center", ncols=6, frameon=False, fontsize=8)
    return save(figure, run, "embedding_curves.png")


def draw_embedding_losses(run: Run) -> Path | None:
    """Show the terms of the student's loss over steps, raw, each on its own scale; None where none was logged."""
    student = _student_phase(run)
    lines = [line for line in run.read_metrics() if line["phase"] == student and "loss" in line]
    if not lines:
        return None
    terms = dict.fromkeys(key for line in lines for key in line if key.endswith("_loss"))
    keys = ["loss", *terms, "grad_norm"]
    figure, panels = _grid(len(keys))
    for axes, key in zip(panels, keys, strict=True):
        plot_recorded(axes, lines, key, color=COLOURS["student"])
        title = {"loss": "weighted sum", "grad_norm": "gradient norm"}.get(key, key.removesuffix("_loss"))
        axes.set(xlabel="optimizer step")
        _mark_stages(run, student, axes)
        tidy(axes, title.replace("_", " "))
    return save(figure, run, "embedding_losses.png")


def draw_quality_and_speed(run: Run) -> Path:
    """Show the average score of every model with its interval, and how many sentences it reads in a second."""
    evaluation = run.read_json("evaluation.json")
    models = {name: entry for name, entry in evaluation["models"].items() if "skipped" not in entry}
    figure = Figure(figsize=(9.2, 1.3 + 0.33 * len(models)), layout="constrained")
    quality, speed = figure.subplots(1, 2, sharey=True)
    for name, entry in models.items():
        text, colour = label(name, entry), ROLES[entry["role"]]
        low, high = entry["interval_95"]
        quality.plot([low, high], [text, text], color=colour, linewidth=2)
        quality.scatter([entry["average"]], [text], s=44, color=colour, zorder=3)
        quality.annotate(
            f"{entry['average']:.2f}", (entry["average"], text), (0, 6), textcoords="offset points", **SMALL
        )
        pace = entry["sentences_per_second"]  # None: vectors of a file
        bar = speed.barh([text], [pace or 0.0], color=colour, height=0.6)
        speed.bar_label(bar, ["not known" if pace is None else f"{pace:,.0f}"], padding=3, fontsize=8)
    speed.margins(x=0.18)
    quality.margins(y=0.08)
    quality.invert_yaxis()
    tidy(quality, "average of the tasks, 95 % interval")
    tidy(speed, "sentences per second")
    return save(figure, run, "quality_and_speed.png")


def draw_stored_vectors(run: Run) -> Path | None:
    """Show the average score over the bytes of a vector, for every student and way of storing; None without any."""
    evaluation = run.read_json("evaluation.json")
    points = stored_scores(evaluation)
    if not points:
        return None
    figure = Figure(figsize=(9.2, 3.4), layout="constrained")
    axes = figure.subplots()
    names = list(dict.fromkeys(name for name, _ in points))
    student = find_model(evaluation, "student")[0]
    order = [student, *(name for name in names if name != student)]
    styles = {"float32": "o-", "int8": "s--", "binary": "^:"}
    for (name, storage), line in points.items():
        values = sorted(line.values())
        axes.plot(
            [size for size, _ in values],
            [score for _, score in values],
            styles[storage],
            color=_phase_colour(order.index(name)),
            label=f"{label(name, evaluation['models'][name])}, {storage}",
        )
    axes.set(xscale="log", xlabel="bytes of a vector")
    tidy(axes, "average of the tasks")
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return save(figure, run, "stored_vectors.png")


def _grid(count: int) -> tuple[Figure, list[Axes]]:
    """Return a figure with so many panels, and them."""
    columns = min(COLUMNS, count)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(9.2, 0.5 + 2.0 * rows), layout="constrained")
    return figure, [figure.add_subplot(rows, columns, place + 1) for place in range(count)]


def _phase_colour(number: int) -> str:
    """Return the colour of a training; 0 is the student's."""
    return OTHERS[(number - 1) % len(OTHERS)] if number else COLOURS["student"]


def _student_phase(run: Run) -> str:
    """Return what metrics and tables call the run's own method."""
    method: dict[str, Any] = yaml.safe_load((run.path / "config.yaml").read_text(encoding="utf-8"))["method"]
    form = method.get("form", "recommended")
    return method.get("label") or (method["name"] if form == "recommended" else f"{method['name']} ({form})")


def _mark_stages(run: Run, phase: str, axes: Axes) -> None:
    """Draw a line where a new stage of the training began."""
    trainings = run.read_json("training.json") if (run.path / "training.json").is_file() else {}
    step = 0
    for stage in trainings.get(phase, {}).get("stages", [])[:-1]:
        step += stage["steps"]
        axes.axvline(step, color=COLOURS["teacher"], linestyle=":", linewidth=1)
