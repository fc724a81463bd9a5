"""Tables and sentences about the problems that models solved: who is right on what, on which steps, at which cost."""

from pathlib import Path
from typing import Any

from kdkit.report.tables import MISSING, Table, write_interval, write_number
from kdkit.report.writing import HIGHER, LOWER, mark_best
from kdkit.runs.curves import LABELS

SETS = {"held_out": "held-out numbers", "held_out_templates": "held-out kinds of problems"}
"""What sets of problems are called; a file has its own name."""
WAYS = {
    "first": "one sample",
    "vote": "a vote",
    "steps": "a vote, wrong steps lose theirs",
    "verified": "the same, and the answer must hold in the statement",
    "verifier": "a vote weighted by a trained verifier",
}
"""Ways of choosing among samples, as `kdkit.evaluate.maths.selection` names them."""
HEADLINE = ("student", "baseline", "teacher")
"""Whose right answers are said first: the student, its twin without a teacher, the teacher."""
_ROWS = {
    "steps.right_share": (f"checked steps that are right {HIGHER}", HIGHER),
    "steps.flawless": (f"solutions without a wrong step {HIGHER}", HIGHER),
    "steps.right_answer_wrong_step": (f"right answers after a wrong step {LOWER}", LOWER),
    "format_errors": (f"no answer that can be read {LOWER}", LOWER),
    "unfinished": (f"not finished {LOWER}", LOWER),
}


def maths_sections(evaluation: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what a page prints of every set of problems; nothing where there are none.

    Returns:
        Per set `title`, the tables `accuracy`, `details` and `selection` (None without samples), and the sentences
        `verdict` and `contamination`.
    """
    maths = evaluation.get("maths") or {"sets": {}}
    return [
        {
            "title": title_of(name),
            "accuracy": accuracy_table(found, name),
            "details": details_table(found),
            "selection": selection_table(found),
            "verdict": solving_verdict(found),
            "contamination": contamination_sentence(found["contamination"]),
        }
        for name, found in maths["sets"].items()
    ]


def maths_headline(evaluation: dict[str, Any]) -> str:
    """State who has how many right answers, a sentence for every set of problems; empty where none were asked."""
    sets = (evaluation.get("maths") or {"sets": {}})["sets"]
    return " ".join(_headline(found, title_of(name)) for name, found in sets.items())


def title_of(name: str) -> str:
    """Name a set of problems for a reader."""
    return SETS.get(name, f"problems of {Path(name).name}")


def accuracy_table(found: dict[str, Any], name: str) -> Table:
    """Put the models' accuracies side by side: on all problems, by domain, level and kind."""
    models = found["models"]
    first = next(iter(models.values()))
    rows = [("all problems", list(models.values()))]
    for field in ("domain", "level", "template"):
        groups = first[f"by_{field}"]
        if len(groups) > 1:
            rows += [
                (_name_group(field, group), [model[f"by_{field}"][group] for model in models.values()])
                for group in groups
            ]
    eligible = [model != "teacher" for model in models]
    table = []
    for label, shares in rows:
        cells = mark_best([_share(each) for each in shares], [each["accuracy"] for each in shares], HIGHER, eligible)
        table.append([label, f"{shares[0]['count']:,}", *cells])
    return [f"right answers, {title_of(name)} {HIGHER}", "problems", *_labels(models)], table


def details_table(found: dict[str, Any]) -> Table:
    """Put steps, errors of format and samples side by side."""
    models = found["models"]
    eligible = [model != "teacher" for model in models]
    rows = []
    for key, (label, good) in _ROWS.items():
        values = [_value(model, key) for model in models.values()]
        cells = [write_number(value, "{:.1%}") for value in values]
        rows.append([label, *mark_best(cells, values, good, eligible)])
    first_wrong = [_first_wrong(model["steps"]["first_wrong"]) for model in models.values()]
    rows.append(["solutions that go wrong first at step", *first_wrong])
    samples = next(iter(models.values())).get("samples")
    if samples:
        for k in next(iter(models.values()))["pass_at"]:
            shares = [model["pass_at"][k] for model in models.values()]
            cells = [f"{each['mean']:.1%}{_between(each['interval_95'])}" for each in shares]
            label = f"pass@{k} {HIGHER}" if int(k) > 1 else f"one sample {HIGHER}"
            rows.append([label, *mark_best(cells, [each["mean"] for each in shares], HIGHER, eligible)])
        shares = [model["majority"] for model in models.values()]
        cells = mark_best([_share(each) for each in shares], [each["accuracy"] for each in shares], HIGHER, eligible)
        rows.append([f"vote of {samples} samples {HIGHER}", *cells])
    return ["steps and samples", *_labels(models)], rows


def selection_table(found: dict[str, Any]) -> Table | None:
    """Say what a choice among the student's samples is worth, and costs; None without samples."""
    selection = found.get("selection")
    if selection is None:
        return None
    base = selection["single"]["student"]["compute"]
    rows = []
    for name, single in selection["single"].items():
        times = single["compute"] / base if single["compute"] and base else None
        rows.append([f"{LABELS[name]}: greedy", "1", write_number(times, "{:.1f}"), _share(single), MISSING, MISSING])
    for row in selection["ways"]:
        gain = row["difference"]
        rows.append(
            [
                f"{LABELS['student']}: {WAYS[row['way']]}",
                str(row["samples"]),
                write_number(row["times_greedy"], "{:.1f}"),
                _share(row),
                f"{100 * gain['mean']:+.1f}",
                _points(gain["interval_95"]),
            ]
        )
    headings = ["choice among samples", "samples", f"compute, times one greedy answer {LOWER}", f"right {HIGHER}"]
    return [*headings, f"points above greedy {HIGHER}", "95 % interval"], rows


def solving_verdict(found: dict[str, Any]) -> str:
    """State whether the student solves more problems than the others, and what its samples are worth."""
    sentences = []
    for name, difference in found["differences"].items():
        if difference["interval_95"] is None:
            continue
        low, high = difference["interval_95"]
        result = "more than" if low > 0 else "fewer than" if high < 0 else "no more and no fewer than"
        other = LABELS[name].replace("baseline, ", "the baseline of ").replace("teacher", "the teacher")
        sentences.append(
            f"{result} {other} ({100 * difference['mean']:+.1f} points, 95 % interval over {found['num_problems']} "
            f"problems {_points(difference['interval_95'])})"
        )
    text = f"The student solves {'; '.join(sentences)}." if sentences else ""
    return " ".join([text, *_equal_compute(found)]).strip()


def contamination_sentence(contamination: dict[str, Any]) -> str:
    """Say how much of the problems the models have seen."""
    if not contamination["training_texts"]:
        return "Nothing is known of the training texts, so nobody can say whether the problems were in them."
    parts = [
        f"word for word: {contamination['same_text']:.1%}",
        f"with the same numbers in the same words: {contamination['same_numbers']:.1%}",
        f"nearly: {contamination['near_copies']:.1%}",
    ]
    if contamination["ngrams"] is not None:
        parts.append(f"of their runs of 13 words {contamination['ngrams']:.1%}")
    return f"Of these problems stand in the {contamination['training_texts']:,} training texts {', '.join(parts)}."


def _headline(found: dict[str, Any], title: str) -> str:
    models = {name: found["models"][name] for name in HEADLINE if name in found["models"]}
    shares = ", ".join(f"{LABELS[name]} {_share(model)}" for name, model in models.items())
    twin = found["differences"].get("baseline") or {"interval_95": None}
    text = f"Right answers to {found['num_problems']} problems ({title}): {shares}"
    if twin["interval_95"] is None:
        return f"{text}."
    return f"{text}; student minus twin {100 * twin['mean']:+.1f} points ({_points(twin['interval_95'])})."


def _equal_compute(found: dict[str, Any]) -> list[str]:
    """State what the student's samples are worth against one answer of a larger model."""
    sentences = []
    for name, equal in (found.get("selection") or {"equal_compute": {}})["equal_compute"].items():
        way = equal["ways"].get("verified")
        if way is None:
            sentences.append(f"One greedy answer of the {LABELS[name]} costs less than a sample of the student.")
            continue
        difference = way["difference"]
        sentences.append(
            f"At no more compute than one greedy answer of the {LABELS[name]} ({equal['accuracy']:.1%} right), "
            f"{way['samples']} sample(s) of the student, chosen by steps, statement and vote, are "
            f"{way['accuracy']:.1%} right: {100 * difference['mean']:+.1f} points "
            f"({_points(difference['interval_95'])})."
        )
    return sentences


def _labels(models: dict[str, Any]) -> list[str]:
    return [LABELS[name] for name in models]


def _name_group(field: str, group: str) -> str:
    return f"level {group}" if field == "level" else group.replace("_", " ")


def _value(model: dict[str, Any], key: str) -> float | None:
    """Return a figure of a model by a dotted name; of a share its accuracy."""
    value: Any = model
    for part in key.split("."):
        value = value[part]
    return value["accuracy"] if isinstance(value, dict) else value


def _share(each: dict[str, Any]) -> str:
    """Write a share, and how far it reaches."""
    return MISSING if each["accuracy"] is None else f"{each['accuracy']:.1%}{_between(each['interval_95'])}"


def _between(interval: list[float] | None) -> str:
    return "" if interval is None else f" ({interval[0]:.0%} to {interval[1]:.0%})"


def _points(interval: list[float] | None) -> str:
    return MISSING if interval is None else write_interval([100 * edge for edge in interval], 1)


def _first_wrong(counts: list[int]) -> str:
    """Write how many solutions go wrong first at which step."""
    found = [f"{number}: {count}" for number, count in enumerate(counts, 1) if count]
    return ", ".join(found[:4]) + (", ..." if len(found) > 4 else "") if found else MISSING
