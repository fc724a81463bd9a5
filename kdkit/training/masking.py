"""Masking: a share of the answer's tokens is hidden from what a model reads, or left out of its loss.

A hidden token is replaced in the input and stays in the labels, so the model has to go on from a text with gaps.
Evaluation never masks.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from kdkit.config.training import MaskingConfig
from kdkit.data.batches import counted_rows
from kdkit.losses.cross_entropy import IGNORE_INDEX

OPENING = 8
"""Tokens of a sequence of plain text, from its first one on, that are never hidden: they stand for a prompt."""


@dataclass(frozen=True)
class Masking:
    """What is hidden of each sequence, and what stands in its place."""

    share: float
    """Of the tokens that may be hidden, 0 <= share < 1."""
    dropped_from: Literal["input", "loss"]
    replacements: torch.Tensor
    """int64, `[R]`: tokens that stand in for hidden ones: one of its own, or those that one is drawn from."""
    opening: int
    """First tokens of every sequence that stay."""

    def apply(self, batches: list[dict[str, Any]], seed: tuple[int, ...]) -> None:
        """Hide tokens of all micro-batches of an optimizer step, in place.

        Equal seeds hide equal tokens of a sequence, however those of the step are sorted and cut into micro-batches.

        Args:
            batches: of `WindowCollator`; each gets `masked_input_ids`, or other `labels` and `counted`.
            seed: of the step.
        """
        for batch in batches:
            draws = [np.random.default_rng((*seed, row)) for row in batch["windows"]]
            chosen = self._choose(batch["labels"], draws)
            device = batch["labels"].device
            hidden = torch.from_numpy(chosen).to(device)
            if self.dropped_from == "loss":
                batch["labels"] = batch["labels"].masked_fill(hidden, IGNORE_INDEX)
                if "spans" in batch:
                    batch["counted"] = counted_rows(batch["labels"].cpu(), batch["spans"])
                continue
            count = len(self.replacements)
            drawn = [draw.integers(count, size=n) for draw, n in zip(draws, chosen.sum(axis=1), strict=True)]
            ids = batch["input_ids"].clone()
            ids[hidden] = self.replacements[np.concatenate(drawn)].to(device)
            batch["masked_input_ids"] = ids

    def _choose(self, labels: torch.Tensor, draws: list[np.random.Generator]) -> np.ndarray:
        """Return which tokens to hide, bool, `[B, S]`: the share of those in the loss, rounded, in every sequence."""
        may = (labels != IGNORE_INDEX).cpu().numpy()
        may[:, : 1 + self.opening] = False
        chosen = np.zeros_like(may)
        for row, (places, draw) in enumerate(zip(map(np.flatnonzero, may), draws, strict=True)):
            chosen[row, draw.choice(places, round(self.share * len(places)), replace=False)] = True
        return chosen


def make_masking(settings: MaskingConfig, tokenizer: PreTrainedTokenizerFast, is_chat: bool) -> Masking | None:
    """Prepare the masking of a training; None: nothing is hidden.

    Args:
        tokenizer: of the model that is trained.
        is_chat: whether the labels are those of answers; else every sequence keeps its opening.
    """
    if not settings.enabled:
        return None
    return Masking(settings.share, settings.dropped_from, find_replacements(tokenizer), 0 if is_chat else OPENING)


def find_replacements(tokenizer: PreTrainedTokenizerFast) -> torch.Tensor:
    """Return what stands in for a hidden token, int64, `[R]`: the tokenizer's mask token, unknown token or padding.

    One of these that also begins or ends texts would say so; where there is no other, a token of the vocabulary is
    drawn.
    """
    ends = {tokenizer.bos_token_id, tokenizer.eos_token_id, None}
    own = tokenizer.mask_token_id, tokenizer.unk_token_id, tokenizer.pad_token_id
    found = [token_id for token_id in own if token_id not in ends][:1]
    special = set(tokenizer.all_special_ids)
    return torch.tensor(found or [token_id for token_id in range(len(tokenizer)) if token_id not in special])
