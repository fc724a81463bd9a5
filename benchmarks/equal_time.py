"""A student with a teacher against the same student without one, after equal steps and equal processor time.

The benchmarks `demo_seeds` and `real_teacher` are made of it. Processor time, and not wall time: other processes on the
machine then hardly matter. What a step costs is measured in short rounds in which all kinds take turns.
"""

import statistics
import time
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, TrainerCallback

from benchmarks.measure import versions
from kdkit.config.language import Config
from kdkit.data.prepare import PreparedData, prepare_data
from kdkit.distill.open_teacher import open_teacher
from kdkit.distill.plan import TrainingPlan, plan_training, stretch
from kdkit.distill.student import make_student, start_student
from kdkit.distill.train import make_trainer
from kdkit.evaluate.language import Resampled, gap_closed, resample_text
from kdkit.machine.hardware import find_hardware
from kdkit.machine.open_session import open_session
from kdkit.machine.session import Session
from kdkit.runs.folder import fingerprint
from kdkit.teachers.cache import CachedSignals
from kdkit.teachers.online import OnlineTeacher
from kdkit.teachers.prepare import Teacher, prepare_teacher
from kdkit.training.scoring import Score, score_windows

ROUNDS, STEPS, DROPPED = 3, 15, 3
STUDENT, BASELINE, COUNTED, REUSED = "student", "no teacher", "no teacher, equal time", "no teacher, answers reused"


class ProcessorTimes(TrainerCallback):
    """Processor time at the end of each step, of all threads."""

    def __init__(self):
        self.ends: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Note the time."""
        self.ends.append(time.process_time())


@dataclass
class Pair:
    """One seed's teacher, plan and data, and what was measured of them."""

    session: Session[Config]
    data: PreparedData
    plan: TrainingPlan
    teacher: Teacher | CachedSignals
    build_seconds: float
    """Processor seconds in which a cache was filled; 0 for a teacher in memory, which answers in the steps."""
    steps: dict[str, int] = field(default_factory=dict)
    scores: dict[str, Score] = field(default_factory=dict)

    def train(self, name: str, steps: int, teacher: Teacher | CachedSignals | None = None) -> float:
        """Train a student, keep its score under a name, and return the processor seconds."""
        student, begin = self._student(teacher), time.process_time()
        for stage in stretch(self.plan.stages, steps):
            make_trainer(self.plan, stage, student, teacher if stage.asks_teacher else None, "equal-time").train()
        seconds = time.process_time() - begin
        self.steps[name], self.scores[name] = steps, self.score(student, "student")
        print(f"{name}: {steps} steps, {seconds:.1f} s, {self.scores[name].bits_per_byte:.4f}", flush=True)
        return seconds

    def score(self, model: PreTrainedModel, side: str) -> Score:
        """Score a model on all held-out text."""
        return score_windows(model, self.data.evaluation, side, self.session.config.evaluate.batch_size)

    def step_seconds(self, teacher: Teacher | CachedSignals | None) -> float:
        """Return the processor seconds of a step, the median of a few."""
        stage = replace(self.plan.stages[0], steps=STEPS, num_sequences=None)
        trainer = make_trainer(self.plan, stage, self._student(None), teacher, "equal-time")
        trainer.add_callback(times := ProcessorTimes())
        trainer.train()
        ends = times.ends[DROPPED:]
        return statistics.median(after - before for before, after in pairwise(ends))

    def answer_seconds(self) -> float:
        """Return the processor seconds in which a teacher in memory answers for a step: its layers and its head."""
        if not isinstance(self.teacher, Teacher):
            return 0.0
        trainer = make_trainer(self.plan, self.plan.stages[0], self._student(None), self.teacher, "equal-time")
        online = OnlineTeacher(self.teacher.model, self.data.overlap.teacher_size)
        size, times = self.session.config.train.per_device_train_batch_size, []
        for start in range(0, size * (STEPS - DROPPED), size):
            batch = trainer.data_collator(list(range(start, start + size)))
            begin = time.process_time()
            signals = online.answer(batch, trainer.args.device)
            signals.columns(batch["spans"].teacher_starts[:-1], trainer.objective.events.teacher)
            times.append(time.process_time() - begin)
        return statistics.median(times) * self.session.config.train.gradient_accumulation_steps

    def _student(self, teacher: Teacher | CachedSignals | None) -> PreTrainedModel:
        student = make_student(self.session.config, self.data)
        if teacher is not None and self.session.config.distill.start_from_teacher:
            start_student(self.session, self.data, student, teacher)
        return student


def open_pair(config: str | Path, seed: int, overrides: list[str]) -> Pair:
    """Prepare the data of a seed, its teacher, and its cache if the configuration has one: always anew, to be timed."""
    settings = [f"seed={seed}", *overrides, *(f"train.{name}_every=1000000" for name in ("save", "log", "evaluate"))]
    name = f"equal-time-{fingerprint(str(config), settings)}"
    file = Path("runs", name, "answers.h5").absolute()
    file.unlink(missing_ok=True)
    session = replace(open_session(config, [*settings, f"cache.file={file}"], name), hardware=find_hardware("cpu"))
    data = prepare_data(session)
    plan = plan_training(session, data)
    prepare_teacher(session, data)  # built, if need be, before the clock runs
    begin = time.process_time()
    teacher = open_teacher(plan)
    build_seconds = time.process_time() - begin if session.config.cache.enabled else 0.0
    return Pair(session, data, plan, teacher, build_seconds)


def compare(config: str | Path, seed: int, overrides: list[str], limits: list[int]) -> dict[str, Any]:
    """Train a seed's students and compare them.

    Args:
        limits: further numbers of steps without a teacher.
    """
    pair = open_pair(config, seed, overrides)
    steps = sum(stage.steps for stage in pair.plan.stages)
    rounds = [(pair.step_seconds(None), pair.step_seconds(pair.teacher), pair.answer_seconds()) for _ in range(ROUNDS)]
    plain = statistics.median(alone for alone, _, _ in rounds)
    ratio = statistics.median(taught / alone for alone, taught, _ in rounds)
    own = statistics.median((taught - answers) / alone for alone, taught, answers in rounds)
    built = pair.build_seconds / plain
    lengths = {COUNTED: round(ratio * steps + built), REUSED: round(own * steps)}
    seconds = {STUDENT: pair.train(STUDENT, steps, pair.teacher), BASELINE: pair.train(BASELINE, steps)}
    for name, length in {**lengths, **{f"no teacher, {limit} steps": limit for limit in limits}}.items():
        seconds[name] = pair.train(name, length)
    scores = {"teacher": pair.score(prepare_teacher(pair.session, pair.data).model, "teacher"), **pair.scores}
    levels = {name: score.bits_per_byte for name, score in scores.items()}
    resampled = resample_text(scores, seed)
    return {
        "seed": seed,
        "bits_per_byte": levels,
        "steps": pair.steps,
        "processor_seconds": {name: round(value, 1) for name, value in seconds.items()},
        "cache_seconds": round(pair.build_seconds, 1),
        "step": {"alone_seconds": plain, "taught_ratio": ratio, "taught_ratio_without_answers": own},
        "gap_closed": gap_closed(levels["teacher"], levels[STUDENT], levels[BASELINE]),
        "student_better_than": _differences(resampled, levels, [name for name in pair.scores if name != STUDENT]),
        "interval_over": f"{resampled.num_units} {resampled.over}",
    }


def _differences(resampled: Resampled, levels: dict[str, float], others: list[str]) -> dict[str, list[float]]:
    """Return by how many bits per byte the student is better than each other: the figure and its 95 % interval."""
    return {name: [levels[name] - levels[STUDENT], *resampled.difference(name, STUDENT)] for name in others}


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print the levels of each seed, then by how much the student is better."""
    for row in rows:
        print(f"seed {row['seed']}, gap closed {row['gap_closed']:.2f}, step {row['step']['taught_ratio']:.2f}")
        for name, level in row["bits_per_byte"].items():
            steps = row["steps"].get(name, "")
            figure, low, high = row["student_better_than"].get(name, (None, 0.0, 0.0))
            difference = "" if figure is None else f"{figure:+.3f} ({low:+.3f} to {high:+.3f})"
            print(f"    {name:<28}{steps:>7}{level:>9.4f}    {difference}")


def summary(command: list[str], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what is kept of a benchmark."""
    return {"command": command, "versions": versions(), "rows": rows}
