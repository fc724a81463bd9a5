"""Tables of how sure models are, where in a text they are good and how varied they write, each with its intervals."""

from collections.abc import Sequence
from typing import Any

from kdkit.report.gap import LEVEL, is_level
from kdkit.report.tables import MISSING, Table, write_number
from kdkit.report.writing import HIGHER, LOWER, mark_best
from kdkit.runs.curves import LABELS

PEOPLE = "people"
"""Among writers: the held-out text itself, or the reference answers."""
PLACES = {
    "frequency": "how often in the training text",
    "window_position": "tokens before it in its window",
    "document_position": "tokens before it in its document",
}
"""Kinds of places by their names in evaluation.json."""
_WAYS = {
    "in_windows": "in windows, as it was trained",
    "sliding": "by a sliding window",
    "by_document": "each document alone",
}
_WRITING = {
    "distinct_1": ("different words / all words", "{:.2f}"),
    "distinct_2": ("different pairs of words / all pairs", "{:.2f}"),
    "distinct_3": ("different triples / all triples", "{:.2f}"),
    "entropy_2": ("entropy of pairs, bits", "{:.2f}"),
    "self_bleu": ("like its other texts (self-BLEU)", "{:.2f}"),
    "copied_run": ("longest run of words from the training text", "{:.1f}"),
    "copied_share": ("five words in a row from the training text", "{:.1%}"),
}


def sure_table(evaluation: dict[str, Any]) -> Table:
    """Put the quality of all models side by side with 95 % intervals over documents; no rows for an older run."""
    calibration, retention = evaluation.get("calibration"), evaluation["retention"]
    if calibration is None:
        return [], []
    names = list(evaluation["models"])
    top_k = retention["student"]["top_k"]
    rows = [
        (f"bits per byte {LOWER}", evaluation["models"], "bits_per_byte", "{:.3f}"),
        (f"perplexity (own tokens) {LOWER}", evaluation["models"], "perplexity", "{:.1f}"),
        (f"KL to the teacher, nats {LOWER}", retention, "kl_to_teacher", "{:.3f}"),
        (f"top-{top_k} overlap with the teacher {HIGHER}", retention, "top_k_overlap", "{:.1%}"),
        (f"same first choice as the teacher {HIGHER}", retention, "top_1_agreement", "{:.1%}"),
        (f"attention like the teacher's {HIGHER}", retention, "attention_similarity", "{:.3f}"),
        (f"first choice is right {HIGHER}", calibration, "accuracy", "{:.1%}"),
        ("probability of the first choice", calibration, "confidence", "{:.1%}"),
        (f"calibration error {LOWER}", calibration, "ece", "{:.2%}"),
        (f"Brier score {LOWER}", calibration, "brier", "{:.3f}"),
    ]
    return ["", *(LABELS[name] for name in names)], [_judge(*row, names) for row in rows]


def contexts_table(evaluation: dict[str, Any]) -> Table:
    """Compare bits per byte and perplexity by how much a model has read before; no rows where it was not measured."""
    contexts = evaluation.get("contexts")
    if not contexts:
        return [], []
    models = contexts["models"]
    rows = [
        _judge(
            f"{figure}, {words} {LOWER}", {name: each[way] for name, each in models.items()}, key, pattern, list(models)
        )
        for figure, key, pattern in (
            ("bits per byte", "bits_per_byte", "{:.3f}"),
            ("perplexity", "perplexity", "{:.1f}"),
        )
        for way, words in _WAYS.items()
    ]
    count = contexts["documents"]
    heading = f"{contexts['bytes']:,} bytes, {count:,} document{'s' * (count > 1)}"
    return [heading, *(LABELS[name] for name in models)], rows


def contexts_words(evaluation: dict[str, Any]) -> str:
    """Say how the sliding window moved; empty where there was none."""
    contexts = evaluation.get("contexts")
    if not contexts:
        return ""
    length, stride = contexts["length"]["student"], contexts["stride"]["student"]
    return (
        f"The sliding window has {length} of the student's tokens and moves on by {stride}: every token but the first "
        f"ones has {length - stride} or more before it; it begins in the middle of a text, where the models were "
        "trained on windows that begin with a start token. A document alone has its start token, and nothing before it."
    )


def places_table(evaluation: dict[str, Any], kind: str) -> Table:
    """Compare the models in one kind of places (see `PLACES`), a row per bin; no rows where it was not measured."""
    found = evaluation.get("places", {}).get(kind)
    if not found:
        return [], []
    names = [name for name in ("teacher", "student", "baseline") if name in found[0]["models"]]
    headings = [PLACES[kind], "share of the text", *(f"{LABELS[name]}, bits per byte {LOWER}" for name in names)]
    headings += [
        f"gap closed {HIGHER}",
        f"KL to the teacher: student {LOWER}",
        "baseline",
        f"same first choice {HIGHER}",
    ]
    return headings, [_place_row(row, names) for row in found]


def _place_row(row: dict[str, Any], names: Sequence[str]) -> list[str]:
    """Write one bin."""
    models = row["models"]
    bits = [_cell(models[name]["bits_per_byte"], models[name]["interval_95"], "{:.3f}") for name in names]
    kept = [_named(models[name], key, pattern) for name, key, pattern in _KEPT]
    closed = LEVEL if is_level(row) else _cell(row["gap_closed"], row["gap_closed_interval_95"], "{:.2f}")
    return [row["bin"], f"{row['share']:.1%}", *bits, closed, *kept]


_KEPT = (
    ("student", "kl_to_teacher", "{:.3f}"),
    ("baseline", "kl_to_teacher", "{:.3f}"),
    ("student", "top_1_agreement", "{:.1%}"),
)


def diversity_table(evaluation: dict[str, Any]) -> Table:
    """Compare how varied the models write with how people do; no rows where nothing was written."""
    diversity = evaluation.get("diversity")
    if not diversity:
        return [], []
    writers = diversity["writers"]
    rows = [
        [label, *(_cell(each[key]["value"], each[key]["interval_95"], pattern) for each in writers.values())]
        for key, (label, pattern) in _WRITING.items()
    ]
    heading = f"{diversity['num_prompts']} texts, {diversity['words']} words of each"
    return [heading, *(LABELS.get(name, name) for name in writers)], rows


def _judge(label: str, entries: dict[str, Any], key: str, pattern: str, names: Sequence[str]) -> list[str]:
    """Write a figure of every model with its interval; bold is the best of the students, by the label's arrow."""
    cells = [_named(entries[name], key, pattern) if name in entries else MISSING for name in names]
    arrow = label[-1]
    if arrow not in (LOWER, HIGHER):
        return [label, *cells]
    values = [entries[name][key] if name in entries else None for name in names]
    return [
        label,
        *mark_best(cells, values, HIGHER if arrow == HIGHER else LOWER, [name != "teacher" for name in names]),
    ]


def _named(entry: dict[str, Any], key: str, pattern: str) -> str:
    return _cell(entry[key], entry.get(f"{key}_interval_95"), pattern)


def _cell(value: float | None, interval: Sequence[float] | None, pattern: str) -> str:
    """Write a figure, and how far it reaches."""
    text = write_number(value, pattern)
    if value is None or interval is None:
        return text
    low, high = (pattern.format(edge) for edge in interval)
    return f"{text} ({low} to {high})"


def measure_tables(evaluation: dict[str, Any]) -> dict[str, Any]:
    """Return the tables of this file by their names in a page's template; empty for a run of an older build."""
    return {
        "sure": sure_table(evaluation),
        "contexts": contexts_table(evaluation),
        "contexts_words": contexts_words(evaluation),
        "places": [table for kind in PLACES if (table := places_table(evaluation, kind))[1]],
        "diversity": diversity_table(evaluation),
    }
