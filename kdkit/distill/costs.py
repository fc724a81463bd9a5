"""What a run cost, item by item, and how many steps without a teacher the same time would have paid for."""

import math
import time
from dataclasses import dataclass
from typing import Any

import torch

from kdkit.distill.checkpoints import ANSWERS_REUSED, BASELINE, EQUAL_TIME, STUDENT, update_results
from kdkit.distill.committee.scores import asked_rows, needs_scores, score_path
from kdkit.distill.curriculum import cached_rows
from kdkit.distill.open_teacher import cache_path
from kdkit.distill.plan import TrainingPlan
from kdkit.distill.student import START
from kdkit.losses.chunked.engine import Head, rows_per_chunk
from kdkit.runs.costs import read_cost
from kdkit.runs.messages import note


@dataclass(frozen=True)
class EqualTime:
    """Wall time that a baseline is given, in seconds."""

    counted: float
    """The student's steps and the teacher's answers."""
    reused: float | None
    """The student's steps alone; None where its teacher's answers serve no other training."""


def measure_head(head: Head, rows: float) -> float:
    """Return the seconds that a head takes for some rows, by a few chunks of nothing; 0 for a teacher that has none."""
    weight = head.weight
    if not weight.shape[1]:
        return 0.0
    measured = min(rows_per_chunk(head.vocab_size, weight.device), math.ceil(rows))
    hidden = torch.zeros(measured, weight.shape[1], dtype=weight.dtype, device=weight.device)
    times = []
    with torch.no_grad():
        for _ in range(4):
            start = time.perf_counter()
            head.logits(hidden)[0, 0].item()  # waits for a GPU
            times.append(time.perf_counter() - start)
    return min(times[1:]) / measured * rows


def equal_time(plan: TrainingPlan) -> EqualTime:
    """Split the student's time into its own and its teacher's.

    A teacher in memory answers during the steps. A cache was filled before them: its time counts by the share of its
    sequences that this plan reads.
    """
    student, config = plan.session.run.read_json("training.json")[STUDENT], plan.session.config
    made = _start_seconds(plan)
    seconds, own = student["seconds"] + made, student["seconds"] + made
    asked = [each for each in _each_teacher(plan) if each.session.config.cache.enabled]
    for each in asked:
        path = cache_path(each)
        cost = read_cost(path)
        if cost is None:
            note(f"cache {path}: nobody noted how long it took, so equal time counts the student's steps alone")
            return EqualTime(own, None)
        share = min(1.0, len(cached_rows(each)) / max(cost.get("sequences", 0), 1))
        seconds += cost["seconds"] * share
    seconds += sum(cost["seconds"] for _, cost in _opinions(plan) if cost is not None)
    if asked:
        return EqualTime(seconds, own - student.get("teacher_seconds", 0.0))
    # a router's answers follow one student, and so do judgements of what it wrote
    follows = config.router.kind != "none" or any(stage.on_policy is not None for stage in plan.stages)
    answers = student.get("teacher_seconds", 0.0)
    return EqualTime(seconds, own - answers if answers and not follows else None)


def _start_seconds(plan: TrainingPlan) -> float:
    """Return what it took to make the student from the teacher; 0 where it was not."""
    cost = read_cost(plan.session.run.path / START) if plan.session.config.student.from_teacher is not None else None
    return cost["seconds"] if cost is not None else 0.0


def _opinions(plan: TrainingPlan) -> list[tuple[str, dict[str, Any] | None]]:
    """Return what it cost to ask each of several teachers about the text, by name, where that decides who teaches."""
    if not needs_scores(plan.session.config.teachers):
        return []
    rows = asked_rows(plan)
    return [(member.name, read_cost(score_path(member.plan, rows))) for member in plan.members]


def _each_teacher(plan: TrainingPlan) -> list[TrainingPlan]:
    """Return the plan of every teacher."""
    return [member.plan for member in plan.members] or [plan]


def steps_in(plan: TrainingPlan, seconds: float) -> int:
    """Return how many steps of this run's baseline fit into a time, at least 1."""
    baseline = plan.session.run.read_json("training.json")[BASELINE]
    return max(1, math.ceil(seconds / (baseline["seconds"] / baseline["steps"])))


def list_costs(plan: TrainingPlan) -> list[dict[str, Any]]:
    """List what the run cost so far: `item`, `seconds` and `tokens` (each model's own), `part_of` another item.

    Seconds are None where an older build made something without a note of it. A training also has `padding_share` and
    `padding_share_ungrouped`.
    """
    run, rows = plan.session.run, []
    for each in _each_teacher(plan):
        name = f" {each.session.config.teachers.only}" if plan.members else ""
        if (folder := each.session.run.path / "teacher" / "model").is_dir():
            rows.append(_row(f"teacher{name}, trained here", read_cost(folder)))
        if each.session.config.cache.enabled and (path := cache_path(each)).is_file():
            rows.append(_row(f"teacher{name}'s answers, kept", read_cost(path)))
    rows += [_row(f"teacher {name}'s opinion of the text", cost) for name, cost in _opinions(plan)]
    if plan.session.config.student.from_teacher is not None and (run.path / START).is_dir():
        rows.append(_row("student, made from the teacher", read_cost(run.path / START)))
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
    """List a training with the padding that it read, and what of its time was not the student's."""
    padding = {key: value for key, value in result.items() if key.startswith("padding_share")}
    rows = [_row(phase, result) | padding]
    for item, name in (("teacher's answers", "teacher"), ("router's steps", "router")):
        if result.get(f"{name}_tokens"):
            rows.append(_row(item, {key: result[f"{name}_{key}"] for key in ("seconds", "tokens")}, phase))
    return rows
