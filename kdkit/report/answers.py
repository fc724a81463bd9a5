"""Tables and sentences about what every model was asked: answers to held-out prompts, and minimal pairs of grammar."""

from pathlib import Path
from typing import Any

from kdkit.report.tables import MISSING, Table
from kdkit.report.writing import HIGHER, mark_best
from kdkit.runs.curves import LABELS

REFERENCE = "reference"
_ROWS = {
    "rouge_l": (f"ROUGE-L {HIGHER}", "{:.3f}"),
    "exact_match": (f"the reference, word for word {HIGHER}", "{:.1%}"),
    "length": ("words", "{:.1f}"),
    "stop_rate": ("ended by the model", "{:.1%}"),
    "copied_from_prompt": ("copied from the prompt", "{:.1%}"),
    "copied_from_training": ("copied from training answers", "{:.1%}"),
}
_OF_REFERENCE = ("length", "copied_from_prompt", "copied_from_training")
"""What can be said of the reference answers too: the rest compares with them."""


def answers_table(evaluation: dict[str, Any]) -> Table | None:
    """Put the scores of the models' answers side by side, with their intervals; None for data without prompts."""
    answers = evaluation.get("answers")
    if answers is None:
        return None
    found = {name: answers["models"][name] for name in [REFERENCE, *answers["rouge_l"]]}
    rows = []
    for key, (label, pattern) in _ROWS.items():
        values = [None if _is_missing(name, key) else each[key]["mean"] for name, each in found.items()]
        cells = [
            MISSING if _is_missing(name, key) else _with_interval(each[key], pattern) for name, each in found.items()
        ]
        if label.endswith(HIGHER):
            cells = mark_best(cells, values, HIGHER, [name not in (REFERENCE, "teacher") for name in found])
        rows.append([label, *cells])
    return [f"answers to {answers['num_prompts']} held-out prompts", REFERENCE, *_labels(answers)], rows


def answer_examples(evaluation: dict[str, Any], count: int) -> Table | None:
    """Put the models' answers to the same prompts beside the reference; None for data without prompts."""
    answers = evaluation.get("answers")
    if answers is None:
        return None
    names = [REFERENCE, *answers["rouge_l"]]
    pairs = list(zip(answers["prompts"], answers["answers"], strict=True))[:count]
    rows = [[prompt, *(texts[name] for name in names)] for prompt, texts in pairs]
    return ["held-out prompt", REFERENCE, *_labels(answers)], rows


def answers_verdict(evaluation: dict[str, Any]) -> str:
    """State by how much the student's answers are nearer to the references than each baseline's; empty without."""
    answers = evaluation.get("answers")
    if answers is None:
        return ""
    sentences = []
    for name, difference in answers["differences"].items():
        if difference["interval_95"] is None:
            continue
        low, high = difference["interval_95"]
        other = LABELS[name].replace("baseline, ", "the baseline of ")
        result = "better than" if low > 0 else "worse than" if high < 0 else "no different from"
        sentences.append(
            f"{result} {other} by ROUGE-L ({difference['mean']:+.3f}, 95 % interval over "
            f"{answers['num_prompts']} prompts {low:+.3f} to {high:+.3f})"
        )
    return f"The student's answers are {'; '.join(sentences)}." if sentences else ""


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


def _labels(answers: dict[str, Any]) -> list[str]:
    return [LABELS[name] for name in answers["rouge_l"]]


def _is_missing(name: str, key: str) -> bool:
    return name == REFERENCE and key not in _OF_REFERENCE


def _with_interval(value: dict[str, Any], pattern: str) -> str:
    """Write a mean, and how far it reaches."""
    mean = pattern.format(value["mean"])
    if value["interval_95"] is None:
        return mean
    low, high = (pattern.format(edge) for edge in value["interval_95"])
    return f"{mean} ({low} to {high})"


def _range(interval: list[float]) -> str:
    low, high = interval
    return f"{low:.0%} to {high:.0%}"
