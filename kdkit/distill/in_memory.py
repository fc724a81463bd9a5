"""Distillation of a causal language model into another, both already in memory: no configuration, no run folder."""

import tempfile
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from kdkit.config.language import Config, config_from_values
from kdkit.data.batches import WindowCollator, longest_sequence
from kdkit.data.prepare import PreparedData, data_from_texts
from kdkit.distill.choose_loss import choose_loss
from kdkit.distill.objective import make_objective
from kdkit.distill.plan import plan_stages
from kdkit.distill.trainer import DistillationTrainer
from kdkit.errors import UserError
from kdkit.machine.hardware import Hardware, find_hardware
from kdkit.models.finite import check_finite
from kdkit.models.loading import check_context, context_length
from kdkit.teachers.interface import TextTeacher
from kdkit.teachers.prepare import Teacher, check_first_rows
from kdkit.training.arguments import make_training_arguments


def distill_models(
    teacher: PreTrainedModel | TextTeacher,
    student: PreTrainedModel,
    teacher_tokenizer: PreTrainedTokenizerFast,
    student_tokenizer: PreTrainedTokenizerFast,
    texts: list[str],
    *,
    loss: str | dict[str, Any] = "auto",
    kd_ratio: float = 0.5,
    temperature: float = 1.0,
    max_steps: int = 500,
    batch_size: int = 8,
    learning_rate: float = 5.0e-5,
    max_length: int = 256,
    seed: int = 0,
) -> PreTrainedModel:
    """Train a student with a teacher on some texts, in place.

    The tokenizers may differ; `loss="auto"` picks a loss by what they share. For stages, caches, baselines and an
    evaluation beside the student trained without a teacher, write a configuration and use the notebooks.

    Args:
        teacher: a causal LM, frozen and left where it is; or a teacher of your own, see `TextTeacher`.
        student: a causal LM in fp32; Trainer moves it to the device that it finds.
        texts: training documents.
        loss: a loss of `distill.loss`, by name or with options: `{"name": "jsd", "teacher_weight": 0.1}`.
        kd_ratio: weight of the teacher's signal; the rest is cross-entropy.
        temperature: softmax temperature of both models.
        max_steps: optimizer steps.
        batch_size: sequences in a step.
        learning_rate: peak, after a tenth of the steps as warm-up.
        max_length: student tokens of a sequence.
        seed: of the order of the sequences.

    Returns:
        The student, in evaluation mode.

    Raises:
        UserError: a loss that does not fit the tokenizers, an option out of range, a model that its tokenizer or
            `max_length` outgrows, a teacher whose answers are not finite.

    Example:
        >>> student = distill_models(teacher, student, teacher_tokenizer, student_tokenizer, texts, max_steps=100)
    """
    config = _make_config(loss, kd_ratio, temperature, max_steps, batch_size, learning_rate)
    source = _as_teacher(teacher, teacher_tokenizer)
    _check_size("student", student, student_tokenizer)
    data = data_from_texts(texts, student_tokenizer, teacher_tokenizer, max_length)
    _check_reading(source, student, data, hardware := find_hardware(config.train.device, config.train.precision))
    (stage,) = plan_stages(config, data, choose_loss(config, data)[0])
    with tempfile.TemporaryDirectory() as folder:
        arguments = make_training_arguments(config.train, hardware, Path(folder), max_steps=max_steps, seed=seed)
        options = {"kd_ratio": kd_ratio, "temperature": temperature, "device": arguments.device}
        objective = make_objective(stage.loss, data, **options)
        online = source.online(data.overlap.teacher_size, hardware.autocast_dtype)
        collator = WindowCollator(data.train, with_teacher=True)
        trainer = DistillationTrainer(student, online, arguments, collator, objective=objective)
        trainer.train()
    return student.eval()


def _make_config(
    loss: str | dict[str, Any],
    kd_ratio: float,
    temperature: float,
    max_steps: int,
    batch_size: int,
    learning_rate: float,
) -> Config:
    """Check the options of a call as those of a configuration file."""
    train = {
        "per_device_train_batch_size": batch_size,
        "gradient_accumulation_steps": 1,
        "learning_rate": learning_rate,
        "warmup_steps": max_steps // 10,
        "max_steps": max_steps,
        "save_every": max_steps + 1,
    }
    distill = {"loss": loss, "kd_ratio": kd_ratio, "temperature": temperature}
    return config_from_values({"distill": distill, "train": train})


def _check_reading(teacher: TextTeacher, student: PreTrainedModel, data: PreparedData, hardware: Hardware) -> None:
    """Refuse a model with a context shorter than its sequences, and a teacher whose first answer is not finite."""
    check_context(teacher.context, longest_sequence("teacher", data.train), "teacher", "max_length")
    check_context(context_length(student.config), longest_sequence("student", data.train), "student", "max_length")
    if not teacher.has_layers:
        check_first_rows(teacher, data, "teacher")
        return
    first = WindowCollator(data.train, "teacher")([0])["input_ids"]
    check_finite(teacher.model, first, "teacher", "the first training sequence", hardware.autocast_dtype)


def _as_teacher(given: PreTrainedModel | TextTeacher, tokenizer: PreTrainedTokenizerFast) -> TextTeacher:
    """Return what was given as a teacher; a model is checked against its tokenizer."""
    if isinstance(given, TextTeacher):
        return given
    _check_size("teacher", given, tokenizer)
    return Teacher(given.eval(), "teacher", False, tokenizer)


def _check_size(side: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """Refuse a model that its tokenizer outgrows."""
    vocab_size = model.config.get_text_config().vocab_size
    if vocab_size < len(tokenizer):
        raise UserError(
            f"distill_models: expected a {side} for its tokenizer's {len(tokenizer)} entries, got {vocab_size}; "
            "pass both tokenizers in the order of the models"
        )
