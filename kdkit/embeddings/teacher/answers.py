"""An embedding teacher's signals for a batch: out of the files of a cache, or from a model in memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F

from kdkit.embeddings.models.embedder import EmbeddingModel, batches_by_length, pad_ids
from kdkit.embeddings.teacher.token_store import TokenStore
from kdkit.runs.store import Store

EMBEDDING, TOKEN_STATES, ATTENTIONS = "embedding", "token_states", "attentions"
"""Kinds of signals, each a field of a store; see `kdkit.embeddings.teacher.cache`."""


@dataclass
class TeacherView:
    """The teacher's signals for a batch; all tensors on the device of the call."""

    pooled: torch.Tensor
    """fp32, `[B, H_teacher]`: sentence vectors of length 1."""
    token_states: torch.Tensor | None = None
    """fp32, `[B, T, H_teacher]`: states of the last layer, behind the head if there is one; zeros at padding."""
    attention_mask: torch.Tensor | None = None
    """int64, `[B, T]`; there with either of the others."""
    attentions: torch.Tensor | None = None
    """fp32, `[B, attention_layers, T, T]` (query, key): mean over the heads; zeros at padding."""


@dataclass(frozen=True)
class CachedTeacher:
    """Signals out of the files of a cache; the model itself is not in memory."""

    keys: list[str]
    """Hash of each text."""
    lengths: np.ndarray
    """int, one for each text: its teacher tokens."""
    vectors: np.ndarray
    """fp32, `[num_texts, H_teacher]`, of length 1."""
    token_states: Store | None = None
    attentions: Store | None = None
    tokens: TokenStore | None = None
    """Token vectors of a teacher that has one for every token, where a method scores by them."""

    def view(self, rows: list[int], device: torch.device | str) -> TeacherView:
        """Return the signals for some texts, given by their numbers."""
        view = TeacherView(torch.from_numpy(self.vectors[rows]).to(device))
        if self.token_states is None and self.attentions is None:
            return view
        lengths = self.lengths[rows]
        width = max(int(lengths.max()), 1)
        mask = np.arange(width) < lengths[:, None]
        view.attention_mask = torch.from_numpy(mask.astype(np.int64)).to(device)
        if self.token_states is not None:
            states = np.zeros((len(rows), width, self.vectors.shape[1]), np.float16)
            for place, row in enumerate(rows):
                states[place, : lengths[place]] = self.token_states.read(self.keys[row])[TOKEN_STATES]
            view.token_states = torch.from_numpy(states).to(device).float()
        if self.attentions is not None:
            k = self.attentions.fields[0].width
            maps = np.zeros((len(rows), k, width, width), np.float16)
            for place, (row, n) in enumerate(zip(rows, lengths, strict=True)):
                flat = self.attentions.read(self.keys[row])[ATTENTIONS]
                maps[place, :, :n, :n] = flat.reshape(n, n, k).transpose(2, 0, 1)
            view.attentions = torch.from_numpy(maps).to(device).float()
        return view


@dataclass(frozen=True)
class LiveTeacher:
    """Signals of a model in memory, on its own device."""

    model: EmbeddingModel
    ids: Sequence[np.ndarray]
    """Teacher tokens of every text."""
    tokens: bool = False
    """Whether to give token states."""
    attention_layers: tuple[int, ...] = ()
    """Layers whose attention maps to give."""
    batch_size: int = 64
    """Texts in a batch for `vectors`."""

    def view(self, rows: list[int], device: torch.device | str) -> TeacherView:
        """Return the signals for some texts; only they are moved to the device."""
        ids = [self.ids[row] for row in rows]
        view = ask(self.model, ids, tokens=self.tokens, attention_layers=self.attention_layers)
        return TeacherView(
            **{name: None if values is None else values.to(device) for name, values in vars(view).items()}
        )

    @cached_property
    def vectors(self) -> np.ndarray:
        """Sentence vectors of all texts, fp32, `[num_texts, H_teacher]`; computed at the first use."""
        vectors = np.zeros((len(self.ids), self.model.width), np.float32)
        for rows in batches_by_length(self.ids, self.batch_size):
            vectors[rows] = ask(self.model, [self.ids[row] for row in rows]).pooled.cpu().numpy()
        return vectors


@torch.no_grad()
def ask(
    model: EmbeddingModel, ids: Sequence[np.ndarray], *, tokens: bool = False, attention_layers: tuple[int, ...] = ()
) -> TeacherView:
    """Compute a model's signals for a batch of texts, on its own device.

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
