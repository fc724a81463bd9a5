"""The table of what EleutherAI's harness says of a run's models, from `lm_eval.json`."""

from typing import Any

from kdkit.report.tables import MISSING, Table, write_interval
from kdkit.report.writing import HIGHER, LOWER, mark_best
from kdkit.runs.curves import LABELS
from kdkit.runs.folder import Run

RESULTS = "lm_eval.json"


def run_harness_table(run: Run) -> Table:
    """Return the table of a run; no rows where the harness was not asked."""
    return harness_table(run.read_json(RESULTS)) if (run.path / RESULTS).is_file() else ([], [])


def harness_table(results: dict[str, Any]) -> Table:
    """Put the models of each task and figure below each other, with how much the student differs from each."""
    headings = ["task", "figure", "documents", "model", "value", "student minus it"]
    rows = []
    for task, entry in results["tasks"].items():
        for key, metric in entry["metrics"].items():
            rows += _rows(task, entry, key, metric)
    return headings, rows


def _rows(task: str, entry: dict[str, Any], key: str, metric: dict[str, Any]) -> list[list[str]]:
    """Write a figure of all models; what they share stands in the first row."""
    figure, chosen = key.split(",", 1)
    arrow = {True: f" {HIGHER}", False: f" {LOWER}", None: ""}[metric["higher_is_better"]]
    shared = [task, f"{figure}{'' if chosen == 'none' else f' ({chosen})'}{arrow}", _count(entry)]
    models: dict[str, dict[str, Any]] = metric["models"]
    cells = [_with_interval(each) for each in models.values()]
    if arrow:
        values = [each["value"] for each in models.values()]
        cells = mark_best(cells, values, arrow.strip(), [name != "teacher" for name in models])
    gaps = metric["differences"] if entry["reference"] == "student" else {}
    differences = [_with_range(gaps[name]) if name in gaps else MISSING for name in models]
    labels = [LABELS.get(name, name) for name in models]
    return [
        [*(shared if number == 0 else ("", "", "")), *row]
        for number, row in enumerate(zip(labels, cells, differences, strict=True))
    ]


def _count(entry: dict[str, Any]) -> str:
    """Write how many documents were asked, and after how many solved examples."""
    count = MISSING if entry["num_documents"] is None else f"{entry['num_documents']:,}"
    return f"{count}, {entry['num_fewshot']}-shot" if entry["num_fewshot"] else count


def _with_interval(value: dict[str, Any]) -> str:
    """Write a figure, and how far it reaches."""
    text, edges = _number(value["value"]), value["interval_95"]
    return text if edges is None else f"{text} ({_number(edges[0])} to {_number(edges[1])})"


def _with_range(gap: dict[str, Any]) -> str:
    """Write a difference, and how far it reaches."""
    digits = 3 if abs(gap["value"]) < 100 else 1
    edges = gap["interval_95"]
    return f"{gap['value']:+.{digits}f}" + ("" if edges is None else f" ({write_interval(edges, digits)})")


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 100 else f"{value:,.1f}" if abs(value) < 1e6 else f"{value:.2e}"
