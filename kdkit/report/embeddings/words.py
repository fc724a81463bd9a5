"""Sentences about a run of embedding models: its verdict, its warnings, and what each score is."""

from typing import Any

from kdkit.config.methods import simple_methods
from kdkit.report.embeddings.tables import COLLAPSED, find_model, label
from kdkit.report.evidence import too_few_steps

MADE_HERE = "python-docs"
"""Source of the tasks that kdkit makes of held-out sentences."""
FEW_ROWS = 100
"""Fewer rows than these are weak evidence: one of them is a percent or more."""

COSTS = {
    "leaf": (0.4, "it keeps a matrix, so that vectors of student and teacher can be compared with each other"),
    "similarity_kl": (0.3, "it needs no projection, and tells alike pairs of sentences better"),
    "simcse": (1.3, "it is what the sentences teach without a teacher"),
    "talas (paper)": (4.2, "it is there to be compared with its publication"),
    "talas (seed)": (1.8, "it is there to be compared with its source"),
    "dskd (seed)": (0.8, "it is there to be compared with its source"),
    "cdm (seed)": (0.4, "it is there to be compared with its source"),
    "emo (paper)": (5.3, "it is there to be compared with its publication"),
    "emo (seed)": (3.5, "it is there to be compared with its source"),
    "stella (seed)": (0.9, "it is there to be compared with its source"),
}
"""Methods that ended more than 0.3 points (three rounded) below plain cosine, by how much, and why one would use them:
benchmarks/embedding_methods.py, layers 0, 2, 5 of all-MiniLM-L6-v2, 120 steps, mean of seven tasks."""


def embedding_verdict(evaluation: dict[str, Any]) -> str:
    """State whether training helped, what is kept of the teacher, and whether something simpler is better.

    After too few steps: that nobody can tell yet, and the figures so far.
    """
    if reason := too_few_steps(find_model(evaluation, "student")[1].get("steps")):
        return f"Too short to tell whether training helped: {reason}. {_so_far(evaluation)}"
    sentences = [_against_untrained(evaluation), _against_teacher(evaluation)]
    sentences += [_against_compared(evaluation), _against_ready(evaluation)]
    return " ".join(sentence for sentence in sentences if sentence)


def warnings(evaluation: dict[str, Any], trainings: dict[str, Any]) -> list[str]:
    """List what a reader must know before believing a number."""
    name, student = find_model(evaluation, "student")
    found, cosine = [], student["mean_off_diagonal_cosine"]
    if cosine > COLLAPSED:
        found.append(
            f"The student has collapsed: different sentences have a mean cosine of {cosine:.2f} under it, so it hardly "
            "tells them apart. Scores that only look at order can hide that."
        )
    others = [other for other, entry in trainings.items() if entry["collapsed"] and other != name]
    if others:
        found.append(f"Trainings that collapsed (mean cosine above {COLLAPSED}): {', '.join(others)}.")
    if evaluation["tasks"] and all(task["source"] == MADE_HERE for task in evaluation["tasks"].values()):
        found.append(
            "All tasks are made of held-out sentences of Python's documentation: they compare the models of this run "
            "and are no benchmark. Name data sets in evaluate.tasks to compare with published scores."
        )
    for name in trainings:
        if name in COSTS:
            points, reason = COSTS[name]
            found.append(
                f"{name} ended {points} points below plain cosine in kdkit's own comparison "
                f"(benchmarks/embedding_methods.py); {reason}."
            )
    few = [f"{name} ({task['rows']})" for name, task in evaluation["tasks"].items() if task["rows"] < FEW_ROWS]
    if few:
        found.append(f"Tasks of fewer than {FEW_ROWS} rows: {', '.join(few)}. Their scores are rough.")
    return found + [note for task in evaluation["tasks"].values() for note in task["notes"]]


def protocols(evaluation: dict[str, Any]) -> list[tuple[str, str]]:
    """State what the scores are: (the tasks of which it is true, words); the models too, where they differ in it."""
    models = {label(name, entry): entry["tasks"] for name, entry in evaluation["models"].items() if "tasks" in entry}
    tasks_of: dict[str, list[str]] = {}
    for task in find_model(evaluation, "student")[1]["tasks"]:
        models_of: dict[str, list[str]] = {}
        for name, tasks in models.items():
            if task in tasks:
                models_of.setdefault(tasks[task]["protocol"], []).append(name)
        for words, names in models_of.items():
            tasks_of.setdefault(words, []).append(task if len(models_of) == 1 else f"{task} ({', '.join(names)})")
    return [(", ".join(tasks), words) for words, tasks in tasks_of.items()]


def cache_words(asked: dict[str, Any]) -> str:
    """State where the teacher's signals came from, and the memory freed; from teacher/probe.json `cache`."""
    if asked.get("layers") == 0:
        return f"Its vectors are those of a file ({asked['num_bytes'] / 1e6:,.1f} MB): {asked['files'][0]}."
    if "files" not in asked:
        return "It stayed in memory and answered in every step."
    size = f"{asked['num_bytes'] / 1e6:,.1f} MB in {len(asked['files'])} file{'s' if len(asked['files']) > 1 else ''}"
    if asked["from_cache"]:
        return f"Its answers were there from an earlier run ({size}); it was not loaded for training."
    memory = asked["memory"]
    before, after = (memory[key] / 1e6 for key in ("peak", "freed"))
    return (
        f"It was asked once, in {asked['seconds']:,.1f} s, and its answers kept ({size}). Memory on the "
        f"{memory['device']}: {before:,.0f} MB at most while it answered, {after:,.0f} MB once it was freed."
    )


def _so_far(evaluation: dict[str, Any]) -> str:
    """Give the figures of student and start, and leave the judgement out."""
    (name, student), (other, untrained) = find_model(evaluation, "student"), find_model(evaluation, "untrained")
    return (
        f"So far the student ({name}) is at {student['average']:.2f}, at {untrained['average']:.2f} before training: "
        f"{_points(evaluation['differences'][other]['average'])}."
    )


def _against_untrained(evaluation: dict[str, Any]) -> str:
    """State whether the student is better than before its training."""
    (name, student), (other, untrained) = find_model(evaluation, "student"), find_model(evaluation, "untrained")
    found = evaluation["differences"][other]["average"]
    low, high = found["interval_95"]
    if low > 0:
        result = "beats the same student before training"
    elif high < 0:
        result = "is worse than the same student before training"
    else:
        result = "is not better than the same student before training, beyond chance"
    tasks = len(evaluation["tasks"])
    return (
        f"The student ({name}) {result}: {student['average']:.2f} against {untrained['average']:.2f} on the average of "
        f"{tasks} task{'s' if tasks > 1 else ''}, {_points(found)}."
    )


def _against_teacher(evaluation: dict[str, Any]) -> str:
    """State what is kept of the teacher, for which cost."""
    (_, student), (_, teacher) = find_model(evaluation, "student"), find_model(evaluation, "teacher")
    if "skipped" in teacher:
        return f"The teacher has no scores beside it: {teacher['skipped']}."
    if student["share_of_teacher"] is None:
        return f"The teacher's average is {teacher['average']:.2f}: there is no share of it to keep."
    keeps = f"It keeps {student['share_of_teacher']:.1%} of the teacher's average ({teacher['average']:.2f})"
    if teacher["parameters"] is None:
        return f"{keeps}, whose vectors are those of a file."
    size, speed = (student[key] / teacher[key] for key in ("parameters", "sentences_per_second"))
    return f"{keeps} with {size:.0%} of its parameters, at {speed:.1f} times its sentences per second."


def _against_compared(evaluation: dict[str, Any]) -> str:
    """State whether another method is better, above all a simpler one."""
    scores = {name: entry["average"] for name, entry in evaluation["models"].items() if entry["role"] == "compared"}
    if not scores:
        return ""
    name, student = find_model(evaluation, "student")
    order = sorted(scores, key=scores.__getitem__, reverse=True)
    ahead = [other for other in order if scores[other] > student["average"]]
    found = {other: evaluation["differences"][other]["average"] for other in scores}
    if not ahead:
        nearest = f"the nearest is {order[0]} with {scores[order[0]]:.2f}, {_points(found[order[0]])}"
        return f"No method that was compared scores higher; {nearest}."
    simpler = [] if _is_simple(name) else [other for other in ahead if _is_simple(other)]
    best = (simpler or ahead)[0]
    result = "is better" if found[best]["interval_95"][1] < 0 else "scores higher, though not beyond chance"
    rest = [other for other in ahead if other != best]
    also = f" Higher too: {', '.join(rest)}." if rest else ""
    kind = "simpler" if simpler else "compared"
    return f"The {kind} method {best} {result}: {scores[best]:.2f}, {_points(found[best])}.{also}"


def _against_ready(evaluation: dict[str, Any]) -> str:
    """State whether a ready model would have been better."""
    for name, entry in evaluation["models"].items():
        if entry["role"] == "off_the_shelf" and "skipped" not in entry:
            found = evaluation["differences"][name]["average"]
            low, high = found["interval_95"]
            result = "is better" if high < 0 else "is not as good" if low > 0 else "does not differ beyond chance"
            return f"The ready model ({name}) {result}: {entry['average']:.2f}, {_points(found)}."
    return ""


def _is_simple(name: str) -> bool:
    """Return whether a model was trained by a simple method, in whichever form."""
    return name.split(" ")[0] in simple_methods()


def _points(found: dict[str, Any]) -> str:
    """Write a difference: student minus the other."""
    low, high = found["interval_95"]
    return (
        f"a difference of {found['difference']:+.2f} points for the student (95 % interval {low:+.2f} to {high:+.2f})"
    )
