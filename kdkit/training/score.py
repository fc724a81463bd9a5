"""What a model's predictions of a text add up to, by window and by document. Never imports torch."""

import math
from dataclasses import dataclass

import numpy as np

UNKNOWN_BITS = 8.0
"""Charge for a byte that a model reads as part of an unknown token: it predicts that there is something, not what."""


@dataclass(frozen=True)
class Score:
    """Scores of a model on a text: its nats, perplexity and bits per byte."""

    window_nats: np.ndarray
    """float64, `[num_windows]`: -log probability of all its tokens, in nats, and `UNKNOWN_BITS` for each byte that an
    unknown token stands for."""
    window_bytes: np.ndarray
    """int64, `[num_windows]`: UTF-8 bytes."""
    num_tokens: int
    document_nats: np.ndarray | None = None
    """float64, `[num_documents]`: the same sum by document, in their order; None where the windows do not know them."""
    document_bytes: np.ndarray | None = None
    """int64, `[num_documents]`: UTF-8 bytes of each document in the windows."""
    token_nats: float | None = None
    """-log probability of all tokens alone, without the charge for unknown text; None: as in `window_nats`."""

    @property
    def perplexity(self) -> float:
        """Exp of the mean nats per token; comparable between models of one tokenizer only."""
        nats = self.window_nats.sum() if self.token_nats is None else self.token_nats
        return math.exp(nats / self.num_tokens)

    @property
    def bits_per_byte(self) -> float:
        """Mean bits to encode a byte of text; comparable between any two models."""
        return float(self.window_nats.sum() / math.log(2) / self.window_bytes.sum())
