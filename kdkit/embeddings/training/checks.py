"""What is refused before a training: signals that a model has not, weights of 0, lengths, batches without content."""

from typing import Any

import numpy as np

from kdkit.embeddings.methods.base import MethodNeeds, SentenceMethod
from kdkit.embeddings.models.backbone import context_length
from kdkit.embeddings.models.embedder import EmbeddingModel, tokenize
from kdkit.embeddings.models.late import LateReading, Role
from kdkit.errors import UserError

ROLES: tuple[Role, Role] = ("query", "document")


def check_method(name: str, method: SentenceMethod, student: EmbeddingModel, probe: dict[str, Any]) -> None:
    """Refuse a method that cannot train this student by this teacher; the others can still be used.

    Args:
        name: of the method, for messages.
        probe: of `teacher/probe.json`.

    Raises:
        UserError: all weights are 0; signals that a model has not; lengths that leave nothing of a text.
    """
    if not method.weights:
        raise UserError(
            f"method: expected a weight above 0 for {name}, got 0 for all of its losses; set one of its weights "
            "(docs/settings.md), or method=cosine"
        )
    _check_signals(name, method.needs, student, probe)
    if method.late is not None:
        _check_lengths(name, method.late, student)


def _check_signals(name: str, needs: MethodNeeds, student: EmbeddingModel, probe: dict[str, Any]) -> None:
    """Refuse a method that needs what one of the models has not; the others can still be used.

    Several poolings at once make a vector that is wider than the states it is made of.
    """
    tokens = needs.tokens or needs.attention_layers or needs.word_embeddings
    joined = "+" in student.reading.pooling
    if tokens and not probe["num_layers"]:
        got = "the vectors of a file (teacher.vectors)"
    elif tokens and "+" in probe["pooling"]:
        got = f"a teacher pooled by {probe['pooling']}, whose vectors are wider than its states"
    elif joined and (tokens or needs.layers == "cls"):
        got = f"a student pooled by {student.reading.pooling}; set student.pooling=mean"
    else:
        return
    what = "states of tokens" if tokens else "first tokens of layers"
    raise UserError(f"method: {name} expected {what}, got {got}; other methods need vectors only: method=cosine")


def _check_lengths(name: str, late: LateReading, student: EmbeddingModel) -> None:
    """Refuse queries and documents of which only prompt and special tokens are left, or longer than the context."""
    context = context_length(student.backbone)
    for role in ROLES:
        length = late.length(role)
        (ids,) = tokenize(student.tokenizer, [""], max(context, length), late.prompt(role))
        if len(ids) < length <= context:
            continue
        if length > context:
            wanted, value = f"at most {context} tokens, the student's context,", context
        else:
            prompt = f" and those of method.{role}_prompt" if late.prompt(role) else ""
            wanted = f"more than {len(ids)} tokens, the special ones{prompt},"
            value = min(context, len(ids) + 30)
        raise UserError(
            f"method.{role}_length: expected {wanted} for {name}, got {length}; set method.{role}_length={value}"
        )


def check_documents(methods: dict[str, SentenceMethod], documents: np.ndarray | None) -> None:
    """Refuse sentences whose partners are all one document: there are no scores to compare.

    Args:
        documents: int, `[rows]`: text of each row's partner.

    Raises:
        UserError: less than two documents for late interaction.
    """
    late = [name for name, method in methods.items() if method.needs.late]
    if late and documents is not None and len(np.unique(documents)) < 2:
        raise UserError(
            f"data.path: expected at least 2 different documents for {late[0]}, which compares their scores, got 1 for "
            f"all {len(documents)} rows; give others, or set method=cosine"
        )


def check_batch(methods: dict[str, SentenceMethod], batch_size: int) -> None:
    """Refuse micro-batches in which a method has nothing to compare: its loss would be 0, and nothing be learned.

    Every micro-batch is whole: what is left of a pass over the sentences is not trained on (see `Order`).

    Raises:
        UserError: too few sentences in a micro-batch.
    """
    name = max(methods, key=lambda name: methods[name].min_batch)
    if batch_size < (least := methods[name].min_batch):
        raise UserError(
            f"train.per_device_train_batch_size: expected at least {least} sentences for {name}, which compares those "
            f"of a batch with each other, got {batch_size}; set train.per_device_train_batch_size={max(least, 32)}"
        )
