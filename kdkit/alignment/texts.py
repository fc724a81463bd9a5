"""Align texts as two tokenizers read them: token ids of both, and the spans where their predictions compare."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from kdkit.alignment.bytes import align_ends, overlap_vocabularies
from kdkit.alignment.spans import SequenceSpans, Spans, join_spans
from kdkit.alignment.tokenizers import encode_with_ends, start_token_id, token_bytes
from kdkit.errors import UserError

IGNORED = -100
"""Label of a position that predicts nothing; the value that transformers and torch ignore."""


@dataclass(frozen=True)
class AlignedTexts:
    """A batch of texts as two models read it; rows are padded on the right."""

    student_input_ids: torch.Tensor
    """int64, `[B, S]`: the start token, then the text's tokens, then padding (0)."""
    teacher_input_ids: torch.Tensor
    """int64, `[B, T]`: the same texts in the teacher's ids."""
    student_labels: torch.Tensor
    """int64, `[B, S]`: `student_input_ids`, not shifted; -100 at the start token and at padding."""
    teacher_labels: torch.Tensor
    """int64, `[B, T]`, likewise."""
    spans: Spans
    """Where both have read the same bytes. `student_logits.flatten(0, 1)[spans.student_rows]` are the rows that a
    cross-tokenizer loss takes, `spans.span_of_student_rows()` their spans; likewise for the teacher."""


def align_texts(
    texts: Sequence[str], student_tokenizer: PreTrainedTokenizerFast, teacher_tokenizer: PreTrainedTokenizerFast
) -> AlignedTexts:
    """Tokenize texts for both models and find the spans that both tokenizers start and end together.

    Every text is a sequence of its own, whole: cut long ones before. Under causal attention the padding on the right
    needs no attention mask, since no token sees what comes after it.

    Args:
        texts: B of them, none of them empty.

    Raises:
        UserError: no text, an empty one, or a tokenizer without a token to start with.

    Example:
        >>> aligned = align_texts(["One text.", "Another one."], student_tokenizer, teacher_tokenizer)
        >>> aligned.student_input_ids.shape[0]
        2
    """
    if not texts or isinstance(texts, str) or not all(texts):
        raise UserError(
            f"align_texts: expected a list of texts that are not empty, got {str(texts)[:60]!r}; "
            "leave empty texts out, and wrap a single one in a list"
        )
    tokenizers = student_tokenizer, teacher_tokenizer
    tables = [token_bytes(tokenizer) for tokenizer in tokenizers]
    overlap = overlap_vocabularies(tables[0], tables[1])
    partner = np.full(overlap.student_size, -1, dtype=np.int64)
    partner[overlap.student_ids] = overlap.teacher_ids
    starts = [_start(tokenizer, side) for tokenizer, side in zip(tokenizers, ("student", "teacher"), strict=True)]
    student: list[list[int]] = []
    teacher: list[list[int]] = []
    sequences = []
    for text in texts:
        (student_ids, student_ends), (teacher_ids, teacher_ends) = (
            encode_with_ends(tokenizer, table, text) for tokenizer, table in zip(tokenizers, tables, strict=True)
        )
        sequences.append(_spans_of(student_ids, student_ends, teacher_ids, teacher_ends, partner))
        student.append([starts[0], *student_ids])
        teacher.append([starts[1], *teacher_ids])
    student_batch, teacher_batch = _pad(student), _pad(teacher)
    spans = join_spans(sequences, student_batch[0].shape[1], teacher_batch[0].shape[1])
    return AlignedTexts(student_batch[0], teacher_batch[0], student_batch[1], teacher_batch[1], spans)


def _spans_of(
    student_ids: list[int],
    student_ends: np.ndarray,
    teacher_ids: list[int],
    teacher_ends: np.ndarray,
    partner: np.ndarray,
) -> SequenceSpans:
    """Find the spans of one text; the start token stands before the first token, so row i predicts token i."""
    groups = align_ends(student_ends, teacher_ends)
    lengths = groups[:, 1] - groups[:, 0], groups[:, 3] - groups[:, 2]
    firsts = (
        np.asarray(student_ids, dtype=np.int64)[groups[:, 0]],
        np.asarray(teacher_ids, dtype=np.int64)[groups[:, 2]],
    )
    same = (lengths[0] == 1) & (lengths[1] == 1) & (partner[firsts[0]] == firsts[1])
    return SequenceSpans(len(student_ids), len(teacher_ids), groups[:, 0], groups[:, 2], same)


def _start(tokenizer: PreTrainedTokenizerFast, side: str) -> int:
    """Return the token that a sequence starts with."""
    token_id = start_token_id(tokenizer)
    if token_id is None:
        raise UserError(f"align_texts: expected a {side} tokenizer with a BOS, EOS or CLS token, got none; add one")
    return token_id


def _pad(rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and labels as tensors, padded to the longest row."""
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    labels = torch.tensor([[IGNORED, *row[1:]] + [IGNORED] * (longest - len(row)) for row in rows])
    return ids, labels
