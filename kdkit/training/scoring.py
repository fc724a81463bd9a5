"""Bits per byte and perplexity of a causal LM on windows: for the probe (02), learning curves (03), evaluation (04)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

from kdkit.data.batches import Side, WindowCollator
from kdkit.data.windows import Windows
from kdkit.losses.cross_entropy import IGNORE_INDEX, cross_entropy, shift_labels
from kdkit.models.heads import autocast


@dataclass(frozen=True)
class Score:
    """Scores of a model on a text: its nats, perplexity and bits per byte."""

    window_nats: np.ndarray
    """float64, `[num_windows]`: -log probability of all its tokens, in nats."""
    window_bytes: np.ndarray
    """int64, `[num_windows]`: UTF-8 bytes."""
    num_tokens: int

    @property
    def perplexity(self) -> float:
        """Exp of the mean nats per token; comparable between models of one tokenizer only."""
        return math.exp(self.window_nats.sum() / self.num_tokens)

    @property
    def bits_per_byte(self) -> float:
        """Mean bits to encode a byte of text; comparable between any two models."""
        return float(self.window_nats.sum() / math.log(2) / self.window_bytes.sum())


def score_windows(
    model: PreTrainedModel, windows: Windows, side: Side, batch_size: int, autocast_dtype: torch.dtype | None = None
) -> Score:
    """Score a model on windows; the model's mode and device are left as they are.

    Args:
        side: whose tokens the model reads.
        batch_size: windows at once.
        autocast_dtype: run the forward pass under autocast; None: as the weights are.
    """
    nats: list[torch.Tensor] = []
    num_tokens = 0
    was_training = model.training
    model.eval()
    for batch in iterate_batches(windows, side, batch_size):
        with torch.no_grad(), autocast(model, autocast_dtype):
            targets = shift_labels(batch["labels"])
            logits = model(input_ids=batch["input_ids"].to(model.device)).logits
            nats.append(cross_entropy(logits, targets.to(logits.device)).double().sum(dim=1).cpu())
        num_tokens += int((targets != IGNORE_INDEX).sum())
    model.train(was_training)
    return Score(torch.cat(nats).numpy(), np.asarray(windows.num_bytes), num_tokens)


def iterate_batches(
    windows: Windows, side: Side, batch_size: int, with_teacher: bool = False
) -> Iterator[dict[str, torch.Tensor]]:
    """Yield the windows in order, as batches."""
    collate = WindowCollator(windows, side, with_teacher)
    for start in range(0, len(windows), batch_size):
        yield collate(list(range(start, min(start + batch_size, len(windows)))))
