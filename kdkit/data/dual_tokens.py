"""Every training text in the tokens of both models, and which of them belong together.

Letters: r texts, n student tokens, m teacher tokens.
"""

from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerFast

from kdkit.data.offsets import Ragged, TokenGroups, align_by_offsets

CHUNK = 4096
"""Texts that are handed to a tokenizer at once."""


@dataclass(frozen=True)
class TextTokens:
    """The tokens of texts, special ones and the prompt included, cut at the longest input."""

    ids: Ragged
    """r rows of n ids."""
    offsets: list[np.ndarray]
    """r arrays, int32, n 2: the characters of the text that each token covers; (0, 0) for a token of no text."""


def tokenize_texts(tokenizer: PreTrainedTokenizerFast, texts: list[str], max_length: int, prompt: str) -> TextTokens:
    """Tokenize texts as a model reads them: after the prompt, with special tokens, at most `max_length` ids."""
    ids: list[list[int]] = []
    offsets: list[np.ndarray] = []
    for start in range(0, len(texts), CHUNK):
        batch = tokenizer(
            [prompt + text for text in texts[start : start + CHUNK]],
            truncation=True,
            max_length=max_length,
            return_offsets_mapping=True,
        )
        ids += batch["input_ids"]
        for spans in batch["offset_mapping"]:
            shifted = np.array(spans, dtype=np.int32).reshape(-1, 2) - len(prompt)
            offsets.append(shifted.clip(min=0))
    return TextTokens(Ragged.of(ids), offsets)


def group_tokens(alignment: str, texts: list[str], student: TextTokens, teacher: TextTokens) -> TokenGroups:
    """Find the tokens of both models that belong together in every text.

    Args:
        alignment: `offsets`, `dtw`, `weighted_dtw` or `edit_distance`.
    """
    pairs = [align_by_offsets(*arguments) for arguments in zip(texts, student.offsets, teacher.offsets, strict=True)]
    student_group, teacher_group = (Ragged.of(groups) for groups in zip(*pairs, strict=True))
    covered = sum(int((spans[:, 0] < spans[:, 1]).sum()) for spans in student.offsets)
    share = float((student_group.values >= 0).sum()) / max(covered, 1)
    return TokenGroups(student.ids, teacher.ids, student_group, teacher_group, share)
