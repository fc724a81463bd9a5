"""The memory of an embedding model's distillation: a method's own needs decide what is computed of a sentence."""

import torch

from kdkit.config.embeddings import REDUCE, STATIC, EmbeddingConfig
from kdkit.config.methods import MethodSettings
from kdkit.embeddings.methods.base import PairFacts, SentenceMethod
from kdkit.embeddings.training.train import build_method
from kdkit.machine.hardware import DTYPES
from kdkit.models.built.size import FP32, ModelSize
from kdkit.planning.devices import Device
from kdkit.planning.items import Item, Phase, backward_bytes, forward_bytes, fullest, kept_by_layers
from kdkit.planning.shapes import Shapes, embedding_shapes

VECTOR_WIDTH = 768
"""Taken for the width of vectors in a file, which is not opened."""


def plan_embedding_memory(config: EmbeddingConfig, device: Device) -> list[Phase]:
    """Return the phases of a run: the teacher's answers, and the training by each method.

    Raises:
        UserError: see `read_shapes`.
    """
    student, teacher = embedding_shapes(config)
    phases = []
    if teacher is not None:
        phases.append(_answers(config, device, teacher))
    for settings in (config.method, *config.compare):
        method = make_method(settings, config, student, teacher)
        phases.append(_training(config, device, student, teacher, method, f"the student is trained by {settings}"))
    return phases


def make_method(
    settings: MethodSettings, config: EmbeddingConfig, student: Shapes | None, teacher: Shapes | None
) -> SentenceMethod:
    """Build a method for the shapes of two models: it knows what it needs of them."""
    own = (student.width, student.layers) if student is not None else (config.student.static.width, 0)
    others = (teacher.width, teacher.layers) if teacher is not None else (VECTOR_WIDTH, 0)
    with torch.device("meta"):
        facts = PairFacts(own[0], others[0], own[1], others[1], max_length=config.data.max_length)
        return build_method(settings, facts)


def _answers(config: EmbeddingConfig, device: Device, teacher: Shapes) -> Phase:
    place, size = device.hardware.teacher_device, _teacher_bytes(device)
    tokens = config.teacher.batch_size * _teacher_length(config)
    return Phase(
        "the teacher answers",
        (
            Item(place, "Python and libraries" if place == "cpu" else "CUDA context", device.base_bytes),
            Item(place, "teacher: weights", teacher.measure().parameters * size),
            Item(place, "teacher: forward pass", forward_bytes(tokens, teacher.width, teacher.inner, size)),
        ),
    )


def _teacher_bytes(device: Device) -> int:
    return DTYPES[device.hardware.precision].itemsize


def _teacher_length(config: EmbeddingConfig) -> int:
    return config.teacher.max_length or config.data.max_length


def sentences_per_row(config: EmbeddingConfig, method: SentenceMethod) -> int:
    """Return how many texts the student reads for a training row."""
    listed = 1 + config.data.negatives.number if method.needs.lists else 0
    return 1 + method.needs.second + listed + method.needs.late


def _training(
    config: EmbeddingConfig,
    device: Device,
    student: Shapes | None,
    teacher: Shapes | None,
    method: SentenceMethod,
    name: str,
) -> Phase:
    """Plan a training by one method."""
    here, half = device.hardware.device, device.hardware.precision != "fp32"
    rows, length = config.train.per_device_train_batch_size, config.data.max_length
    texts = rows * sentences_per_row(config, method)
    dropout = config.train.dropout == "always" or (config.train.dropout == "auto" and bool(method.needs.second))
    if student is None:
        width, layers = config.student.static.width, 0
        table = (teacher.vocab_size if teacher is not None else 0) * width
        size = ModelSize(table, table, table, (), 0, half)
    else:
        width, layers = student.width, student.layers
        options = {"maps": bool(method.needs.attention_layers), "dropout": dropout, "fused": here != "cpu"}
        size = student.measure(texts, length, half, **options)
    frozen = 0 if _trains_words(config) else size.embeddings
    own = sum(parameter.numel() for parameter in method.parameters())
    trained = size.parameters - frozen + own
    items = [Item(here, "Python and libraries" if here == "cpu" else "CUDA context", device.base_bytes)]
    items += [Item(here, "student: weights", size.weights), Item(here, "student: AdamW", 2 * FP32 * trained)]
    if own:
        items.append(Item(here, "the method's own weights", FP32 * own))
    if method.sharpness is not None:
        items.append(Item(here, "weights and moves of the sharpness-aware step", 2 * FP32 * trained))
    kept = kept_by_layers(here, size, layers, width, texts * length, checkpointed=False)
    kept += _views(config, here, method, width, teacher)
    if student is not None:
        states = backward_bytes(texts * length, width, student.inner // 2, 2 if half else FP32)
        kept.append(Item(here, "backward pass of a layer", states))
    if not config.teacher.cache and teacher is not None:
        place, per_number = device.hardware.teacher_device, _teacher_bytes(device)
        items.append(Item(place, "teacher: weights", teacher.measure().parameters * per_number))
        tokens = rows * _teacher_length(config)
        kept.append(
            Item(place, "teacher: forward pass", forward_bytes(tokens, teacher.width, teacher.inner, per_number))
        )
    gradients = [Item(here, "student: gradients", FP32 * trained)]
    if here != "cpu":  # torch's AdamW for GPUs takes all roots at once
        gradients.append(Item(here, "AdamW: one more of each number", FP32 * trained))
    if config.train.gradient_accumulation_steps > 1:
        return Phase(name, (*items, *gradients[:1], *fullest([], kept, gradients[1:])))
    return Phase(name, tuple(fullest(items, kept, gradients)))


def _trains_words(config: EmbeddingConfig) -> bool:
    """Return whether the table of word vectors learns."""
    if config.train.word_embeddings == "auto":
        return config.student.path != REDUCE
    return config.train.word_embeddings == "train" or config.student.path == STATIC


def _views(
    config: EmbeddingConfig, here: str, method: SentenceMethod, width: int, teacher: Shapes | None
) -> list[Item]:
    """List what a method reads of both models' tokens."""
    needs, rows, length = method.needs, config.train.per_device_train_batch_size, config.data.max_length
    wide = teacher.width if teacher is not None else VECTOR_WIDTH
    tokens = rows * length
    numbers = 0
    if needs.tokens or needs.late:
        numbers += 3 * tokens * (width + wide)
    if needs.word_embeddings:
        numbers += tokens * (width + wide)
    if needs.attention_layers and teacher is not None:
        numbers += needs.attention_layers * tokens * length * teacher.heads
    return [Item(here, "what the method compares of tokens", FP32 * numbers)]
