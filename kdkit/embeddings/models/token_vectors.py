"""Token vectors of queries and documents: what late interaction compares; see `kdkit.embeddings.models.late`."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from transformers import PreTrainedTokenizerFast

from kdkit.embeddings.models.embedder import EmbeddingModel, batches_by_length, pad_ids, tokenize
from kdkit.embeddings.models.late import LateReading, Role
from kdkit.errors import UserError


@dataclass(frozen=True)
class TokenBatch:
    """Texts of one role, ready for a model."""

    input_ids: torch.Tensor
    """int64, `[B, S]`."""
    attention_mask: torch.Tensor
    """int64, `[B, S]`: tokens that the model sees."""
    counts: torch.Tensor
    """bool, `[B, S]`: tokens whose vectors are scored."""

    def to(self, device: torch.device | str) -> "TokenBatch":
        """Move it to a device."""
        return TokenBatch(*(tensor.to(device) for tensor in vars(self).values()))


def role_ids(tokenizer: PreTrainedTokenizerFast, texts: list[str], role: Role, late: LateReading) -> list[list[int]]:
    """Return the ids of each text behind its role's prompt, cut to its role's length."""
    return tokenize(tokenizer, texts, late.length(role), late.prompt(role))


def role_batch(
    tokenizer: PreTrainedTokenizerFast, ids: Sequence[Sequence[int]], role: Role, late: LateReading
) -> TokenBatch:
    """Make a batch of texts: short queries are filled up with mask tokens, and what does not count is left out.

    Mask tokens are scored but not seen by the others, unless `late.attend`.

    Raises:
        UserError: see `expansion_id`.
    """
    input_ids, attention_mask = pad_ids(ids, tokenizer.pad_token_id)
    counts = attention_mask.bool()
    if role == "query" and late.expansion:
        missing = max(0, late.expansion - input_ids.shape[1])
        input_ids, attention_mask = F.pad(input_ids, (0, missing)), F.pad(attention_mask, (0, missing))
        filled = (attention_mask == 0) & (torch.arange(input_ids.shape[1]) < late.expansion)
        input_ids = input_ids.masked_fill(filled, expansion_id(tokenizer, late))
        counts = attention_mask.bool() | filled
        attention_mask = counts.long() if late.attend else attention_mask
    if role in late.skipped_in and late.skipped:
        counts = counts & ~torch.isin(input_ids, torch.tensor(skipped_ids(tokenizer, late), dtype=torch.long))
    return TokenBatch(input_ids, attention_mask, counts)


def expansion_id(tokenizer: PreTrainedTokenizerFast, late: LateReading) -> int:
    """Return the token that queries are filled up with.

    Raises:
        UserError: the tokenizer has no such token.
    """
    named = late.expansion_token
    own = tokenizer.eos_token_id if tokenizer.mask_token_id is None else tokenizer.mask_token_id
    found = own if named is None else tokenizer.get_vocab().get(named)
    if found is None:
        what = "a mask or end token" if named is None else f"the token {named!r}"
        raise UserError(
            f"method.query_expansion: expected a tokenizer with {what} to fill queries up with, got none; set "
            "method.query_expansion=false"
        )
    return found


def skipped_ids(tokenizer: PreTrainedTokenizerFast, late: LateReading) -> list[int]:
    """Return the ids of tokens that do not count; words that the tokenizer has no token for are passed over."""
    vocabulary = tokenizer.get_vocab()
    return [vocabulary[word] for word in late.skipped if word in vocabulary]


def token_vectors(model: EmbeddingModel, batch: TokenBatch) -> torch.Tensor:
    """Return a vector for every token of a batch on the model's device, behind the head: fp32, `[B, S, H]`."""
    states = model.backbone(input_ids=batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state
    vectors = model.project(states)
    return F.normalize(vectors, dim=-1) if model.reading.normalize else vectors


@torch.no_grad()
def encode_tokens(
    model: EmbeddingModel,
    texts: list[str],
    role: Role,
    batch_size: int,
    *,
    autocast_dtype: torch.dtype | None = None,
) -> list[np.ndarray]:
    """Return the vectors of each text's tokens that count, in the order given, with dropout off.

    Args:
        model: one with `reading.late`.
        autocast_dtype: compute in it; None: in the weights' own.

    Returns:
        fp32, `[T, H]` for each text.
    """
    late, device, was_training = model.reading.late, model.device, model.training
    ids = role_ids(model.tokenizer, texts, role, late)
    vectors: list[np.ndarray] = [np.zeros((0, model.width), np.float32)] * len(texts)
    model.eval()
    for rows in batches_by_length(ids, batch_size):
        batch = role_batch(model.tokenizer, [ids[row] for row in rows], role, late).to(device)
        with torch.autocast(device.type, autocast_dtype) if autocast_dtype else nullcontext():
            found = token_vectors(model, batch)
        for row, values, counts in zip(rows, found, batch.counts, strict=True):
            vectors[row] = values[counts].cpu().numpy()
    model.train(was_training)
    return vectors


def pad_vectors(vectors: Sequence[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """Make a batch of texts of different numbers of tokens: `[B, S, H]`, S at least 1, and a mask, bool, `[B, S]`."""
    width = max(1, *map(len, vectors)) if vectors else 1
    padded = np.zeros((len(vectors), width, vectors[0].shape[1]), vectors[0].dtype)
    mask = np.zeros((len(vectors), width), bool)
    for row, values in enumerate(vectors):
        padded[row, : len(values)] = values
        mask[row, : len(values)] = True
    return torch.from_numpy(padded), torch.from_numpy(mask)
