"""Table and sentence about the minimal pairs of grammar that the models judged."""

from pathlib import Path
from typing import Any

from kdkit.report.tables import Table
from kdkit.report.writing import HIGHER, mark_best
from kdkit.runs.curves import LABELS


def pairs_table(evaluation: dict[str, Any]) -> Table | None:
    """Put the models' accuracies side by side, a row per phenomenon; None where no pairs were judged."""
    pairs = evaluation.get("minimal_pairs")
    if pairs is None:
        return None
    models = pairs["models"]
    rows = [[f"all phenomena {HIGHER}", sum(pairs["num_pairs"].values()), list(models.values())]]
    rows += [
        [kind, count, [each["phenomena"][kind] for each in models.values()]]
        for kind, count in pairs["num_pairs"].items()
    ]
    eligible = [name != "teacher" for name in models]
    table = []
    for label, count, found in rows:
        cells = [f"{each['accuracy']:.1%} ({_range(each['interval_95'])})" for each in found]
        cells = mark_best(cells, [each["accuracy"] for each in found], HIGHER, eligible)
        table.append([label, f"{count:,}", *cells])
    return [f"minimal pairs ({Path(pairs['source']).name})", "pairs", *(LABELS[name] for name in models)], table


def pairs_verdict(evaluation: dict[str, Any]) -> str:
    """State whether the student keeps to grammar more often than each baseline; empty where no pairs were judged."""
    pairs = evaluation.get("minimal_pairs")
    if pairs is None:
        return ""
    sentences = []
    for name, difference in pairs["differences"].items():
        if name == "teacher" or difference["interval_95"] is None:
            continue
        low, high = difference["interval_95"]
        result = "more often than" if low > 0 else "less often than" if high < 0 else "no more and no less often than"
        other = LABELS[name].replace("baseline, ", "the baseline of ")
        sentences.append(f"{result} {other} ({difference['mean']:+.1%}, 95 % interval {low:+.1%} to {high:+.1%})")
    count = sum(pairs["num_pairs"].values())
    text = "; ".join(sentences)
    return f"Of {count:,} pairs the student finds the sentence that keeps the rule {text}." if sentences else ""


def _range(interval: list[float]) -> str:
    low, high = interval
    return f"{low:.0%} to {high:.0%}"
