"""Batches of sentences: which ones, their tokens, and what student and teacher say of them.

The order of the sentences is decided by seed and epoch alone, so a training that goes on needs only its step number.
"""

from dataclasses import dataclass

import numpy as np
import torch

from kdkit.data.sentence_data import SentenceData
from kdkit.distill.embedding_methods import SentenceMethod
from kdkit.distill.embedding_views import StudentView, Views
from kdkit.errors import UserError
from kdkit.teacher.embedding_cache import CachedTeacher, LiveTeacher
from kdkit.teacher.embedding_model import EmbeddingModel, pad_ids
from kdkit.teacher.pooling import pool


@dataclass(frozen=True)
class Order:
    """Which training rows each micro-batch holds."""

    num_rows: int
    batch_size: int
    seed: int

    @property
    def batches_per_epoch(self) -> int:
        """Whole micro-batches in a pass over the rows; the rest is left out, other ones in every pass."""
        return self.num_rows // self.batch_size

    def rows(self, number: int) -> np.ndarray:
        """Return the rows of a micro-batch, counted from the start of the training."""
        epoch, index = divmod(number, self.batches_per_epoch)
        drawn = np.random.default_rng([self.seed, epoch]).permutation(self.num_rows)
        return drawn[index * self.batch_size :][: self.batch_size]


def make_order(data: SentenceData, batch_size: int, seed: int) -> Order:
    """Plan the micro-batches.

    Raises:
        UserError: fewer sentences than one batch.
    """
    if len(data.rows) < batch_size:
        raise UserError(
            f"train.per_device_train_batch_size: expected at most the {len(data.rows)} training sentences, got "
            f"{batch_size}; lower it, or give more sentences"
        )
    return Order(len(data.rows), batch_size, seed)


def make_views(
    student: EmbeddingModel,
    method: SentenceMethod,
    data: SentenceData,
    teacher: CachedTeacher | LiveTeacher,
    rows: np.ndarray,
) -> Views:
    """Ask both models for everything that a method needs of some training rows.

    Args:
        student: in training mode where the second view is another dropout.
        rows: int, b: training rows.
    """
    needs, device = method.needs, next(student.parameters()).device
    first = data.rows[rows]
    texts = [first]
    if needs.second:
        texts.append(first if data.second is None else data.second[rows])
    count, pad = len(rows), student.tokenizer.pad_token_id or 0
    ids = [data.student_tokens[text] for text in np.concatenate(texts)]
    input_ids, attention_mask = (x.to(device) for x in pad_ids(ids, pad, student.tokenizer.padding_side))
    encoded = student(
        input_ids,
        attention_mask,
        hidden_states=needs.layers or needs.tokens,
        attentions=bool(needs.attention_layers),
    )
    mask = attention_mask[:count]
    states = tuple(layer[:count] for layer in encoded.hidden_states)
    how = "cls" if layers_by_first_token(method) else student.reading.pooling
    view = StudentView(
        pooled=encoded.pooled[:count],
        attention_mask=mask,
        layers=[pool(state, mask, how) for state in states] if needs.layers else [],
        hidden_states=states if needs.tokens else (),
        attentions=tuple(layer[:count] for layer in encoded.attentions),
        word_embeddings=student.backbone.get_input_embeddings()(input_ids[:count]) if needs.word_embeddings else None,
    )
    return Views(
        student=view,
        teacher=teacher.view([int(text) for text in first], device),
        text_ids=torch.as_tensor(first, device=device),
        second=encoded.pooled[count:] if needs.second else None,
    )


def layers_by_first_token(method: SentenceMethod) -> bool:
    """Say whether a method pools layers by their first token, whatever the student's own pooling is."""
    return method.settings.name == "talas" and method.settings.layer_pooling == "cls"
