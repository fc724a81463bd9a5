"""The distillation stage: the student, and the same student without a teacher (notebook 03).

The baseline starts from the same weights and sees the same data in the same order for the same number
of steps, with the same stages. The equal-time baseline takes as many steps as fit into the student's
wall time.
"""

import json
import math
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from kdkit.config.language import Config
from kdkit.data.prepare import PreparedData
from kdkit.data.windows import Windows
from kdkit.distill.choose_loss import compares_events, make_events
from kdkit.distill.layer_terms import LayerParts, make_parts
from kdkit.distill.objective import make_objective
from kdkit.distill.on_policy import OnPolicyTrainer
from kdkit.distill.route_teacher import make_online_teacher
from kdkit.distill.stages import Stage, curriculum_order, plan_stages, sequences_per_step, stretch
from kdkit.distill.student import make_student
from kdkit.distill.trainer import PARTS_FILE, DistillationTrainer
from kdkit.errors import UserError
from kdkit.machine.session import Session
from kdkit.models.loading import no_bar
from kdkit.runs.folder import Run, fingerprint
from kdkit.teachers.cache import CachedSignals
from kdkit.teachers.difficulty import teacher_entropy, teacher_loss
from kdkit.teachers.online import CachedTeacher
from kdkit.teachers.prepare import Teacher, identify_teacher, prepare_teacher
from kdkit.teachers.router.log import RouterLog
from kdkit.teachers.router.teacher import RoutedTeacher
from kdkit.training.arguments import last_checkpoint, make_training_arguments
from kdkit.training.batches import WindowCollator
from kdkit.training.progress import Curve, Progress
from kdkit.training.scoring import score_windows
from kdkit.training.trainer import LanguageModelTrainer, group_by_rules

STUDENT, BASELINE, EQUAL_TIME = "student", "baseline", "baseline_equal_time"
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
    """Student tokens read."""
    skipped_steps: int
    """Steps skipped by GradScaler because of inf gradients (fp16 only)."""


def distill(
    session: Session[Config], data: PreparedData, teacher: Teacher | CachedSignals, resume: bool = False
) -> TrainingResult:
    """Train the student with the teacher, or a cache of its answers, and save it to the run's `student/`.

    Raises:
        UserError: see `plan_stages`, `make_objective`, `group_parameters`.
    """
    stages = plan_stages(session.config, data)
    if isinstance(teacher, Teacher):
        windows, batch_size = _curve_windows(session.config, data), session.config.evaluate.batch_size
        level = score_windows(teacher.model, windows, "teacher", batch_size, session.hardware.autocast_dtype)
        _update_results(session.run, {"teacher_on_curve": level.bits_per_byte})
    return _train_phase(session, data, teacher, STUDENT, stages, resume)


def train_baseline(session: Session[Config], data: PreparedData, resume: bool = False) -> TrainingResult:
    """Train the same student on cross-entropy alone, for the same steps; saved to `baseline/`."""
    return _train_phase(session, data, None, BASELINE, plan_stages(session.config, data), resume)


def train_equal_time_baseline(session: Session[Config], data: PreparedData, resume: bool = False) -> TrainingResult:
    """Train on cross-entropy alone for as long as the student took; saved to `baseline_equal_time/`.

    The steps follow from the seconds a step that `distill` and `train_baseline` needed in this run.
    """
    results = session.run.read_json("training.json")
    student, baseline = results[STUDENT], results[BASELINE]
    steps = max(1, math.ceil(student["seconds"] / (baseline["seconds"] / baseline["steps"])))
    stages = stretch(plan_stages(session.config, data), steps)
    return _train_phase(session, data, None, EQUAL_TIME, stages, resume)


def make_trainer(
    session: Session[Config],
    data: PreparedData,
    student: PreTrainedModel,
    teacher: Teacher | CachedSignals | None,
    phase: str,
    stage: Stage,
    parts: LayerParts | None = None,
) -> LanguageModelTrainer:
    """Build the trainer of one stage of a phase; without a teacher it is cross-entropy alone.

    Args:
        parts: those of the phase, from `make_parts`; None: made here.

    Raises:
        UserError: what the cache cannot serve, or an on-policy stage without a teacher to ask.
    """
    config = session.config
    name = f"{phase}-{stage.name}" if stage.name else phase
    arguments = make_training_arguments(
        config.train,
        session.hardware,
        checkpoint_folder(session.run, phase, stage),
        max_steps=stage.steps,
        # stages must not read the sequences in the same order
        seed=config.seed + stage.first_step,
        learning_rate=stage.learning_rate,
        name=name,
    )
    order = _curriculum(session, data, stage)
    size = data.overlap.student_size
    if teacher is None:
        return LanguageModelTrainer(student, arguments, WindowCollator(data.train), size, stage.rules, order)
    cached = isinstance(teacher, CachedSignals)
    objective = make_objective(
        stage.loss,
        data,
        kd_ratio=stage.kd_ratio,
        temperature=stage.temperature,
        device=arguments.device,
        cache=config.cache if cached else None,
        logits_weight=config.distill.weights.logits,
    )
    asks = stage.kd_ratio > 0.0 or stage.on_policy is not None
    parts = (parts or make_parts(config, student, teacher)) if asks else None
    shared = {"objective": objective, "parts": parts, "rules": stage.rules, "order": order}
    if cached:
        _check_cache_serves(teacher, stage, data)
        collator = WindowCollator(data.train, with_teacher=True, signals=teacher.read)
        source = CachedTeacher(teacher.store.header.get("temperature", 1.0))
        return DistillationTrainer(student, source, arguments, collator, **shared)
    source = make_online_teacher(session, data, teacher, stage, student.config.hidden_size)
    collator = WindowCollator(data.train, with_teacher=True)
    if stage.on_policy is not None:
        return OnPolicyTrainer(student, source, arguments, collator, data=data, settings=stage.on_policy, **shared)
    return DistillationTrainer(student, source, arguments, collator, **shared)


def checkpoint_folder(run: Run, phase: str, stage: Stage) -> Path:
    """Return where a stage keeps its checkpoints."""
    folder = run.path / "checkpoints" / phase
    return folder / f"{stage.first_step:06d}-{stage.name}" if stage.name else folder


def _check_cache_serves(signals: CachedSignals, stage: Stage, data: PreparedData) -> None:
    """Refuse a stage that asks what the cache does not hold."""
    made_for = signals.store.header.get("events")
    if compares_events(stage.loss) and (events := make_events(stage.loss, data, "cpu").name) != made_for:
        raise UserError(
            f"train.stages: expected losses that compare {made_for}, which the cache holds, got {stage.loss.name!r} in "
            f"stage {stage.name!r}, which compares {events}; set cache.enabled=false, or use one kind of loss"
        )


def _curriculum(session: Session[Config], data: PreparedData, stage: Stage) -> list[int] | None:
    """Return the order of a stage's training sequences; None for a shuffled one."""
    config = session.config
    kind = config.train.curriculum
    if kind == "none":
        return None
    key = fingerprint(kind, data.key, identify_teacher(session))
    path = session.run.cache_path / "difficulty" / f"{key}.npy"
    if not path.is_file():
        teacher = prepare_teacher(session, data)
        batch_size = config.evaluate.batch_size
        if kind == "teacher_loss":
            difficulty = teacher_loss(teacher, data.train, batch_size, session.hardware)
        else:
            difficulty = teacher_entropy(teacher, data.train, data.overlap.teacher_size, batch_size, session.hardware)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial.npy")
        np.save(partial, difficulty)
        partial.replace(path)
    return curriculum_order(np.load(path), stage.steps * sequences_per_step(config), config.seed + stage.first_step)


def _train_phase(
    session: Session[Config],
    data: PreparedData,
    teacher: Teacher | CachedSignals | None,
    phase: str,
    stages: list[Stage],
    resume: bool,
) -> TrainingResult:
    """Train the stages of a phase, from where it was stopped if asked to, and save the model."""
    config, run = session.config, session.run
    steps = sum(stage.steps for stage in stages)
    finished = _read_result(run, phase)
    if resume and finished and finished.steps == steps:
        return finished
    checkpoints = run.path / "checkpoints" / phase
    if not resume:
        shutil.rmtree(checkpoints, ignore_errors=True)
    student = make_student(config, data)
    parts = make_parts(config, student, teacher)
    if isinstance(teacher, CachedSignals):
        for stage in stages:
            _check_cache_serves(teacher, stage, data)
    tables = _describe_parameters(student, parts, stages, config.train.weight_decay)
    every, batch_size = config.train.evaluate_every or max(1, steps // 5), config.evaluate.batch_size
    curve = Curve(_curve_windows(config, data), "student", batch_size, every, session.hardware.autocast_dtype)
    past = [line["seconds"] for line in run.read_metrics() if line["phase"] == phase]
    progress = Progress(run, phase, curve, total_steps=steps, seconds=past[-1] if past else 0.0)
    for stage in stages:
        folder = checkpoint_folder(run, phase, stage)
        if _load_finished(folder, student, parts, stage):
            continue
        progress.first_step = stage.first_step
        trainer = make_trainer(session, data, student, teacher, phase, stage, parts)
        trainer.add_callback(progress)
        if isinstance(trainer, DistillationTrainer) and isinstance(trainer.teacher, RoutedTeacher):
            trainer.add_callback(RouterLog(run, trainer.teacher, stage.first_step))
        with no_bar():
            trainer.train(resume_from_checkpoint=last_checkpoint(folder))
        if stage is not stages[-1]:
            _save_finished(folder, student, parts)
    if config.train.wandb != "disabled":
        import wandb

        wandb.finish()  # the next phase is a run of its own
    student.requires_grad_(True)
    if parts is not None and len(parts.projections):
        save_file(parts.projections.state_dict(), run.path / PROJECTIONS_FILE)
    _save_model(student, data, run, phase)
    mean_tokens = data.train.describe()["student_tokens"] / len(data.train)
    tokens = round(steps * sequences_per_step(config) * mean_tokens)
    result = TrainingResult(phase, steps, round(progress.seconds, 2), tokens, progress.skipped_steps)
    _update_results(run, {phase: asdict(result), f"{phase}_parameters": tables})
    shutil.rmtree(checkpoints, ignore_errors=True)
    return result


def _describe_parameters(
    student: PreTrainedModel, parts: LayerParts | None, stages: list[Stage], weight_decay: float
) -> list[dict[str, Any]]:
    """Return the parameter tables of all stages, which finds mistakes in a later one before the first is trained."""
    tables = []
    for stage in stages:
        _, table = group_by_rules(student, stage.rules, stage.learning_rate, weight_decay)
        table += parts.group(stage.learning_rate, weight_decay)[1] if parts else []
        tables += [{"stage": stage.name, **row} for row in table]
    student.requires_grad_(True)
    return tables


def _save_finished(folder: Path, student: PreTrainedModel, parts: LayerParts | None) -> None:
    """Keep the weights at the end of a stage, whole or not at all; its checkpoints are no longer needed."""
    partial = folder / ".finished.partial"
    shutil.rmtree(partial, ignore_errors=True)
    with no_bar():
        student.save_pretrained(partial)
    if parts is not None:
        torch.save(parts.state(), partial / PARTS_FILE)
    partial.rename(folder / "finished")
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint, ignore_errors=True)


def _load_finished(folder: Path, student: PreTrainedModel, parts: LayerParts | None, stage: Stage) -> bool:
    """Give the student, and the parts of its loss, the weights with which a stage ended, if it did.

    A checkpoint of the last step is such an end: Trainer would take one more step from it.
    """
    weights = folder / "finished"
    if not weights.is_dir():
        weights = folder / f"checkpoint-{stage.steps}"
        if last_checkpoint(folder) != str(weights):
            return False
    with no_bar():
        saved = AutoModelForCausalLM.from_pretrained(weights, dtype=student.dtype, local_files_only=True)
    student.load_state_dict(saved.state_dict())
    # a stage that does not ask the teacher keeps none
    if parts is not None and (weights / PARTS_FILE).is_file():
        parts.load_state(torch.load(weights / PARTS_FILE, map_location=student.device, weights_only=True))
    return True


def _save_model(model: PreTrainedModel, data: PreparedData, run: Run, phase: str) -> None:
    """Save model and tokenizer to the run; the folder appears whole or not at all."""
    partial = run.path / f".{phase}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    with no_bar():
        model.save_pretrained(partial)
    data.student_tokenizer.save_pretrained(partial)
    shutil.rmtree(run.path / phase, ignore_errors=True)
    partial.rename(run.path / phase)


def _read_result(run: Run, phase: str) -> TrainingResult | None:
    """Read what a finished phase cost; None if it has not finished."""
    path = run.path / "training.json"
    values = json.loads(path.read_text()).get(phase) if path.is_file() else None
    return TrainingResult(**values) if values else None


def _update_results(run: Run, values: dict[str, Any]) -> None:
    """Add entries to `training.json`: what a phase cost, and the level that the teacher sets."""
    path = run.path / "training.json"
    results = json.loads(path.read_text()) if path.is_file() else {}
    run.write_json("training.json", results | values)


def _curve_windows(config: Config, data: PreparedData) -> Windows:
    """Return the held-out windows behind every point of a learning curve."""
    return data.evaluation.first(config.evaluate.curve_sequences)
