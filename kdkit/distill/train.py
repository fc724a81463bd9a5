"""The distillation stage: the student, and the same student without a teacher (notebook 03).

The baseline starts from the same weights and sees the same data in the same order for the same number
of steps. The equal-time baseline takes as many steps as fit into the student's wall time.
"""

import json
import math
import shutil
from dataclasses import asdict, dataclass
from typing import Any

from transformers import PreTrainedModel

from kdkit.config import Config
from kdkit.data.packing import Windows
from kdkit.data.prepare import PreparedData
from kdkit.distill.objective import choose_loss, make_divergence
from kdkit.distill.student import make_student
from kdkit.distill.trainer import DistillationTrainer
from kdkit.hardware import Hardware
from kdkit.runs import Run
from kdkit.teacher.batches import WindowCollator
from kdkit.teacher.prepare import Teacher
from kdkit.teacher.progress import Curve, Progress
from kdkit.teacher.scoring import score_windows
from kdkit.teacher.training import LanguageModelTrainer, last_checkpoint, make_training_arguments

STUDENT, BASELINE, EQUAL_TIME = "student", "baseline", "baseline_equal_time"
"""Phases of training, which are also the folders of the trained models in the run."""


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
    config: Config, run: Run, data: PreparedData, teacher: Teacher, hardware: Hardware, resume: bool = False
) -> TrainingResult:
    """Train the student with the teacher and save it to the run's `student/`."""
    held_out = _curve_windows(config, data)
    level = score_windows(teacher.model, held_out, "teacher", config.evaluate.batch_size, hardware.autocast_dtype)
    _update_results(run, {"teacher_on_curve": level.bits_per_byte})
    return _train_phase(config, run, data, teacher, hardware, STUDENT, count_steps(config, data), resume)


def train_baseline(
    config: Config, run: Run, data: PreparedData, hardware: Hardware, resume: bool = False
) -> TrainingResult:
    """Train the same student on cross-entropy alone, for the same steps; saved to `baseline/`."""
    return _train_phase(config, run, data, None, hardware, BASELINE, count_steps(config, data), resume)


def train_equal_time_baseline(
    config: Config, run: Run, data: PreparedData, hardware: Hardware, resume: bool = False
) -> TrainingResult:
    """Train on cross-entropy alone for as long as the student took; saved to `baseline_equal_time/`.

    The steps follow from the seconds a step that `distill` and `train_baseline` needed in this run.
    """
    results = run.read_json("training.json")
    student, baseline = results[STUDENT], results[BASELINE]
    steps = math.ceil(student["seconds"] / (baseline["seconds"] / baseline["steps"]))
    return _train_phase(config, run, data, None, hardware, EQUAL_TIME, max(1, steps), resume)


def count_steps(config: Config, data: PreparedData) -> int:
    """Return the optimizer steps of a training: `max_steps`, or what the epochs come to."""
    per_step = config.train.per_device_train_batch_size * config.train.gradient_accumulation_steps
    return config.train.max_steps or math.ceil(config.train.num_train_epochs * len(data.train) / per_step)


def make_trainer(
    config: Config, run: Run, data: PreparedData, teacher: Teacher | None, hardware: Hardware, phase: str, steps: int
) -> LanguageModelTrainer:
    """Build the trainer of a phase; without a teacher it is cross-entropy alone."""
    arguments = make_training_arguments(
        config.train, hardware, run.path / "checkpoints" / phase, max_steps=steps, seed=config.seed
    )
    student = make_student(config, data)
    if config.train.gradient_checkpointing:
        # asked of the model, not of TrainingArguments, whose names for it change between versions
        student.gradient_checkpointing_enable({"use_reentrant": False})
    same_token_only = choose_loss(config, data)[0] == "overlap_kl"
    collator = WindowCollator(data.train, with_teacher=teacher is not None, same_token_only=same_token_only)
    if teacher is None:
        return LanguageModelTrainer(student, arguments, collator)
    return DistillationTrainer(
        student,
        teacher.model,
        arguments,
        collator,
        divergence=make_divergence(config, data, arguments.device),
        vocab_sizes=(data.overlap.student_size, data.overlap.teacher_size),
        kd_ratio=config.distill.kd_ratio,
    )


def _train_phase(
    config: Config,
    run: Run,
    data: PreparedData,
    teacher: Teacher | None,
    hardware: Hardware,
    phase: str,
    steps: int,
    resume: bool,
) -> TrainingResult:
    """Train one phase, from its last checkpoint if asked to and there is one, and save the model."""
    finished = _read_result(run, phase)
    if resume and finished and finished.steps == steps:
        return finished
    trainer = make_trainer(config, run, data, teacher, hardware, phase, steps)
    every = config.train.evaluate_every or max(1, steps // 5)
    curve = Curve(_curve_windows(config, data), "student", config.evaluate.batch_size, every, hardware.autocast_dtype)
    progress = Progress(run, phase, curve)
    trainer.add_callback(progress)
    checkpoints = run.path / "checkpoints" / phase
    if not resume:
        shutil.rmtree(checkpoints, ignore_errors=True)
    trainer.train(resume_from_checkpoint=last_checkpoint(checkpoints))
    if config.train.wandb != "disabled":
        import wandb

        wandb.finish()  # the next phase is a run of its own
    _save_model(trainer.model, data, run, phase)
    per_step = config.train.per_device_train_batch_size * config.train.gradient_accumulation_steps
    mean_tokens = data.train.describe()["student_tokens"] / len(data.train)
    result = TrainingResult(
        phase, steps, round(progress.seconds, 2), round(steps * per_step * mean_tokens), progress.skipped_steps
    )
    _update_results(run, {phase: asdict(result)})
    shutil.rmtree(checkpoints, ignore_errors=True)
    return result


def _save_model(model: PreTrainedModel, data: PreparedData, run: Run, phase: str) -> None:
    """Save model and tokenizer to the run; the folder appears whole or not at all."""
    partial = run.path / f".{phase}.partial"
    shutil.rmtree(partial, ignore_errors=True)
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
