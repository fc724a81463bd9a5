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
    """Put all models side by side, a row per task and figure, and by how much the student differs from the baseline."""
    entries = [
        (task, entry, key, metric)
        for task, entry in results["tasks"].items()
        for key, metric in entry["metrics"].items()
    ]
    names = list(dict.fromkeys(name for *_, metric in entries for name in metric["models"]))
    others = [name for name in names if any(name in metric["differences"] for *_, metric in entries)]
    headings = ["task", "figure", "documents", *(LABELS.get(name, name) for name in names)]
    headings += [f"student - {LABELS.get(name, name)}" for name in others]
    return headings, [_row(*each, names, others) for each in entries]


def _row(
    task: str, entry: dict[str, Any], key: str, metric: dict[str, Any], names: list[str], others: list[str]
) -> list[str]:
    """Write a figure of all models."""
    figure, chosen = key.split(",", 1)
    arrow = {True: f" {HIGHER}", False: f" {LOWER}", None: ""}[metric["higher_is_better"]]
    label = f"{figure}{'' if chosen == 'none' else f' ({chosen})'}{arrow}"
    found = [metric["models"].get(name) for name in names]
    cells = [MISSING if each is None else _with_interval(each) for each in found]
    if arrow:
        values = [None if each is None else each["value"] for each in found]
        cells = mark_best(
            cells, values, HIGHER if metric["higher_is_better"] else LOWER, [n != "teacher" for n in names]
        )
    gaps = [metric["differences"].get(name) if entry["reference"] == "student" else None for name in others]
    differences = [MISSING if gap is None else _with_range(gap) for gap in gaps]
    return [task, label, _count(entry), *cells, *differences]


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
