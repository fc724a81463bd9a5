"""Comparison of finished runs of embedding models on the tasks that they share. Never imports torch.

The first run is the reference; differences are other - reference in points, so above 0 the other is better.
"""

from typing import Any

import numpy as np

from kdkit.evaluate.between_runs import Finished

DECIDING = ("kind", "metric", "rows", "fit_rows", "source", "revision")
"""What makes two tasks of one name the same."""
MADE_HERE = "python-docs"
"""Source of the tasks that are made of a run's own held-out sentences."""


def why_other_tasks(reference: Finished, other: Finished) -> str:
    """Say why two runs of embedding models were not judged on the same tasks; empty if they were."""
    first, second = (finished.evaluation["tasks"] for finished in (reference, other))
    if first.keys() != second.keys():
        return f"other tasks: {', '.join(second)} against {', '.join(first)}"
    for name, task in first.items():
        if apart := [key for key in DECIDING if task.get(key) != second[name].get(key)]:
            key = apart[0]
            return f"another {name}: {key} {second[name].get(key)} against {task.get(key)}"
    if any(task["source"] == MADE_HERE for task in first.values()):
        for key in ("fingerprint", "held_out"):
            if reference.manifest.get(key) != other.manifest.get(key):
                return (
                    f"tasks made of other sentences: data {key} {other.manifest[key]} against {reference.manifest[key]}"
                )
        if reference.config.seed != other.config.seed:
            return f"tasks made of other sentences: seed {other.config.seed} against {reference.config.seed}"
    return ""


def compare_embeddings(runs: list[Finished]) -> list[dict[str, Any]]:
    """Compare runs of embedding models that were judged on the same tasks with the first of them.

    Returns:
        Per run the `student`'s name, its `steps`, `average` and its `interval_95`, `tasks` (main score of each),
        `difference` of the averages from the reference's and `difference_interval_95` (None for the reference itself,
        and where a run has no `scores.json` of the same draws), and its learning `curves`.
    """
    students = [_student(finished) for finished in runs]
    averages = [_resampled(finished) for finished in runs]
    entries = []
    for place, (finished, (name, student)) in enumerate(zip(runs, students, strict=True)):
        drawn, first = averages[place], averages[0]
        interval = None
        if place and drawn is not None and first is not None and len(drawn) == len(first):
            same_seed = finished.config.seed == runs[0].config.seed
            interval = np.quantile(drawn - first, [0.025, 0.975]).tolist() if same_seed else None
        entries.append(
            {
                "student": name,
                "steps": student.get("steps"),
                "average": student["average"],
                "interval_95": student["interval_95"],
                "tasks": {task: numbers["main"] for task, numbers in student["tasks"].items()},
                "difference": student["average"] - students[0][1]["average"] if place else None,
                "difference_interval_95": interval,
                "curves": _curves(finished, name),
            }
        )
    return entries


def _student(finished: Finished) -> tuple[str, dict[str, Any]]:
    models = finished.evaluation["models"]
    name, entry = next((name, entry) for name, entry in models.items() if entry["role"] == "student")
    if "steps" not in entry and (finished.run.path / "training.json").is_file():  # of an older build
        entry["steps"] = finished.run.read_json("training.json")[name]["steps"]
    return name, entry


def _curves(finished: Finished, name: str) -> dict[str, list[list[float]]]:
    """Return step, seconds and average of the tasks along the student's training."""
    lines = [line for line in finished.run.read_metrics() if line["phase"] == name and line.get("tasks")]
    return {"student": [[m["step"], m["seconds"], sum(m["tasks"].values()) / len(m["tasks"])] for m in lines]}


def _resampled(finished: Finished) -> np.ndarray | None:
    """Return the student's average on resampled rows, `[samples]`; None where an older build kept none."""
    if not (finished.run.path / "scores.json").is_file():
        return None
    return np.mean(list(finished.run.read_json("scores.json")["tasks"].values()), axis=0)
