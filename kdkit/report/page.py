"""The report stage: `report.html` (self-contained), `report.md` and the student's model card (notebook 05)."""

import json
import shlex
from pathlib import Path
from typing import Any

import yaml

from kdkit.report.experts import draw_experts
from kdkit.report.figures import (
    draw_alignment,
    draw_expert_load,
    draw_layer_map,
    draw_learning_curves,
    draw_loss_parts,
    draw_loss_terms,
    draw_quality_against_size,
)
from kdkit.report.render import embed_picture, render_files
from kdkit.report.router import draw_router
from kdkit.report.tables import comparison_table, continuations_table, language_verdict, to_html, to_markdown
from kdkit.runs.folder import Run


def write_report(run: Run) -> Path:
    """Write the page, its Markdown twin and the model card from what the run folder holds.

    Returns:
        The path of `report.html`.

    Raises:
        UserError: a stage has not run; the message names its file.
    """
    files = {"report.md": "report.md.j2", "student/README.md": "model_card.md.j2", "report.html": "report.html.j2"}
    render_files(run.path, files, collect_facts(run))
    return run.path / "report.html"


def collect_facts(run: Run) -> dict[str, Any]:
    """Collect everything that the templates print; draws the pictures."""
    config = yaml.safe_load((run.path / "config.yaml").read_text(encoding="utf-8"))
    evaluation = run.read_json("evaluation.json")
    pictures = {
        "Quality and cost": draw_quality_against_size(run),
        "Learning curves": draw_learning_curves(run),
        "Terms of the student's loss": draw_loss_terms(run),
        "Parts of the teacher's signal": (parts := draw_loss_parts(run)),
        "Which layers were compared": draw_layer_map(run) if parts is not None else None,
        "How the teacher was routed": draw_router(run),
        "How the tokenizers meet": draw_alignment(run),
        "The teacher's experts": draw_expert_load(run),
        "Its experts on a held-out text": draw_experts(run),
    }
    comparison = comparison_table(evaluation)
    continuations = continuations_table(evaluation, config["report"]["num_examples"])
    return {
        "title": config["report"]["title"] or f"Distillation run {run.name}",
        "run": run.name,
        "verdict": language_verdict(evaluation),
        "evaluation": evaluation,
        "manifest": run.read_json("data/manifest.json"),
        "probe": run.read_json("teacher/probe.json"),
        "environment": run.read_json("env.json"),
        "config": config,
        "config_text": (run.path / "config.yaml").read_text(encoding="utf-8"),
        "command": f"python -m kdkit run {shlex.quote(str(run.path / 'config.yaml'))} --name {run.name}-again",
        "pictures": {title: (path.name, embed_picture(path)) for title, path in pictures.items() if path is not None},
        "comparison_html": to_html(comparison),
        "comparison_markdown": to_markdown(comparison),
        "continuations_html": to_html(continuations),
        "continuations_markdown": to_markdown(continuations),
        "environment_text": json.dumps(run.read_json("env.json"), indent=1),
    }
