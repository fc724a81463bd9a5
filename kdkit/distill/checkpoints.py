"""What a phase of training leaves on disk: the ends of its stages, its model, and what it cost."""

import json
import math
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from kdkit.distill.curriculum import cached_rows
from kdkit.distill.layer_terms import LayerParts
from kdkit.distill.open_teacher import cache_path
from kdkit.distill.plan import Stage, TrainingPlan
from kdkit.distill.trainer import PARTS_FILE
from kdkit.losses.chunked.engine import Head, rows_per_chunk
from kdkit.models.loading import no_bar
from kdkit.runs.costs import read_cost
from kdkit.runs.folder import Run
from kdkit.training.arguments import last_checkpoint
from kdkit.training.trainer import COUNTS_FILE

STUDENT, BASELINE, EQUAL_TIME, ANSWERS_REUSED = "student", "baseline", "baseline_equal_time", "baseline_answers_reused"
"""Phases of training, which are also the folders of the trained models in the run."""

PROJECTIONS_FILE = "student_projections.safetensors"
"""In the run, beside `student/`: what maps the student's hidden states to the teacher's width."""


@dataclass(frozen=True)
class TrainingResult:
    """What one phase of training cost."""

    phase: str
    steps: int
    seconds: float
    """Wall time of the steps, without the learning curve's evaluations."""
    tokens: int
    """Student tokens read, counted."""
    skipped_steps: int
    """Steps skipped by GradScaler because of inf gradients (fp16 only)."""
    teacher_seconds: float = 0.0
    """Part of `seconds` in which a teacher in memory answered."""
    teacher_tokens: int = 0
    """The teacher's tokens that it read for that."""
    router_seconds: float = 0.0
    """Part of `seconds` that the router's own steps took."""
    router_tokens: int = 0
    """The teacher's tokens that these looked at."""


def checkpoint_folder(run: Run, phase: str, stage: Stage) -> Path:
    """Return where a stage keeps its checkpoints."""
    folder = run.path / "checkpoints" / phase
    return folder / f"{stage.first_step:06d}-{stage.name}" if stage.name else folder


def save_stage(folder: Path, student: PreTrainedModel, parts: LayerParts | None, counts: dict[str, float]) -> None:
    """Keep the weights at the end of a stage, whole or not at all; its checkpoints are no longer needed."""
    partial = folder / ".finished.partial"
    shutil.rmtree(partial, ignore_errors=True)
    with no_bar():
        student.save_pretrained(partial)
    if parts is not None:
        torch.save(parts.state(), partial / PARTS_FILE)
    (partial / COUNTS_FILE).write_text(json.dumps(counts))
    partial.rename(folder / "finished")
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint, ignore_errors=True)


def load_stage(
    folder: Path, student: PreTrainedModel, parts: LayerParts | None, stage: Stage
) -> dict[str, float] | None:
    """Load the weights with which a stage ended into the student and the parts of its loss; None if it has not.

    A checkpoint of the last step is such an end: Trainer would take one more step from it.

    Returns:
        What the stage has counted; see `read_counts` of the trainers.
    """
    weights = folder / "finished"
    if not weights.is_dir():
        weights = folder / f"checkpoint-{stage.steps}"
        if last_checkpoint(folder) != str(weights):
            return None
    with no_bar():
        saved = AutoModelForCausalLM.from_pretrained(weights, dtype=student.dtype, local_files_only=True)
    student.load_state_dict(saved.state_dict())
    # a stage without the teacher keeps none
    if parts is not None and (weights / PARTS_FILE).is_file():
        parts.load_state(torch.load(weights / PARTS_FILE, map_location=student.device, weights_only=True))
    counts = weights / COUNTS_FILE
    return json.loads(counts.read_text()) if counts.is_file() else {}


def save_student(
    run: Run, phase: str, student: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, parts: LayerParts | None
) -> None:
    """Save a trained model and its tokenizer to the run's folder PHASE, which appears whole or not at all."""
    if parts is not None and len(parts.projections):
        save_file(parts.projections.state_dict(), run.path / PROJECTIONS_FILE)
    partial = run.path / f".{phase}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    with no_bar():
        student.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    shutil.rmtree(run.path / phase, ignore_errors=True)
    partial.rename(run.path / phase)


def read_result(run: Run, phase: str) -> TrainingResult | None:
    """Read what a finished phase cost; None if it has not finished."""
    path = run.path / "training.json"
    values = json.loads(path.read_text()).get(phase) if path.is_file() else None
    return TrainingResult(**values) if values else None


def update_results(run: Run, values: dict[str, Any]) -> None:
    """Add entries to `training.json`: what a phase cost, and the level that the teacher sets."""
    path = run.path / "training.json"
    results = json.loads(path.read_text()) if path.is_file() else {}
    run.write_json("training.json", results | values)


@dataclass(frozen=True)
class EqualTime:
    """Wall time that a baseline is given, in seconds."""

    counted: float
    """The student's steps and the teacher's answers."""
    reused: float | None
    """The student's steps alone; None where its teacher's answers serve no other training."""


def measure_head(head: Head) -> float:
    """Return the seconds that a head takes for one row, by a few chunks of nothing."""
    weight = head.weight
    rows = rows_per_chunk(head.vocab_size, weight.device)
    hidden = torch.zeros(rows, weight.shape[1], dtype=weight.dtype, device=weight.device)
    times = []
    with torch.no_grad():
        for _ in range(4):
            start = time.perf_counter()
            head.logits(hidden)[0, 0].item()  # waits for a GPU
            times.append(time.perf_counter() - start)
    return min(times[1:]) / rows


def equal_time(plan: TrainingPlan) -> EqualTime:
    """Split the student's time into its own and its teacher's.

    A teacher in memory answers during the steps. A cache was filled before them: its time counts by the share of its
    sequences that this plan reads.
    """
    student, config = plan.session.run.read_json("training.json")[STUDENT], plan.session.config
    seconds = student["seconds"]
    if config.cache.enabled:
        path = cache_path(plan)
        cost = read_cost(path)
        if cost is None:
            print(f"cache {path}: nobody noted how long it took, so equal time counts the student's steps alone")
            return EqualTime(seconds, None)
        share = min(1.0, len(cached_rows(plan)) / max(cost.get("sequences", 0), 1))
        return EqualTime(seconds + cost["seconds"] * share, seconds)
    # a router's answers follow one student, and so do judgements of what it wrote
    follows = config.router.kind != "none" or any(stage.on_policy is not None for stage in plan.stages)
    answers = student.get("teacher_seconds", 0.0)
    return EqualTime(seconds, seconds - answers if answers and not follows else None)


def steps_in(plan: TrainingPlan, seconds: float) -> int:
    """Return how many steps of this run's baseline fit into a time, at least 1."""
    baseline = plan.session.run.read_json("training.json")[BASELINE]
    return max(1, math.ceil(seconds / (baseline["seconds"] / baseline["steps"])))


def list_costs(plan: TrainingPlan) -> list[dict[str, Any]]:
    """List what the run cost so far: `item`, `seconds` and `tokens` (each model's own), `part_of` another item.

    Seconds are None where an older build made something without a note of it.
    """
    run, config = plan.session.run, plan.session.config
    rows = []
    if (folder := run.path / "teacher" / "model").is_dir():
        rows.append(_row("teacher, trained here", read_cost(folder)))
    if config.cache.enabled and (path := cache_path(plan)).is_file():
        rows.append(_row("teacher's answers, kept", read_cost(path)))
    trained = run.read_json("training.json")
    for phase in (STUDENT, BASELINE, EQUAL_TIME, ANSWERS_REUSED):
        if phase in trained:
            rows += _rows_of(phase, trained[phase])
    return rows


def note_costs(plan: TrainingPlan) -> None:
    """Write the list of costs to `training.json`."""
    update_results(plan.session.run, {"costs": list_costs(plan)})


def _row(item: str, cost: dict[str, Any] | None, part_of: str = "") -> dict[str, Any]:
    figures = {key: (cost or {}).get(key) for key in ("seconds", "tokens")}
    return {"item": item, **figures, "part_of": part_of}


def _rows_of(phase: str, result: dict[str, Any]) -> list[dict[str, Any]]:
    """List a training, and what of its time was not the student's."""
    rows = [_row(phase, result)]
    for item, name in (("teacher's answers", "teacher"), ("router's steps", "router")):
        if result.get(f"{name}_tokens"):
            rows.append(_row(item, {key: result[f"{name}_{key}"] for key in ("seconds", "tokens")}, phase))
    return rows
