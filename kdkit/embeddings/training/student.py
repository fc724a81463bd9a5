"""The student of an embedding distillation before its first step: cut out of the teacher, built, or loaded."""

from dataclasses import replace

from torch import nn
from transformers import BertConfig, BertModel, set_seed

from kdkit.config.embeddings import REDUCE, STATIC, EmbeddingConfig
from kdkit.config.methods import LateInteraction
from kdkit.config.types import BUILD
from kdkit.embeddings.data.prepare import SentenceData
from kdkit.embeddings.models.embedder import EmbeddingModel, check_weights, load_embedding_model
from kdkit.embeddings.models.modules import Dense, head_modules
from kdkit.embeddings.models.places import resolve_embedding_path
from kdkit.embeddings.models.pooling import Reading, read_reading
from kdkit.embeddings.models.static import is_static
from kdkit.embeddings.teacher.vocabulary import make_static_student
from kdkit.machine.hardware import choose_attention
from kdkit.machine.session import Session
from kdkit.models.keep_layers import keep_layers, spread_layers


def open_embedding_student(
    session: Session[EmbeddingConfig], data: SentenceData, *, attentions: bool = False
) -> EmbeddingModel:
    """Make the student of a run; a static one is made of the teacher's vocabulary, which is read once and cached.

    Raises:
        UserError: see `make_static_student` and `make_embedding_student`.
    """
    if session.config.student.path == STATIC:
        return make_static_student(session, data)
    return make_embedding_student(session.config, data, attentions=attentions)


def make_embedding_student(config: EmbeddingConfig, data: SentenceData, *, attentions: bool = False) -> EmbeddingModel:
    """Make the student that every method starts from: equal configurations give equal weights.

    Args:
        attentions: use an attention that can be read; its results differ in rounding only.

    Returns:
        The student on the CPU, in fp32, in evaluation mode. It reads sentences without a prompt, whatever the
        teacher's.

    Raises:
        UserError: layers that the model does not have, or a model that cannot be loaded.
    """
    settings = config.student
    if settings.path == BUILD:
        student = _build(config, data)
    else:
        is_cut_out = settings.path == REDUCE
        source, key = (config.teacher, "teacher.path") if is_cut_out else (settings, "student.path")
        loaded = load_embedding_model(
            resolve_embedding_path(source.path, key),
            key,
            revision=source.revision,
            trust_remote_code=source.trust_remote_code,
            pooling=config.teacher.pooling if is_cut_out and settings.pooling == "auto" else settings.pooling,
            max_length=config.data.max_length,
        )
        check_weights(loaded, key, source.path)
        if loaded.head is not None and not (loaded.reading.late and isinstance(config.method, LateInteraction)):
            print(
                "student: its own projection (2_Dense) is left out; what it learns are the vectors before it",
                flush=True,
            )
        reading = replace(loaded.reading, prompt="", prompts={}, pool_prompt=True, late=None)  # as it is trained
        student = EmbeddingModel(loaded.backbone, loaded.tokenizer, reading).eval()
        if is_cut_out or settings.layers is not None:
            kept = (
                spread_layers(student.num_layers, settings.num_layers) if settings.layers is None else settings.layers
            )
            keep_layers(student.backbone, kept)
    if attentions:
        student.backbone.set_attn_implementation(choose_attention(maps_in_loss=True)[0])
    return student


def own_token_head(config: EmbeddingConfig) -> nn.Linear | None:
    """Return the map of token states of the model that a student starts from; None: it has none, or another head."""
    is_cut_out = config.student.path == REDUCE
    source, key = (config.teacher, "teacher.path") if is_cut_out else (config.student, "student.path")
    if config.student.path in (BUILD, STATIC):
        return None
    name = resolve_embedding_path(source.path, key)
    if is_static(name, source.revision) or read_reading(name, key, revision=source.revision).late is None:
        return None
    model = load_embedding_model(source.path, key, revision=source.revision, trust_remote_code=source.trust_remote_code)
    head = head_modules(model.head)
    is_linear = len(head) == 1 and isinstance(head[0], Dense) and isinstance(head[0].activation_function, nn.Identity)
    return head[0].linear if is_linear and head[0].linear.bias is None and head[0].residual is None else None


def _build(config: EmbeddingConfig, data: SentenceData) -> EmbeddingModel:
    """Make a small BERT from random weights."""
    settings, tokenizer = config.student.build, data.student_tokenizer
    set_seed(config.seed)
    backbone = BertModel(
        BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=settings.hidden_size,
            num_hidden_layers=settings.num_layers,
            num_attention_heads=settings.num_heads,
            intermediate_size=settings.intermediate_size,
            max_position_embeddings=max(config.data.max_length, 512),
            pad_token_id=tokenizer.pad_token_id or 0,
        ),
        add_pooling_layer=False,
    )
    pooling = "mean" if config.student.pooling == "auto" else config.student.pooling
    reading = Reading(pooling=pooling, normalize=True, max_length=config.data.max_length, prompt="")
    return EmbeddingModel(backbone, tokenizer, reading).eval()
