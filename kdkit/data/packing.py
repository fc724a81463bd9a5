"""Cut documents into windows that two models read side by side.

Letters: n windows, s student tokens, t teacher tokens. A window is a stretch of text that starts and
ends where both tokenizers do, so both models read exactly the same bytes; each side begins with its
own start token, so every byte is predicted. Documents follow each other, an end token after each.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerFast

from kdkit.data.alignment import VocabularyOverlap, align_ends
from kdkit.data.tokenizers import encode_with_ends, end_token_id, start_token_id, token_bytes

PAD = -1
"""Marks the unused end of a row; no tokenizer has this id."""


@dataclass(frozen=True)
class Windows:
    """Windows of one split, as padded rows; memory-mapped when loaded from disk."""

    student_ids: np.ndarray
    """int32, n s: token ids, `PAD` after the end."""
    teacher_ids: np.ndarray
    """int32, n t: the same text in the teacher's ids."""
    teacher_positions: np.ndarray
    """int32, n s: teacher position that has read the same bytes as this student position; `PAD` where
    there is none. Logits at position i predict token i + 1."""
    same_token: np.ndarray
    """bool, n s: at such a position, whether both next tokens are the same entry of the common vocabulary."""
    num_bytes: np.ndarray
    """int64, n: UTF-8 bytes of text in each window."""

    def __len__(self) -> int:
        return len(self.num_bytes)

    def save(self, folder: Path) -> None:
        """Write one .npy file per array."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, array in vars(self).items():
            np.save(folder / f"{name}.npy", array)

    @classmethod
    def load(cls, folder: Path) -> "Windows":
        """Open the arrays that `save` wrote, without reading them into memory."""
        return cls(*(np.load(folder / f"{name}.npy", mmap_mode="r") for name in cls.__dataclass_fields__))

    def first(self, count: int | None) -> "Windows":
        """Return the first windows; all for None."""
        return Windows(*(array[:count] for array in vars(self).values()))

    def describe(self) -> dict[str, float]:
        """Count windows, bytes and tokens, and the share of student tokens where the two can be compared."""
        student_tokens = int((self.student_ids[:, 1:] != PAD).sum())
        return {
            "num_windows": len(self),
            "num_bytes": int(self.num_bytes.sum()),
            "student_tokens": student_tokens,
            "teacher_tokens": int((self.teacher_ids[:, 1:] != PAD).sum()),
            "same_prefix_share": float((self.teacher_positions != PAD).sum() / max(student_tokens, 1)),
            "same_token_share": float(self.same_token.sum() / max(student_tokens, 1)),
        }


def pack_windows(
    documents: Iterable[str],
    student_tokenizer: PreTrainedTokenizerFast,
    teacher_tokenizer: PreTrainedTokenizerFast,
    overlap: VocabularyOverlap,
    max_length: int,
    teacher_max_length: int,
) -> tuple[Windows, int]:
    """Tokenize documents twice and cut them into windows.

    Args:
        documents: valid texts, in the order in which they are read.
        overlap: the common vocabulary, which decides what the same token is.
        max_length: student tokens of a window at most, the start token included.
        teacher_max_length: teacher tokens of a window at most, the start token included.

    Returns:
        The windows, and the bytes left out because one aligned group was longer than a window.
    """
    student_ids, teacher_ids, groups, group_bytes = _tokenize(documents, student_tokenizer, teacher_tokenizer)
    bounds, dropped = _cut(groups, max_length - 1, teacher_max_length - 1)
    lost = sum(int(group_bytes[g]) for g in dropped)
    teacher_id_of = np.full(overlap.student_size, PAD, dtype=np.int64)
    teacher_id_of[overlap.student_ids] = overlap.teacher_ids

    windows = Windows(
        student_ids=np.full((len(bounds), max_length), PAD, dtype=np.int32),
        teacher_ids=np.full((len(bounds), teacher_max_length), PAD, dtype=np.int32),
        teacher_positions=np.full((len(bounds), max_length), PAD, dtype=np.int32),
        same_token=np.zeros((len(bounds), max_length), dtype=bool),
        num_bytes=np.array([group_bytes[a:b].sum() for a, b in bounds], dtype=np.int64),
    )
    for row, (a, b) in enumerate(bounds):
        s0, s1, t0, t1 = groups[a, 0], groups[b - 1, 1], groups[a, 2], groups[b - 1, 3]
        windows.student_ids[row, 0] = start_token_id(student_tokenizer)
        windows.teacher_ids[row, 0] = start_token_id(teacher_tokenizer)
        windows.student_ids[row, 1 : 1 + s1 - s0] = student_ids[s0:s1]
        windows.teacher_ids[row, 1 : 1 + t1 - t0] = teacher_ids[t0:t1]
        inside = groups[a:b]
        # the start token moves every token one place right, so its predictor stands at its old index
        windows.teacher_positions[row, inside[:, 0] - s0] = inside[:, 2] - t0
        single = inside[(inside[:, 1] - inside[:, 0] == 1) & (inside[:, 3] - inside[:, 2] == 1)]
        same = single[teacher_id_of[student_ids[single[:, 0]]] == teacher_ids[single[:, 2]]]
        windows.same_token[row, same[:, 0] - s0] = True
    return windows, lost


def _tokenize(
    documents: Iterable[str], student_tokenizer: PreTrainedTokenizerFast, teacher_tokenizer: PreTrainedTokenizerFast
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return both token streams, their groups (g 4, indices into the streams) and the groups' bytes."""
    tables = token_bytes(student_tokenizer), token_bytes(teacher_tokenizer)
    student_ids: list[np.ndarray] = []
    teacher_ids: list[np.ndarray] = []
    groups: list[np.ndarray] = []
    group_bytes: list[np.ndarray] = []
    offset = np.zeros(4, dtype=np.int64)
    for document in documents:
        first, first_ends = encode_with_ends(student_tokenizer, tables[0], document)
        second, second_ends = encode_with_ends(teacher_tokenizer, tables[1], document)
        aligned = align_ends(first_ends, second_ends)
        if not len(aligned):
            continue
        stops = first_ends[aligned[:, 1] - 1]
        ending = [[len(first), len(first) + 1, len(second), len(second) + 1]]
        groups.append(np.concatenate([aligned, ending]) + offset)
        group_bytes.append(np.append(np.diff(stops, prepend=0), 0))
        student_ids.append(np.array([*first, end_token_id(student_tokenizer)], dtype=np.int32))
        teacher_ids.append(np.array([*second, end_token_id(teacher_tokenizer)], dtype=np.int32))
        offset += np.repeat([len(first) + 1, len(second) + 1], 2)
    if not groups:
        return np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros((0, 4), np.int64), np.zeros(0, np.int64)
    return np.concatenate(student_ids), np.concatenate(teacher_ids), np.concatenate(groups), np.concatenate(group_bytes)


def _cut(groups: np.ndarray, student_room: int, teacher_room: int) -> tuple[list[tuple[int, int]], list[int]]:
    """Fill windows greedily with whole groups; return their bounds and the groups that fit in none."""
    bounds: list[tuple[int, int]] = []
    dropped: list[int] = []
    start = 0
    while start < len(groups):
        student_limit = np.searchsorted(groups[:, 1], groups[start, 0] + student_room, side="right")
        teacher_limit = np.searchsorted(groups[:, 3], groups[start, 2] + teacher_room, side="right")
        stop = int(min(student_limit, teacher_limit))
        if stop > start:
            bounds.append((start, stop))
        else:
            dropped.append(start)
            stop = start + 1
        start = stop
    return bounds, dropped
