"""The student: a small Llama from random weights or from the teacher's embeddings, or a pretrained causal LM."""

from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, set_seed

from kdkit.alignment.tokenizers import end_token_id, start_token_id
from kdkit.config.language import BUILD, Config
from kdkit.data.prepare import PreparedData
from kdkit.data.windows import PAD
from kdkit.distill.plan import TrainingPlan
from kdkit.models.loading import check_fits, load_causal_lm
from kdkit.models.scratch import initializer_range, spread_embeddings
from kdkit.models.teacher_start import start_from_teacher
from kdkit.teachers.cache import CachedSignals
from kdkit.teachers.prepare import Teacher, prepare_teacher


def make_student(config: Config, data: PreparedData) -> PreTrainedModel:
    """Make the student before its first step; equal seeds give equal weights, in fp32.

    Raises:
        UserError: see `load_causal_lm` and `check_fits`.
    """
    set_seed(config.seed)
    model = _build(config, data) if config.student.path == BUILD else _load(config, data)
    if config.train.gradient_checkpointing:
        # set on the model, not in TrainingArguments, whose names for it change between versions
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model


def start_student(plan: TrainingPlan, student: PreTrainedModel, teacher: Teacher | CachedSignals) -> int:
    """Start the embeddings and the head of a built student from the teacher's; a cache holds none, so it is loaded.

    Returns:
        How many of the student's tokens were started.
    """
    data = plan.data
    model = teacher.model if isinstance(teacher, Teacher) else prepare_teacher(plan.session, data).model
    tables = model.get_input_embeddings().weight.detach(), model.get_output_embeddings().weight.detach()
    tokenizers = data.student_tokenizer, data.teacher_tokenizer
    return start_from_teacher(student, *tables, *tokenizers, plan.session.config.seed)


def _build(config: Config, data: PreparedData) -> PreTrainedModel:
    """Make a small Llama from random weights."""
    return spread_embeddings(LlamaForCausalLM(_architecture(config, data)))


def _load(config: Config, data: PreparedData) -> PreTrainedModel:
    """Load a pretrained student and check it against its tokenizer and the training text."""
    model = load_causal_lm(
        config.student.path,
        "student.path",
        revision=config.student.revision,
        trust_remote_code=config.student.trust_remote_code,
    )
    longest = int((data.train.student_ids != PAD).sum(axis=1).max())
    check_fits(model, len(data.student_tokenizer), longest, "student.path", "data.max_length")
    return model


def _architecture(config: Config, data: PreparedData) -> LlamaConfig:
    """Describe the built student to transformers."""
    build = config.student.build
    return LlamaConfig(
        vocab_size=len(data.student_tokenizer),
        hidden_size=build.hidden_size,
        num_hidden_layers=build.num_layers,
        num_attention_heads=build.num_heads,
        num_key_value_heads=build.num_heads,
        intermediate_size=build.intermediate_size,
        max_position_embeddings=max(config.data.max_length, 512),
        initializer_range=initializer_range(build.hidden_size),
        tie_word_embeddings=False,
        bos_token_id=start_token_id(data.student_tokenizer),
        eos_token_id=end_token_id(data.student_tokenizer),
        pad_token_id=data.student_tokenizer.pad_token_id,
    )
