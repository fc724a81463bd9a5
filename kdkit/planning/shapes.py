"""The shapes of a run's models, from its configuration alone: no weights are read, and none are downloaded."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from transformers import AutoConfig, BertConfig, LlamaConfig, PreTrainedConfig

from kdkit.config.built.from_teacher import OWN
from kdkit.config.embeddings import PACKAGED, REDUCE, STATIC, EmbeddingConfig
from kdkit.config.language import BUILD, Config
from kdkit.config.types import ModelConfig
from kdkit.distill.plan import check_capabilities
from kdkit.embeddings.models.places import check_context
from kdkit.errors import UserError
from kdkit.machine.gguf_files import is_gguf, read_gguf_header
from kdkit.machine.hub import hub_is_reachable, is_local_path, resolve_model_path
from kdkit.machine.packages import PREFIX, is_packaged
from kdkit.machine.user_code import is_user_code
from kdkit.models.built.dense import dense_architecture
from kdkit.models.built.size import ModelSize, measure_model
from kdkit.models.from_teacher.start import start_architecture
from kdkit.models.shared_core.model import register_shared_cores
from kdkit.teachers.build import built_architecture

KNOWN = "shapes.yaml"
"""Published shapes by the model's name, beside this file."""


@dataclass(frozen=True, eq=False)
class Shapes:
    """A model without weights."""

    architecture: PreTrainedConfig
    source: str
    """Where the shapes come from, in words."""
    encoder: bool = False
    """Whether it is an embedding model, without a head for words."""

    @property
    def text(self) -> Any:
        """The configuration of the part that reads text."""
        return self.architecture.get_text_config()

    @property
    def width(self) -> int:
        """Width of the residual stream."""
        return self.text.hidden_size

    @property
    def layers(self) -> int:
        """Number of layers."""
        return self.text.num_hidden_layers

    @property
    def heads(self) -> int:
        """Number of attention heads."""
        return self.text.num_attention_heads

    @property
    def vocab_size(self) -> int:
        """Rows of the vocabulary."""
        return self.text.vocab_size

    @property
    def table_gradient(self) -> int:
        """Bytes of the gradient of the input embeddings; with a tied head, that waits for it, also of their sum."""
        return 4 * self.vocab_size * self.width * (2 if self.text.tie_word_embeddings else 1)

    @property
    def inner(self) -> int:
        """Numbers that the widest part of a layer keeps per token: all experts' that it meets, or one feed-forward."""
        values = self.text.to_dict()
        one = values.get("moe_intermediate_size") or values["intermediate_size"]
        return one * (values.get("num_experts_per_tok") or 1)

    def measure(self, batch_size: int = 0, length: int = 0, half: bool = False, **options: bool) -> ModelSize:
        """Count parameters and, with a batch, activations; see `measure_model`."""
        return measure_model(self.architecture, batch_size, length, half, encoder=self.encoder, **options)


def read_shapes(model: ModelConfig, key: str, *, encoder: bool = False) -> Shapes:
    """Read config.json of a folder or the hub, or look a known model up.

    Args:
        key: the setting that named it, for messages.

    Raises:
        UserError: none of these holds its shapes.
    """
    path = PREFIX + model.path if model.path == PACKAGED else model.path
    known = yaml.safe_load(Path(__file__).with_name(KNOWN).read_text(encoding="utf-8"))
    if is_packaged(path) and path in known:  # its folder would be written first
        return Shapes(_from_values(known[path]), "published shapes, kept in kdkit", encoder)
    if is_gguf(path):
        return _gguf_shapes(path, key)
    if is_user_code(path):
        least = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
        return Shapes(LlamaConfig(vocab_size=260, **least), "code of your own, which is not counted", encoder)
    register_shared_cores()
    try:
        name = resolve_model_path(path, key)
        offline = is_local_path(name) or not hub_is_reachable()
        options = {"revision": model.revision, "trust_remote_code": model.trust_remote_code}
        source = f"config.json in {path}" if is_local_path(name) else "config.json of the hub"
        return Shapes(AutoConfig.from_pretrained(name, local_files_only=offline, **options), source, encoder)
    except (OSError, ValueError, RuntimeError) as error:
        if path in known:
            return Shapes(_from_values(known[path]), "published shapes, kept in kdkit", encoder)
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{key}: expected a model whose shapes are known, got {path!r} without a config.json that can be read "
            f"here; pass a folder that holds its config.json, the weights are not needed: -p {key}=FOLDER"
        ) from None


def _gguf_shapes(path: str, key: str) -> Shapes:
    """Read the header of a file that llama.cpp runs; what is not a Llama is counted as one of its sizes."""
    header = read_gguf_header(path, key)
    values = {name.removeprefix(f"{header.architecture}."): value for name, value in header.metadata.items()}
    heads = values["attention.head_count"]
    architecture = LlamaConfig(
        vocab_size=values.get("vocab_size") or values["tokenizer.ggml.tokens"],
        hidden_size=values["embedding_length"],
        intermediate_size=values["feed_forward_length"],
        num_hidden_layers=values["block_count"],
        num_attention_heads=heads,
        num_key_value_heads=values.get("attention.head_count_kv", heads),
    )
    return Shapes(architecture, f"the header of {Path(path).name}")


def _from_values(values: dict[str, Any]) -> PreTrainedConfig:
    return AutoConfig.for_model(**values)


def language_shapes(config: Config) -> tuple[Shapes, Shapes]:
    """Return the shapes of student and teacher.

    Raises:
        UserError: see `read_shapes`.
    """
    teacher = _teacher_of(config)
    settings = config.student
    if settings.from_teacher is not None:
        return _started(config, teacher), teacher
    if settings.path != BUILD:
        student = read_shapes(settings, "student.path")
        kept = len(settings.layers) if isinstance(settings.layers, list) else settings.layers
        return _cut(student, kept), teacher
    build = settings.build
    vocab_size = teacher.vocab_size if build.tokenizer == "teacher" else build.vocab_size
    architecture = dense_architecture(
        build,
        vocab_size,
        context=build.max_length or max(config.data.max_length, 512),
        intermediate_size=build.intermediate_size,
        dropout=build.dropout,
    )
    return Shapes(architecture, "student.build"), teacher


def _teacher_of(config: Config) -> Shapes:
    if config.teacher.path != BUILD:
        return read_shapes(config.teacher, "teacher.path")
    return Shapes(built_architecture(config, config.teacher.build.vocab_size), "teacher.build")


def _started(config: Config, teacher: Shapes) -> Shapes:
    """Return the shapes of a student that is made from the teacher.

    Raises:
        UserError: a teacher that is no model of transformers; see also `start_architecture`.
    """
    settings = config.student.from_teacher
    assert settings is not None
    check_capabilities(config)
    architecture = start_architecture(settings, teacher.architecture)
    if settings.tokenizer == OWN:  # of another that is there nobody knows the size before it is read
        architecture.get_text_config().vocab_size = config.student.build.vocab_size
    return Shapes(architecture, f"student.from_teacher={settings.kind}")


def embedding_shapes(config: EmbeddingConfig) -> tuple[Shapes | None, Shapes | None]:
    """Return the shapes of student and teacher; None: a table of vectors, or vectors in a file.

    Raises:
        UserError: see `read_shapes`; texts longer than a model's context.
    """
    teacher = None if config.teacher.vectors else read_shapes(config.teacher, "teacher.path", encoder=True)
    settings, length = config.student, config.data.max_length
    if teacher is not None:
        setting = "teacher.max_length" if config.teacher.max_length else "data.max_length"
        told = config.teacher.max_length or length
        check_context(teacher.architecture.to_dict(), told, setting, config.teacher.path, "teacher.path")
    if settings.path == STATIC:
        return None, teacher
    if settings.path == REDUCE:
        assert teacher is not None, "checked with the configuration"
        return _cut(teacher, settings.num_layers if settings.layers is None else len(settings.layers)), teacher
    if settings.path != BUILD:
        student = read_shapes(settings, "student.path", encoder=True)
        check_context(student.architecture.to_dict(), length, "data.max_length", settings.path, "student.path")
        return _cut(student, None if settings.layers is None else len(settings.layers)), teacher
    build = settings.build
    vocab_size = teacher.vocab_size if teacher is not None and build.tokenizer == "teacher" else build.vocab_size
    architecture = BertConfig(
        vocab_size=vocab_size,
        hidden_size=build.hidden_size,
        num_hidden_layers=build.num_layers,
        num_attention_heads=build.num_heads,
        intermediate_size=build.intermediate_size,
        max_position_embeddings=max(config.data.max_length, 512),
    )
    return Shapes(architecture, "student.build", encoder=True), teacher


def _cut(shapes: Shapes, num_layers: int | None) -> Shapes:
    """Keep so many layers; None: all."""
    if num_layers is None or num_layers >= shapes.layers:
        return shapes
    architecture = type(shapes.architecture).from_dict(shapes.architecture.to_dict())
    text = architecture.get_text_config()
    if text.to_dict().get("layer_types"):
        text.layer_types = text.layer_types[:num_layers]
    text.num_hidden_layers = num_layers
    return Shapes(architecture, f"{num_layers} layers of {shapes.source}", shapes.encoder)
