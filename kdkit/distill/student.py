"""The student: a small model from random weights or the teacher's embeddings, or a pretrained LM, or layers of it."""

from transformers import PreTrainedConfig, PreTrainedModel, set_seed

from kdkit.config.language import BUILD, Config
from kdkit.data.batches import longest_sequence
from kdkit.data.prepare import PreparedData
from kdkit.machine.session import Session
from kdkit.models.built.dense import build_model, describe_model
from kdkit.models.built.size import measure_model
from kdkit.models.keep_layers import choose_layers, keep_layers
from kdkit.models.loading import (
    check_context,
    check_fits,
    check_rows,
    context_length,
    load_causal_lm,
    read_model_config,
)
from kdkit.models.quantised.model import check_full_precision
from kdkit.models.teacher_start import start_from_teacher
from kdkit.teachers.cache import CachedSignals
from kdkit.teachers.interface import TextTeacher
from kdkit.teachers.prepare import check_own_text, own_text_lengths, prepare_teacher


def make_student(config: Config, data: PreparedData) -> PreTrainedModel:
    """Make the student before its first step; equal seeds give equal weights, in fp32.

    Raises:
        UserError: see `load_causal_lm`, `keep_layers` and `check_fits`.
    """
    set_seed(config.training_seed)
    model = build_model(_architecture(config, data)) if config.student.path == BUILD else _load(config, data)
    if config.train.gradient_checkpointing:
        # set on the model, not in TrainingArguments, whose names for it change between versions
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model


def start_student(
    session: Session[Config], data: PreparedData, student: PreTrainedModel, teacher: TextTeacher | CachedSignals
) -> int:
    """Start the embeddings and the head of a built student from the teacher's; a cache holds none, so it is loaded.

    Returns:
        How many of the student's tokens were started.
    """
    model = teacher.model if isinstance(teacher, TextTeacher) else prepare_teacher(session, data).model
    tables = model.get_input_embeddings().weight.detach(), model.get_output_embeddings().weight.detach()
    tokenizers = data.student_tokenizer, data.teacher_tokenizer
    return start_from_teacher(student, *tables, *tokenizers, session.config.training_seed)


def check_student_lengths(config: Config, data: PreparedData) -> None:
    """Check the student's context, rows and layers against what they are asked for, by its configuration alone.

    Raises:
        UserError: a vocabulary smaller than its tokenizer's; layers that are not there (see `choose_layers`); a context
            shorter than a sequence, or than prompt and new tokens of an on-policy stage.
    """
    student, longest = config.student, longest_sequence("student", data.train, data.evaluation)
    if student.path == BUILD:
        context, key = student.build.max_length, "student.build.max_length"
    else:
        model_config = read_model_config(
            student.path, "student.path", revision=student.revision, trust_remote_code=student.trust_remote_code
        )
        check_full_precision(model_config, "student.path")
        if student.layers is not None:
            choose_layers(student.layers, model_config.get_text_config().num_hidden_layers)
        context, key = context_length(model_config), "student.path"
        check_rows(model_config.get_text_config().vocab_size, len(data.student_tokenizer), key)
    check_context(context, longest, key, "data.max_length")
    check_own_text(config, data, context, key)


def num_student_layers(config: Config) -> int:
    """Return how many layers the student will have, by its configuration alone.

    Raises:
        UserError: see `read_model_config` and `choose_layers`.
    """
    student = config.student
    if student.path == BUILD:
        return student.build.num_layers
    model_config = read_model_config(
        student.path, "student.path", revision=student.revision, trust_remote_code=student.trust_remote_code
    )
    there = model_config.get_text_config().num_hidden_layers
    return there if student.layers is None else len(choose_layers(student.layers, there))


def _load(config: Config, data: PreparedData) -> PreTrainedModel:
    """Load a pretrained student, or some of its layers, and check it against its tokenizer and the training text."""
    model = load_causal_lm(
        config.student.path,
        "student.path",
        revision=config.student.revision,
        trust_remote_code=config.student.trust_remote_code,
    )
    if config.student.layers is not None:
        keep_layers(model, config.student.layers)
    longest = longest_sequence("student", data.train, data.evaluation)
    check_fits(model, len(data.student_tokenizer), longest, "student.path", "data.max_length")
    return model


def describe_student(config: Config, data: PreparedData, half: bool = False) -> str:
    """Say in one line how large a student is that will be built, and what its training takes.

    Args:
        half: whether autocast computes in 16 bits.
    """
    if config.student.path != BUILD:
        return f"student: pretrained, {config.student.path}"
    batch_size = config.train.per_device_train_batch_size
    longest = longest_sequence("student", data.train, data.evaluation)
    return measure_model(_architecture(config, data), batch_size, longest, half).describe("student")


def _architecture(config: Config, data: PreparedData) -> PreTrainedConfig:
    """Describe the built student to transformers."""
    build = config.student.build
    written = [prompt + new for _, prompt, new in own_text_lengths(config, data)]
    return describe_model(
        build,
        data.student_tokenizer,
        context=build.max_length or max(config.data.max_length, 512, *written),
        intermediate_size=build.intermediate_size,
        dropout=build.dropout,
    )
