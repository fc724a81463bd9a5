"""What a run cannot claim, from its own figures: every sentence here is true of this run, none of every run."""

import statistics
from typing import Any

from kdkit.report.evidence import too_short
from kdkit.report.story.done import BUILD, teacher_names

FEW_DOCUMENTS = 100
"""Held-out documents below which an interval over them is itself uncertain."""
LITTLE_TEXT = 1_000_000
"""Bytes of held-out text below which rare words hardly occur."""
FAIR_TIME = 0.1
"""Share by which an equal time may differ before a reader is told."""
NOTABLE_GAIN = 0.005
"""Bits per byte still gained in the last fifth of the steps that are told."""


def language_limits(
    config: dict[str, Any],
    evaluation: dict[str, Any],
    manifest: dict[str, Any],
    sweeps: list[str],
    has_tasks: bool = False,
) -> list[str]:
    """List what cannot be concluded from a run of language models, the weightiest first.

    Args:
        sweeps: names of sweeps beside this run, which say more of seeds than it can.
        has_tasks: whether tasks were asked apart from the evaluation.
    """
    found = [
        _length(evaluation),
        _seed(config, sweeps),
        _start(config),
        _time(evaluation),
        _teacher(config, evaluation),
    ]
    found += [
        _text(evaluation, manifest),
        _units(evaluation),
        _comparable(evaluation),
        "" if has_tasks else _tasks(evaluation),
        _speed(evaluation),
    ]
    return [sentence for sentence in found if sentence]


def _length(evaluation: dict[str, Any]) -> str:
    """Say when the training was too short, or not at its end."""
    if reason := too_short(evaluation):
        return f"No verdict on distillation: {reason}."
    late, steps = evaluation.get("late_gain"), evaluation["models"]["student"].get("training", {}).get("steps")
    if late is not None and late >= NOTABLE_GAIN:
        return (
            f"The student was still learning: it gained {late:.3f} bits per byte in the last fifth of its {steps:,} "
            "steps. How large the difference is after a longer training is not known; a baseline may catch up."
        )
    return ""


def _seed(config: dict[str, Any], sweeps: list[str]) -> str:
    beside = f" More seeds are in {', '.join(sweeps)}." if sweeps else ""
    return (
        f"One seed ({config['seed']}) was run. The intervals say how much the choice of the held-out text matters; how "
        f"much other initial weights, another order of reading or other documents matter, they do not.{beside}"
    )


def _start(config: dict[str, Any]) -> str:
    made = config["student"].get("from_teacher")
    if not made and not config["distill"].get("start_from_teacher"):
        return ""
    part = "parts of the teacher" if made else "the teacher's embeddings"
    return (
        f"The student starts from {part} and the baselines do not: the difference is that of start "
        "and answers together. Which of the two it comes from, this run alone cannot tell."
    )


def _time(evaluation: dict[str, Any]) -> str:
    """Say whether equal time was asked, and whether it was equal."""
    student = evaluation["models"]["student"].get("training", {}).get("seconds")
    twin = evaluation["models"].get("baseline_equal_time")
    if twin is None:
        baseline = evaluation["models"]["baseline"].get("training", {}).get("seconds")
        if not student or not baseline:
            return "No baseline was trained for the student's time: how the two compare at equal cost is not known."
        return (
            f"No baseline was trained for the student's time: at equal steps the student had {student:,.1f} seconds, "
            f"the baseline {baseline:,.1f}. How the two compare at equal cost is not known."
        )
    took = twin.get("training", {}).get("seconds")
    if not student or not took or abs(took / student - 1) <= FAIR_TIME:
        return ""
    return (
        f"Equal time is not quite equal: the baseline was given steps for the student's {student:,.1f} seconds and "
        f"took {took:,.1f}, as this machine was not equally fast all the time."
    )


def _teacher(config: dict[str, Any], evaluation: dict[str, Any]) -> str:
    models = evaluation["models"]
    if names := teacher_names(config):
        return (
            f"The gap and the likeness to the teacher are those of the first of {len(names)} teachers ({names[0]}); "
            "what each of them is worth is told by kinds of text only."
        )
    if config["teacher"]["path"] == BUILD:
        size = models["teacher"].get("parameters")
        of_size = f" of {size:,} parameters" if size else ""
        return (
            f"The teacher is a small model{of_size}, trained here on the same text. It knows nothing that the text "
            "does not say: a large pretrained teacher may help more, or less."
        )
    return ""


def _text(evaluation: dict[str, Any], manifest: dict[str, Any]) -> str:
    """Say how little the held-out text is, and of what kind."""
    size, documents = evaluation["evaluated"]["bytes"], manifest["corpus"]["evaluation_documents"]
    source = manifest["corpus"]["source"]
    little = "" if size >= LITTLE_TEXT and documents >= FEW_DOCUMENTS else ", which is little"
    return (
        f"The held-out text is {size:,} bytes of {documents:,} documents{little}, all of {source}. Nothing here says "
        "how the student does on text of another kind."
    )


def _units(evaluation: dict[str, Any]) -> str:
    over = evaluation["evaluated"].get("intervals_over", "documents")
    if over == "documents":
        return ""
    return (
        f"The intervals are over {over}, as the held-out documents are too few, too unequal or unknown; parts of one "
        "document are alike, so they may be too narrow."
    )


def _comparable(evaluation: dict[str, Any]) -> str:
    reasons = {
        entry["not_comparable"]: name for name, entry in evaluation["models"].items() if entry.get("not_comparable")
    }
    return " ".join(
        f"Figures of {name} are not comparable with the others: {reason}." for reason, name in reasons.items()
    )


def _tasks(evaluation: dict[str, Any]) -> str:
    if any(evaluation.get(name) for name in ("answers", "minimal_pairs", "maths")):
        return ""
    return "Only the prediction of text was measured, no task: fewer bits per byte need not mean better answers."


def _speed(evaluation: dict[str, Any]) -> str:
    """Say how far the speeds can be trusted, from what repeated rounds of them spread."""
    rounds = evaluation["models"]["student"].get("bytes_per_second_by_round") or []
    kind = evaluation["evaluated"]["hardware"].partition(";")[0]
    words = f"Speeds and seconds are of one machine ({kind}) and of what else ran on it"
    if len(rounds) < 2:
        return f"{words}."
    spread = statistics.stdev(rounds) / statistics.mean(rounds)
    return f"{words}; the student's own speed differed by {spread:.0%} from round to round."
