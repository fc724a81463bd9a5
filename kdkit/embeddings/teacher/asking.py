"""Asking an embedding teacher about a batch, and what of its answers a cache keeps.

Letters: b batch, m teacher tokens (padding included), d_t teacher width, k attention layers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from kdkit.embeddings.data.prepare import SentenceData
from kdkit.embeddings.models.backbone import is_causal
from kdkit.embeddings.models.embedder import EmbeddingModel, batches_by_length, pad_ids, tokenize
from kdkit.errors import UserError
from kdkit.runs.records import Record

EMBEDDING, TOKEN_STATES, ATTENTIONS = "embedding", "token_states", "attentions"
"""Kinds of answers, each a field of a store; see `kdkit.embeddings.teacher.cache`."""
LARGEST_FP16 = 65504.0


@dataclass
class TeacherView:
    """What the teacher says of a batch; all tensors on the device that was asked for."""

    pooled: torch.Tensor
    """fp32, b d_t: sentence vectors of length 1."""
    token_states: torch.Tensor | None = None
    """fp32, b m d_t: states of the last layer, behind the head if there is one; zeros at padding."""
    attention_mask: torch.Tensor | None = None
    """int64, b m; there with either of the others."""
    attentions: torch.Tensor | None = None
    """fp32, b k m m (query, key): mean over the heads; zeros at padding."""


@torch.no_grad()
def ask(
    model: EmbeddingModel, ids: Sequence[np.ndarray], *, tokens: bool = False, attention_layers: tuple[int, ...] = ()
) -> TeacherView:
    """Ask a model about a batch of texts, on its own device.

    Args:
        ids: tokens of each text.
        tokens: also give token states.
        attention_layers: give the attention maps of these layers, counted from 0, in this order.
    """
    input_ids, attention_mask = (tensor.to(model.device) for tensor in pad_ids(ids, model.pad_id))
    with torch.autocast(model.device.type, enabled=False):  # the student's precision is not the teacher's
        encoded = model(input_ids, attention_mask, hidden_states=tokens, attentions=bool(attention_layers))
    view = TeacherView(F.normalize(encoded.pooled, dim=-1))
    is_pad = attention_mask == 0
    if tokens or attention_layers:
        view.attention_mask = attention_mask
    if tokens:
        view.token_states = model.project(encoded.hidden_states[-1]).masked_fill(is_pad[..., None], 0.0)
    if attention_layers:
        maps = torch.stack([encoded.attentions[layer].float().mean(dim=1) for layer in attention_layers], dim=1)
        view.attentions = maps.masked_fill((is_pad[:, None] | is_pad[:, :, None])[:, None], 0.0)
    return view


def answer_chunk(
    model: EmbeddingModel, ids: Sequence[np.ndarray], kinds: list[str], layers: tuple[int, ...], batch_size: int
) -> dict[str, list[Record]]:
    """Make the records of some texts, in their order, of each kind.

    Raises:
        UserError: NaN or inf among the answers.
    """
    records: dict[str, list[Record]] = {kind: [{}] * len(ids) for kind in kinds}
    asked = layers if ATTENTIONS in kinds else ()
    for rows in batches_by_length(ids, batch_size):
        view = ask(model, [ids[row] for row in rows], tokens=TOKEN_STATES in kinds, attention_layers=asked)
        signals = {EMBEDDING: view.pooled[:, None], TOKEN_STATES: view.token_states, ATTENTIONS: view.attentions}
        for kind in kinds:
            halves = _to_half(signals[kind], kind)
            for place, row in enumerate(rows):
                n = len(ids[row])
                if kind == ATTENTIONS:
                    values = halves[place, :, :n, :n].transpose(1, 2, 0).reshape(n * n, len(layers))
                else:
                    values = halves[place, : 1 if kind == EMBEDDING else n]
                records[kind][row] = {kind: values}
    return records


def _to_half(signals: torch.Tensor, kind: str) -> np.ndarray:
    """Bring answers to fp16, on the CPU; refuse what is no number."""
    if not bool(signals.isfinite().all()):
        raise UserError(
            f"teacher.path: expected finite {kind}, got NaN or inf; compute it in another precision "
            "(train.precision=fp32), or choose another teacher"
        )
    return signals.clamp(-LARGEST_FP16, LARGEST_FP16).half().cpu().numpy()


def describe_teacher(model: EmbeddingModel) -> dict[str, Any]:
    """Return what methods and readers must know of a teacher."""
    return {
        "width": model.width,
        "layers": model.num_layers,
        "causal": is_causal(model.backbone),
        "pooling": model.reading.pooling,
    }


def check_tokens(model: EmbeddingModel, data: SentenceData) -> None:
    """Refuse prepared sentences that this teacher would have cut otherwise.

    Raises:
        UserError: another tokenizer, prompt or length.
    """
    reading, texts = model.reading, data.texts[:64]
    own = tokenize(model.tokenizer, texts, reading.max_length, reading.prompt)
    if any(list(ids) != list(given) for ids, given in zip(own, data.teacher_tokens, strict=False)):
        raise UserError(
            "teacher: expected the prepared sentences in its own tokens, got others; prepare the data again with this "
            "teacher, prompt and max_length (notebook 06)"
        )
