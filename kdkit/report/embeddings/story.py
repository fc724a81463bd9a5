"""What was done and what cannot be claimed, for a reader who knows the page of a run of embedding models alone."""

from typing import Any

from kdkit.report.embeddings.tables import find_model
from kdkit.report.embeddings.words import FEW_ROWS, MADE_HERE
from kdkit.report.evidence import too_few_steps
from kdkit.report.story.done import model_name
from kdkit.report.tables import Table
from kdkit.report.writing import write_number_plainly

Tile = tuple[str, str, str]

HOW_TO_READ = [
    (
        "Score",
        "in percent, the higher the better: of similarity the rank correlation with what people said, of "
        "classification the accuracy of a simple classifier on the vectors. The average counts every task the same.",
    ),
    (
        "Share of the teacher's",
        "the student's average divided by the teacher's. The untrained student, which is the same model before its "
        "first step, shows how much of that needs no training.",
    ),
    (
        "95 % interval",
        "where the figure would lie with other rows of the same task. A difference whose interval holds 0 may be "
        "chance. \u2193 and \u2191 say which direction is good; bold is the best of the trained students.",
    ),
]
"""Terms and what they mean: three lines that every other line of the page can be read with."""


def embedding_tiles(evaluation: dict[str, Any]) -> list[Tile]:
    """Return the figures that a reader looks for first."""
    (_, student), (_, teacher) = find_model(evaluation, "student"), find_model(evaluation, "teacher")
    name, untrained = find_model(evaluation, "untrained")
    found = evaluation["differences"][name]["average"]
    low, high = found["interval_95"]
    tiles = [
        ("student, average\u00a0\u2191", f"{student['average']:.2f}", f"{len(evaluation['tasks'])} tasks"),
        ("untrained student", f"{untrained['average']:.2f}", "the same model, before training"),
        ("better by\u00a0\u2191", f"{found['difference']:+.2f}", f"{low:+.2f} to {high:+.2f}"),
    ]
    if "average" in teacher:
        tiles.append(("teacher", f"{teacher['average']:.2f}", "the same tasks"))
    if student.get("share_of_teacher") is not None:
        tiles.append(("share of the teacher's\u00a0\u2191", f"{student['share_of_teacher']:.1%}", "of its average"))
    if teacher.get("parameters"):
        times = teacher["parameters"] / student["parameters"]
        tiles.append(("fewer parameters\u00a0\u2191", f"{times:.1f}\u00d7", "than the teacher"))
    return tiles


def embedding_done(facts: dict[str, Any]) -> Table:
    """Say in words what the run did, a row for each part of it.

    Args:
        facts: of the page: `config`, `evaluation`, `manifest`, `probe`, `training` and `student_name`.
    """
    config, probe, training = facts["config"], facts["probe"], facts["training"]
    train, (_, student) = config["train"], find_model(facts["evaluation"], "student")
    batch = train["per_device_train_batch_size"] * train["gradient_accumulation_steps"]
    vectors = f"vectors of {probe['width']:,} numbers"
    known = f"{probe['parameters']:,} parameters, {vectors}" if probe.get("parameters") else f"{vectors} from a file"
    steps = f"{training['steps']:,} steps of {batch:,} sentences, peak learning rate"
    others = [name for name, entry in facts["evaluation"]["models"].items() if entry["role"] == "compared"]
    rows = [
        ["Teacher", f"{model_name(probe['path'])}: {known}."],
        [
            "Student",
            f"{student['parameters']:,} parameters, vectors of {student['width']:,} numbers; {_start(config)}.",
        ],
        ["Text", f"{facts['manifest']['training_texts']:,} distinct sentences of {facts['manifest']['source']}."],
        ["What it learns", f"Its vectors by the method {facts['student_name']}{_described(config)}."],
        ["Training", f"{steps} {write_number_plainly(train['learning_rate'])}, seed {config['seed']}."],
        ["Compared with", f"The same student before training{''.join(f'; {name}' for name in others)}."],
        ["Measured on", f"{', '.join(facts['evaluation']['tasks'])}; none of their test sentences were trained on."],
    ]
    return ["part", "what was done"], rows


def embedding_limits(evaluation: dict[str, Any], config: dict[str, Any]) -> list[str]:
    """List what cannot be concluded from a run of embedding models, the weightiest first."""
    student, found = find_model(evaluation, "student")[1], []
    if reason := too_few_steps(student.get("steps")):
        found.append(f"No verdict on the training: {reason}.")
    found.append(
        f"One seed ({config['seed']}) was run. The intervals say how much the choice of test rows matters; how much "
        "other initial weights or another order of reading matter, they do not."
    )
    tasks = evaluation["tasks"]
    if tasks and all(task["source"] == MADE_HERE for task in tasks.values()):
        found.append("All tasks are made of held-out sentences of the training's own source: this is no benchmark.")
    if few := [f"{name} ({task['rows']})" for name, task in tasks.items() if task["rows"] < FEW_ROWS]:
        found.append(f"Tasks of fewer than {FEW_ROWS} rows: {', '.join(few)}; one row is a percent or more of them.")
    if len(tasks) < 3:
        found.append(f"An average of {len(tasks)} task{'s' * (len(tasks) > 1)} says little of others.")
    where = f"{evaluation['evaluated']['threads']} thread(s), {student['device']}"
    return [*found, f"Speeds are of one machine ({where}) and of what else ran on it."]


def _start(config: dict[str, Any]) -> str:
    """Say from which weights the student starts."""
    student = config["student"]
    layers = student.get("layers")
    kept = "" if layers is None else f" (layers {', '.join(map(str, layers))})"
    words = {
        "reduce": f"it starts as some of the teacher's own layers{kept}",
        "build": "new: it starts from random numbers",
        "static": "a table with a vector for every token, no layers",
    }
    return words.get(student["path"], f"it starts from {model_name(student['path'])}{kept}")


def _described(config: dict[str, Any]) -> str:
    """Say in which form a method was used, where it has several."""
    method = config["method"]
    form = "" if isinstance(method, str) else method.get("form", "")
    return f", in its {form} form" if form and form != "recommended" else ""
