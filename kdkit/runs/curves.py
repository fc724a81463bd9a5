"""The learning curves of a run as its files hold them, and the names and colours of its models."""

from statistics import fmean

from kdkit.runs.folder import Run

COLOURS = {
    "teacher": "#6b7280",
    "student": "#0f766e",
    "baseline": "#c2410c",
    "baseline_equal_time": "#d97706",
    "baseline_answers_reused": "#a16207",
}
LABELS = {
    "teacher": "teacher",
    "student": "student (distilled)",
    "baseline": "baseline, equal steps",
    "baseline_equal_time": "baseline, equal time",
    "baseline_answers_reused": "baseline, equal time, answers reused",
}

Curves = dict[str, list[tuple[int, float]]]
"""By the training's name in metrics.jsonl: optimizer steps and what was measured after them."""


def read_curves(run: Run) -> Curves:
    """Return every training's points: bits per byte on held-out text, or the mean score of the tasks (embeddings)."""
    curves: Curves = {}
    for line in run.read_metrics():
        value = line.get("evaluation_bits_per_byte")
        if value is None and line.get("tasks"):
            value = fmean(line["tasks"].values())
        if value is not None:
            curves.setdefault(line["phase"], []).append((line["step"], value))
    return curves


def teacher_level(run: Run) -> float | None:
    """Return the teacher's bits per byte on the text that the curves are measured on, if it was measured."""
    for name in ("training.json", "teacher/probe.json"):
        if (run.path / name).is_file() and "teacher_on_curve" in (values := run.read_json(name)):
            return values["teacher_on_curve"]
    return None


def gap_closed_so_far(curves: Curves, level: float | None) -> tuple[int, float] | None:
    """Return the last step that student and baseline have both been measured at, and the gap closed there.

    None: there is no such step yet, or the teacher is no better than the baseline there.
    """
    student, baseline = dict(curves.get("student", [])), dict(curves.get("baseline", []))
    if level is None or not (common := student.keys() & baseline.keys() - {0}):
        return None
    gap = baseline[step := max(common)] - level
    return (step, (baseline[step] - student[step]) / gap) if gap > 0 else None
