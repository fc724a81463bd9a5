"""The report stage: `report.html` (self-contained), `report.md` and the student's model card (notebook 05)."""

from pathlib import Path
from typing import Any

from kdkit.machine.tracking.copies import copy_report
from kdkit.report.answers import answer_examples, answers_table, answers_verdict, pairs_table, pairs_verdict
from kdkit.report.deployment import deployment_tables
from kdkit.report.explore.experts import draw_experts
from kdkit.report.figures import (
    draw_alignment,
    draw_expert_load,
    draw_layer_map,
    draw_learning_curves,
    draw_loss_parts,
    draw_loss_terms,
    draw_overlap,
    draw_quality_against_size,
)
from kdkit.report.maths.figures import draw_solving
from kdkit.report.maths.tables import maths_sections
from kdkit.report.maths.verdict import run_verdict
from kdkit.report.measures.figures import draw_calibration, draw_places
from kdkit.report.measures.harness import run_harness_table
from kdkit.report.measures.tables import measure_tables
from kdkit.report.recipe import language_recipe
from kdkit.report.render import picture_files, render_files, run_facts
from kdkit.report.router import draw_router
from kdkit.report.story.beside import runs_beside, sweeps_beside
from kdkit.report.story.done import HOW_TO_READ, teacher_names, what_was_done
from kdkit.report.story.limits import language_limits
from kdkit.report.story.methods import loss_as_formula, used_loss
from kdkit.report.story.pictures import LANGUAGE, curves_in_words, levels_in_words
from kdkit.report.story.references import language_references
from kdkit.report.story.result import cost_sentence, headline, split_costs, stage_table, twin_table
from kdkit.report.story.start import start_table
from kdkit.report.tables import (
    comparison_table,
    compression_table,
    continuations_table,
    cost_table,
    equal_time_table,
)
from kdkit.report.teachers import differences_table, draw_kinds, draw_shares
from kdkit.runs.curves import read_curves, teacher_level
from kdkit.runs.folder import Run

COPIED = ("comparison", "compression", "equal_time", "costs", "continuations", "answers", "pairs")
"""Tables that are copied to Weights & Biases."""


def write_report(run: Run) -> Path:
    """Write the page, and copy its pictures and tables to Weights & Biases where the run's trainings were copied.

    Returns:
        The path of `report.html`.

    Raises:
        UserError: a stage has not run; the message names its file.
    """
    facts = write_page(run)
    copy_report(run, picture_files(run, facts), {name: facts[name] for name in COPIED}, facts["evaluation"]["models"])
    return run.path / "report.html"


def write_page(run: Run) -> dict[str, Any]:
    """Write the page, its Markdown twin and the model card from what the run folder holds; return what they print.

    Raises:
        UserError: see `write_report`.
    """
    files = {"report.md": "report.md.j2", "student/README.md": "model_card.md.j2", "report.html": "report.html.j2"}
    facts = _facts(run)
    render_files(run.path, files, facts)
    return facts


def _facts(run: Run) -> dict[str, Any]:
    """Collect everything that the templates print; draws the pictures."""
    evaluation = run.read_json("evaluation.json")
    teacher = evaluation["models"]["teacher"]
    if "architecture" not in teacher:  # of an older build
        teacher |= {"architecture": run.read_json("teacher/probe.json")["architecture"]}
    alts = {
        "Learning curves": curves_in_words(read_curves(run), teacher_level(run)),
        "Quality and cost": levels_in_words(evaluation["models"]),
    }
    facts = run_facts(run, "Distillation run", _draw(run), LANGUAGE, alts)
    facts |= {"evaluation": evaluation, "hardware": evaluation["evaluated"]["hardware"]}
    return facts | _story(run, facts) | _tables(evaluation, facts["config"]["report"]["num_examples"])


def _draw(run: Run) -> dict[str, Path | None]:
    """Draw the pictures, by their titles."""
    was_probed = (run.path / "teacher" / "probe.json").is_file()  # 03 needs no 02
    return {
        "Quality and cost": draw_quality_against_size(run),
        "Where in a text they are good": draw_places(run),
        "Confidence and truth": draw_calibration(run),
        "Problems solved": draw_solving(run),
        "Learning curves": draw_learning_curves(run),
        "Terms of the student's loss": draw_loss_terms(run),
        "Agreement with the teacher while it trained": draw_overlap(run),
        "Parts of the teacher's signal": (parts := draw_loss_parts(run)),
        "Which layers were compared": draw_layer_map(run) if parts is not None and was_probed else None,
        "Who taught what": draw_shares(run),
        "Kind by kind": draw_kinds(run),
        "How the teacher was routed": draw_router(run),
        "How the tokenizers meet": draw_alignment(run),
        "The teacher's experts": draw_expert_load(run) if was_probed else None,
        "Its experts on a held-out text": draw_experts(run) if was_probed else None,
    }


def _story(run: Run, facts: dict[str, Any]) -> dict[str, Any]:
    """Say what was done, what came of it, what it cost and what cannot be claimed."""
    evaluation, config, manifest = (facts[name] for name in ("evaluation", "config", "manifest"))
    training, status = (_read_if_there(run, name) for name in ("training.json", "status.json"))
    steps = evaluation["models"]["student"].get("training", {}).get("steps")
    sweeps, has_tasks = sweeps_beside(run, config, steps), (run.path / "lm_eval.json").is_file()
    return {
        "recipe": language_recipe(config, training, evaluation["models"]["student"]["training"]["steps"]),
        "verdict": run_verdict(evaluation),
        "tiles": headline(evaluation),
        "num_teachers": len(teacher_names(config)) or 1,
        "how_to_read": HOW_TO_READ,
        "done": what_was_done(config, evaluation, manifest, training),
        "start": start_table(run),
        "formula": loss_as_formula(used_loss(config, training), config["distill"]),
        "twins": twin_table(evaluation),
        "cost_words": cost_sentence(evaluation),
        "cost_groups": split_costs(evaluation),
        "stages": stage_table(status),
        "runs_beside": runs_beside(run, config, evaluation, manifest),
        "sweeps": sweeps,
        "limits": language_limits(config, evaluation, manifest, [sweep["name"] for sweep in sweeps], has_tasks),
        "references": language_references(config, training),
        "by_kind": differences_table(run),
        "deployment": deployment_tables(run),
        "harness": run_harness_table(run),
    }


def _tables(evaluation: dict[str, Any], num_examples: int) -> dict[str, Any]:
    """Return the tables of what was measured."""
    return {
        "comparison": comparison_table(evaluation),
        "compression": compression_table(evaluation),
        "equal_time": equal_time_table(evaluation),
        "costs": cost_table(evaluation),
        "continuations": continuations_table(evaluation, num_examples),
        "answers": answers_table(evaluation),
        "answers_verdict": answers_verdict(evaluation),
        "examples": answer_examples(evaluation, num_examples),
        "pairs": pairs_table(evaluation),
        "pairs_verdict": pairs_verdict(evaluation),
        "maths": maths_sections(evaluation),
        "measures": measure_tables(evaluation),
    }


def _read_if_there(run: Run, name: str) -> dict[str, Any]:
    return run.read_json(name) if (run.path / name).is_file() else {}
