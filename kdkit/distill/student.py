"""The student: a small model from random weights, from parts of the teacher, or a pretrained LM, or layers of it."""

import json
import time
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel, set_seed

from kdkit.config.built.from_teacher import TEACHERS
from kdkit.config.language import BUILD, Config
from kdkit.data.batches import longest_sequence
from kdkit.data.prepare import PreparedData
from kdkit.errors import UserError
from kdkit.machine.hardware import find_hardware
from kdkit.machine.session import Session
from kdkit.models.built.dense import build_model, describe_model
from kdkit.models.built.scratch import initializer_range
from kdkit.models.built.size import measure_model
from kdkit.models.from_teacher.embeddings import change_vocabulary, start_from_teacher
from kdkit.models.from_teacher.start import make_start, start_architecture
from kdkit.models.from_teacher.text import calibration_text
from kdkit.models.keep_layers import choose_layers, keep_layers
from kdkit.models.loading import (
    check_context,
    check_fits,
    check_rows,
    context_length,
    load_causal_lm,
    no_bar,
    num_experts,
    read_model_config,
)
from kdkit.models.lora import add_adapters, check_targets
from kdkit.models.quantised.model import check_full_precision
from kdkit.runs.costs import read_cost, write_cost
from kdkit.runs.folder import cached_folder, fingerprint, link_folder
from kdkit.teachers.cache import CachedSignals
from kdkit.teachers.interface import TextTeacher
from kdkit.teachers.prepare import (
    check_own_text,
    identify_teacher,
    own_text_lengths,
    prepare_teacher,
    teacher_architecture,
)
from kdkit.training.scoring import score_windows

FORMAT = 1
"""Raise it when the same settings make another student of a teacher than before."""

START, FACTS = "start", "start.json"
"""In the run: the folder of a student that was made from the teacher, as it was before its first step; and in it, what
of the teacher was kept."""


def make_student(config: Config, data: PreparedData) -> PreTrainedModel:
    """Make the student before its first step; equal seeds give equal weights, in fp32.

    One that is made from the teacher has random weights here, as its baselines have: see `open_start`.

    Raises:
        UserError: see `load_causal_lm`, `keep_layers`, `check_fits`, `start_architecture` and `add_adapters`.
    """
    set_seed(config.training_seed)
    if config.student.path != BUILD:
        model = _load(config, data)
    elif config.student.from_teacher is not None:
        architecture = started_architecture(config, data)
        architecture.initializer_range = initializer_range(architecture.get_text_config().hidden_size)
        if num_experts(architecture):
            hardware = find_hardware(config.train.device, config.train.precision)
            architecture._experts_implementation = hardware.experts_implementation
        model = build_model(architecture)
    else:
        model = build_model(_architecture(config, data))
    if config.student.lora is not None and config.student.from_teacher is None:
        add_adapters(model, config.student.lora)
    return _ready(config, model)


def _ready(config: Config, model: PreTrainedModel) -> PreTrainedModel:
    """Prepare a student for its training."""
    if config.train.gradient_checkpointing:
        # set on the model, not in TrainingArguments, whose names for it change between versions
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model


def begin_student(
    session: Session[Config], data: PreparedData, teacher: TextTeacher | CachedSignals | None, phase: str
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Make the student of a phase as it is before its first step; the teacher may have a part in it.

    Args:
        teacher: None for a baseline, which starts from random weights.

    Returns:
        The student and, where it was made from the teacher, what it was made of, how good it is and what that took.

    Raises:
        UserError: see `make_student` and `open_start`.
    """
    config = session.config
    student = make_student(config, data)
    if teacher is None:
        return student, {}
    if config.student.from_teacher is not None:
        started = open_start(session, data, teacher)
        facts = _describe_start(session, data, started, student)
        set_seed(config.training_seed)  # what is drawn next must not depend on what was drawn for the start
        return started, facts
    if config.distill.start_from_teacher:
        count = start_student(session, data, student, teacher)
        print(f"{phase}: {count} of {len(data.student_tokenizer)} tokens start from the teacher's", flush=True)
    return student, {}


def _describe_start(
    session: Session[Config], data: PreparedData, started: PreTrainedModel, drawn: PreTrainedModel
) -> dict[str, Any]:
    """Score a student that was made from the teacher, and random weights of its sizes, before any training; say it."""
    config, folder = session.config, session.run.path / START
    held_out = data.evaluation.first(config.evaluate.curve_sequences)
    made, random = (
        score_windows(model.to(session.hardware.device), held_out, "student", config.evaluate.batch_size).bits_per_byte
        for model in (started, drawn)
    )
    cost = read_cost(folder) or {}
    facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    print(
        f"student: made from the teacher ({facts['kind']}) in {cost.get('seconds', 0.0):.1f} s: {made:.3f} bits per "
        f"byte of held-out text before any training, {random:.3f} with random weights",
        flush=True,
    )
    return facts | cost | {"bits_per_byte": made, "random_bits_per_byte": random}


def open_start(session: Session[Config], data: PreparedData, teacher: TextTeacher | CachedSignals) -> PreTrainedModel:
    """Return the student as it is made from the teacher; made once, and kept in the cache and in the run's `start/`.

    Args:
        teacher: of the run; a cache holds no weights, so the teacher is loaded where the start is not there yet.

    Raises:
        UserError: see `make_start`, `check_fits` and `add_adapters`.
    """
    config = session.config
    parent, key = session.run.cache_path / "starts", _start_key(session, data)
    folder = cached_folder(parent, key, lambda path: _make_start(session, data, teacher, path))
    link_folder(folder, session.run.path / START)
    model = load_causal_lm(str(folder), "student.from_teacher")
    check_fits(
        model,
        len(data.student_tokenizer),
        longest_sequence("student", data.train, data.evaluation),
        "student.from_teacher",
        "data.max_length",
    )
    set_seed(config.training_seed)
    if config.student.lora is not None:
        add_adapters(model, config.student.lora)
    return _ready(config, model)


def _start_key(session: Session[Config], data: PreparedData) -> str:
    """Fingerprint what makes a student of a teacher."""
    settings = session.config.student.from_teacher
    assert settings is not None
    identity = identify_teacher(session, data)
    return fingerprint(FORMAT, identity, settings.model_dump(), data.key, str(session.hardware.dtype))


def _make_start(
    session: Session[Config], data: PreparedData, teacher: TextTeacher | CachedSignals, folder: Path
) -> None:
    """Make a student of the teacher's parts and save it, with what was kept and what it took."""
    settings, dtype = session.config.student.from_teacher, session.hardware.dtype
    assert settings is not None
    is_there = isinstance(teacher, TextTeacher) and teacher.model.dtype in (dtype, torch.float32)
    model = (teacher if is_there else prepare_teacher(session, data)).model
    text = calibration_text(data.train, settings.calibration_sequences)
    began = time.monotonic()
    start = make_start(settings, model, text)
    facts: dict[str, Any] = {"kind": settings.kind} | start.facts
    if settings.tokenizer != TEACHERS:
        facts["spelled_tokens"] = change_vocabulary(start.model, data.student_tokenizer, data.teacher_tokenizer)
    seconds = time.monotonic() - began
    with no_bar():
        start.model.save_pretrained(folder)
    (folder / FACTS).write_text(json.dumps(facts), encoding="utf-8")
    write_cost(folder, seconds, sum(int(batch.is_read.sum()) for batch in text))


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


def check_start(config: Config) -> None:
    """Refuse to start embeddings from the teacher that are trained already.

    Raises:
        UserError: naming the settings.
    """
    start, path = config.student.from_teacher, config.student.path
    if config.distill.start_from_teacher and (path != BUILD or start is not None):
        got = f"student.path={path!r}" if start is None else f"student.from_teacher={start.kind}"
        raise UserError(
            f"distill.start_from_teacher: expected a student built here from random weights, got {got}, whose "
            "embeddings are trained already; set distill.start_from_teacher=false"
        )


def check_student_lengths(config: Config, data: PreparedData) -> None:
    """Check the student's context, rows and layers against what they are asked for, by its configuration alone.

    Raises:
        UserError: a vocabulary smaller than its tokenizer's; layers that are not there (see `choose_layers`); sizes
            that its teacher has not (see `start_architecture`); a context shorter than a sequence, or than prompt and
            new tokens of an on-policy stage; adapters of modules that it has not.
    """
    student, longest = config.student, longest_sequence("student", data.train, data.evaluation)
    if student.from_teacher is not None:
        architecture = started_architecture(config, data)
        context, key = context_length(architecture), "student.from_teacher"
        check_rows(architecture.get_text_config().vocab_size, len(data.student_tokenizer), key)
    elif student.path == BUILD:
        architecture = _architecture(config, data)
        context, key = student.build.max_length, "student.build.max_length"
    else:
        architecture = read_model_config(
            student.path, "student.path", revision=student.revision, trust_remote_code=student.trust_remote_code
        )
        check_full_precision(architecture, "student.path")
        if student.layers is not None:
            choose_layers(student.layers, architecture.get_text_config().num_hidden_layers)
        context, key = context_length(architecture), "student.path"
        check_rows(architecture.get_text_config().vocab_size, len(data.student_tokenizer), key)
    check_context(context, longest, key, "data.max_length")
    check_own_text(config, data, context, key)
    if student.lora is not None:
        check_targets(architecture, student.lora)


def num_student_layers(config: Config) -> int:
    """Return how many layers the student will have, by its configuration alone.

    Raises:
        UserError: see `read_model_config`, `choose_layers` and `start_architecture`.
    """
    student = config.student
    if student.from_teacher is not None:
        architecture = start_architecture(student.from_teacher, teacher_architecture(config))
        return architecture.get_text_config().num_hidden_layers
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
    """Say in one line how large a student is that will be made here, and what its training takes.

    Args:
        half: whether autocast computes in 16 bits.
    """
    student = config.student
    if student.path != BUILD:
        return f"student: pretrained, {student.path}"
    batch_size = config.train.per_device_train_batch_size
    longest = longest_sequence("student", data.train, data.evaluation)
    if student.from_teacher is None:
        return measure_model(_architecture(config, data), batch_size, longest, half).describe("student")
    size = measure_model(started_architecture(config, data), batch_size, longest, half)
    return size.describe(f"student, made from the teacher ({student.from_teacher.kind})")


def started_architecture(config: Config, data: PreparedData) -> PreTrainedConfig:
    """Describe a student that is made from the teacher to transformers.

    Raises:
        UserError: see `start_architecture` and `teacher_architecture`.
    """
    settings = config.student.from_teacher
    assert settings is not None
    architecture = start_architecture(settings, teacher_architecture(config, len(data.teacher_tokenizer)))
    if settings.tokenizer != TEACHERS:
        architecture.get_text_config().vocab_size = len(data.student_tokenizer)
    return architecture


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
