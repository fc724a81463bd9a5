"""The report of a run of embedding models: `report.html` (self-contained), `report.md`, the student's model card."""

from pathlib import Path
from typing import Any

from kdkit.machine.tracking.copies import copy_report
from kdkit.report.embeddings.figures import (
    draw_embedding_curves,
    draw_embedding_losses,
    draw_quality_and_speed,
    draw_share_of_teacher,
    draw_stored_vectors,
)
from kdkit.report.embeddings.story import HOW_TO_READ, embedding_done, embedding_limits, embedding_tiles
from kdkit.report.embeddings.tables import (
    detail_tables,
    dimension_table,
    facts_table,
    find_model,
    model_table,
    mteb_table,
    score_table,
    search_table,
    student_difference_table,
    task_table,
    training_table,
)
from kdkit.report.embeddings.words import cache_words, embedding_verdict, protocols, warnings
from kdkit.report.recipe import embedding_recipe
from kdkit.report.render import picture_files, render_files, run_facts
from kdkit.report.story.pictures import Told
from kdkit.report.story.references import method_references
from kdkit.report.tables import Table, table_of
from kdkit.runs.folder import Run

TOLD = {
    "What is kept of the teacher, task by task": Told(
        "scores",
        "The student's score as a share of the teacher's, a line for every task; the bar is what training has added.",
        "Shares of the teacher's scores by task, before and after training.",
    ),
    "Quality and speed": Told(
        "scores",
        "Left: to the right is better, lines are 95 % intervals. Right: the longer the faster.",
        "Average score of each model with its interval, and sentences per second.",
    ),
    "Score and size of stored vectors": Told(
        "scores",
        "Upwards is better, to the left is smaller to store.",
        "Average score of each model over the bytes of a stored vector.",
    ),
    "Scores during training": Told(
        "training", "Measured while the student trained.", "Scores of the tasks over optimizer steps."
    ),
    "Terms of the student's loss": Told(
        "training", "As they were logged, each on its own scale.", "The terms of the loss over optimizer steps."
    ),
}
"""What is said of the pictures, by their titles."""


def write_embedding_report(run: Run) -> Path:
    """Write the page, its Markdown twin and the model card from what the run folder holds.

    Returns:
        The path of `report.html`.

    Raises:
        UserError: a stage has not run; the message names its file.
    """
    files = {
        "report.md": "embedding_report.md.j2",
        "student/README.md": "embedding_card.md.j2",
        "report.html": "embedding_report.html.j2",
    }
    facts = _facts(run)
    render_files(run.path, files, facts)
    tables = {"Scores": facts["scores"]} | {heading: table for heading, (table, _) in facts["tables"].items()}
    copy_report(run, picture_files(run, facts), tables | facts["details"], facts["evaluation"]["models"])
    return run.path / "report.html"


def _facts(run: Run) -> dict[str, Any]:
    """Collect everything that the templates print; draws the pictures."""
    evaluation, trainings = run.read_json("evaluation.json"), run.read_json("training.json")
    mteb = run.read_json("mteb.json") if (run.path / "mteb.json").is_file() else {}
    name, student = find_model(evaluation, "student")
    student.setdefault("steps", trainings[name]["steps"])  # older builds kept them there only
    pictures = {
        "What is kept of the teacher, task by task": draw_share_of_teacher(run),
        "Quality and speed": draw_quality_and_speed(run),
        "Score and size of stored vectors": draw_stored_vectors(run),
        "Scores during training": draw_embedding_curves(run),
        "Terms of the student's loss": draw_embedding_losses(run),
    }
    facts = run_facts(run, "Embedding distillation run", pictures, TOLD)
    manifest, probe = facts["manifest"], run.read_json("teacher/probe.json")
    facts |= {"probe": probe, "student_name": name, "student": student, "training": trainings[name]}
    return facts | {
        "tiles": embedding_tiles(evaluation),
        "how_to_read": HOW_TO_READ,
        "done": embedding_done(facts),
        "limits": embedding_limits(evaluation, facts["config"]),
        "references": method_references(facts["config"]),
        "recipe": embedding_recipe(facts["config"], name, trainings[name]),
        "verdict": embedding_verdict(evaluation),
        "warnings": warnings(evaluation, trainings),
        "protocols": protocols(evaluation),
        "scores": score_table(evaluation),
        "tables": _tables(evaluation, trainings, mteb),
        "details": detail_tables(evaluation),
        "data": facts_table({key: value for key, value in manifest.items() if key != "key"}),
        "teacher": facts_table({key: value for key, value in probe.items() if key not in ("findings", "cache")}),
        "cache": cache_words(probe["cache"]),
        "findings": table_of(probe["findings"]),
    }


def _tables(
    evaluation: dict[str, Any], trainings: dict[str, Any], mteb: dict[str, Any]
) -> dict[str, tuple[Table, str]]:
    """Return the tables below the scores that have rows, each by its heading and with a line of explanation."""
    tables = {
        "Is the difference more than chance?": (
            student_difference_table(evaluation),
            "Paired bootstrap: the same resamples of every task's rows for both models. It covers the choice of test "
            "rows, not that of the training seed: train with several seeds before calling a small difference real.",
        ),
        "Smaller vectors": (
            dimension_table(evaluation),
            "The first numbers of the vectors alone, at length 1 again, and the bytes of one vector. int8: ranges per "
            "dimension from held-out sentences; binary: signs, compared by Hamming distance. Nearest ten found: by a "
            "search among stored held-out sentences of full width; for binary its best 44 are rescored.",
        ),
        "Search among stored documents": (
            search_table(evaluation),
            "nDCG@10 and the bytes of one document. int8 and binary: queries are stored alike, and binary compares by "
            "Hamming distance. Rescored: the 40 nearest by Hamming distance, put in order by the query's own numbers; "
            "what is stored stays a bit per number.",
        ),
        "Scores by mteb": (
            mteb_table(mteb, evaluation),
            "The folders of the models, read by sentence-transformers at their own lengths and scored by the package "
            "mteb; beside it our score where a task of this run has the same name.",
        ),
        "What training took": (
            training_table(trainings),
            "All trainings start from the same weights and see the same sentences for the same steps. Peak: "
            "the most memory that the process held meanwhile, scoring included (on a GPU, what torch held). Skipped "
            "steps had a gradient that was not finite. Collapsed: mean cosine of different sentences above 0.9.",
        ),
        "The tasks": (task_table(evaluation), ""),
        "The models": (
            model_table(evaluation),
            f"Measured on {evaluation['evaluated']['sentences']:,} held-out sentences. Similarities like the "
            "teacher's: rank correlation of the cosines of all pairs of them (100: the same order). Same nearest "
            "sentence: share of the sentences whose nearest other one is the teacher's too.",
        ),
    }
    return {heading: (table, words) for heading, (table, words) in tables.items() if table[1]}
