"""The student: a small Llama from random weights or the teacher's embeddings, or a pretrained LM, or layers of it."""

from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, set_seed

from kdkit.alignment.tokenizers import end_token_id, start_token_id
from kdkit.config.language import BUILD, Config
from kdkit.data.batches import longest_sequence
from kdkit.data.prepare import PreparedData
from kdkit.machine.session import Session
from kdkit.models.keep_layers import choose_layers, keep_layers
from kdkit.models.loading import check_context, check_fits, context_length, load_causal_lm, read_model_config
from kdkit.models.scratch import initializer_range, spread_embeddings
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
    model = _build(config, data) if config.student.path == BUILD else _load(config, data)
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
    """Check the student's context and layers against what they are asked for, by its configuration alone.

    Raises:
        UserError: layers that are not there (see `choose_layers`); a context shorter than a sequence, or than prompt
            and new tokens of an on-policy stage.
    """
    student, longest = config.student, longest_sequence("student", data.train, data.evaluation)
    if student.path == BUILD:
        context, key = student.build.max_length, "student.build.max_length"
    else:
        model_config = read_model_config(
            student.path, "student.path", revision=student.revision, trust_remote_code=student.trust_remote_code
        )
        if student.layers is not None:
            choose_layers(student.layers, model_config.get_text_config().num_hidden_layers)
        context, key = context_length(model_config), "student.path"
    check_context(context, longest, key, "data.max_length")
    check_own_text(config, data, context, key)


def _build(config: Config, data: PreparedData) -> PreTrainedModel:
    """Make a small Llama from random weights."""
    return spread_embeddings(LlamaForCausalLM(_architecture(config, data)))


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


def _architecture(config: Config, data: PreparedData) -> LlamaConfig:
    """Describe the built student to transformers."""
    build = config.student.build
    written = [prompt + new for _, prompt, new in own_text_lengths(config, data)]
    return LlamaConfig(
        vocab_size=len(data.student_tokenizer),
        hidden_size=build.hidden_size,
        num_hidden_layers=build.num_layers,
        num_attention_heads=build.num_heads,
        num_key_value_heads=build.num_heads,
        intermediate_size=build.intermediate_size,
        max_position_embeddings=build.max_length or max(config.data.max_length, 512, *written),
        attention_dropout=build.dropout,
        initializer_range=initializer_range(build.hidden_size),
        tie_word_embeddings=False,
        bos_token_id=start_token_id(data.student_tokenizer),
        eos_token_id=end_token_id(data.student_tokenizer),
        pad_token_id=data.student_tokenizer.pad_token_id,
    )
