"""An estimate of how long a whole run takes, and what it is made from.

From an earlier run in the same folder of runs with the same data, models and training, if there is one: what its
notebooks took. Else from the steps that are still to be made, at the pace of the present ones: a step of the student is
supposed to take as long per token as one of the teacher's training, one without the teacher half of it. That is right
to about a factor of two until the student's own steps are timed. Without either there is no estimate.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import yaml

from kdkit.config.embeddings import EmbeddingConfig
from kdkit.config.language import Config
from kdkit.runs.folder import Run
from kdkit.runs.messages import Step

DECIDING = ("data", "teacher", "student", "train", "cache", "router", "method", "compare")
"""Sections that decide how long a run takes; of `distill` the loss and the baselines."""
MOST_RUNS = 10
"""Earlier runs that are looked at, the newest first."""
NOTEBOOK_SECONDS = 10.0
"""For what a notebook takes beside a training, until one of this run has shown it."""

WITHOUT_TEACHER = 0.5
"""Cost of a step without the teacher, of one with it."""
ANSWERS_REUSED = 0.7
"""Cost of the baseline that has the student's time without its teacher's, of the student's training."""


@dataclass
class Forecast:
    """What is known of the notebooks and trainings of a run that are still to come."""

    stages: list[str]
    """Notebooks that will be executed, in their order."""
    work: dict[str, float]
    """Trainings in their order, in any unit of time."""
    earlier: dict[str, float] = field(default_factory=dict)
    """Seconds of the notebooks of an earlier run; empty: there was none."""
    _started: float = field(default_factory=time.monotonic)
    _stage_started: float = field(default_factory=time.monotonic)
    _shortest: float = NOTEBOOK_SECONDS

    def begin(self, stage: str) -> None:
        """Note that a notebook begins."""
        now = time.monotonic()
        if stage != self.stages[0]:
            self._shortest = min(self._shortest, now - self._stage_started)
            self.stages = self.stages[self.stages.index(stage) :]
        self._stage_started = now

    def at_start(self) -> float | None:
        """Return the seconds of the whole by an earlier run, before anything is trained."""
        known = all(stage in self.earlier for stage in self.stages)
        return sum(self.earlier[stage] for stage in self.stages) if known and self.stages else None

    def in_all(self, step: Step) -> float | None:
        """Return the seconds of the whole, those already gone included; None: nothing is known."""
        now = time.monotonic()
        later = self.stages[1:]
        if all(stage in self.earlier for stage in self.stages):
            left = max(step.seconds_left, self.earlier[self.stages[0]] - (now - self._stage_started))
            return now - self._started + left + sum(self.earlier[stage] for stage in later)
        if step.phase not in self.work or step.step == step.total:
            return None
        pace = step.seconds_left / (1 - step.step / step.total) / self.work[step.phase]
        order = list(self.work)
        coming = sum(self.work[phase] for phase in order[order.index(step.phase) + 1 :])
        return now - self._started + step.seconds_left + pace * coming + self._shortest * len(later)


def plan_work(config: Config | EmbeddingConfig, steps: int, builds_teacher: bool) -> dict[str, float]:
    """Return the trainings of a run, in about the time of a training step of the built teacher.

    Args:
        steps: optimizer steps of the student; of no use for embeddings, all of whose methods take as many.
        builds_teacher: whether the teacher is trained first.
    """
    if isinstance(config, EmbeddingConfig):
        return {str(method): 1.0 for method in (config.method, *config.compare)}
    train, build = config.train, config.teacher.build
    sequences = train.per_device_train_batch_size * train.gradient_accumulation_steps
    student = steps * sequences / build.batch_size
    work = {"teacher": float(build.max_steps)} if builds_teacher else {}
    work |= {"student": student, "baseline": WITHOUT_TEACHER * student}
    if config.distill.equal_time_baseline:
        work |= {"baseline_equal_time": student, "baseline_answers_reused": ANSWERS_REUSED * student}
    return work


def seconds_before(config: Config | EmbeddingConfig, run: Run, stages: Iterable[str]) -> dict[str, float]:
    """Return what the notebooks of the newest finished run with the same data, models and training took.

    What its teacher's training took is not counted: that teacher is in the cache now.
    """
    wanted = _deciding(config.model_dump())
    runs = sorted(run.path.parent.glob("*/status.json"), key=lambda file: -file.stat().st_mtime)[:MOST_RUNS]
    for other in (Run(file.parent, run.cache_path) for file in runs):
        entries, saved = other.status(), other.path / "config.yaml"
        is_done = all(entries.get(stage, {}).get("state") == "done" for stage in stages)
        if is_done and saved.is_file() and _deciding(yaml.safe_load(saved.read_text(encoding="utf-8"))) == wanted:
            seconds = {stage: float(entries[stage]["seconds"]) for stage in stages}
            built = [line["seconds"] for line in other.read_metrics() if line.get("phase") == "teacher"]
            if built and "02_teacher_probe" in seconds:
                seconds["02_teacher_probe"] = max(0.0, seconds["02_teacher_probe"] - built[-1])
            return seconds
    return {}


def _deciding(values: dict[str, Any]) -> list[Any]:
    """Return the settings that decide how long a run takes."""
    distill = values.get("distill", {})
    return [*(values.get(name) for name in DECIDING), distill.get("loss"), distill.get("equal_time_baseline")]
