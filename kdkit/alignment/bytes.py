"""Byte alignment of two tokenizations of one text: which tokens cover the same bytes.

Two models with different tokenizers can be compared only after the same text prefix; a group is the shortest stretch
of text that both tokenizers start and end together.
"""

from dataclasses import dataclass

import numpy as np


def align_ends(first_ends: np.ndarray, second_ends: np.ndarray, begins: np.ndarray | None = None) -> np.ndarray:
    """Group the tokens of two tokenizations by the byte positions where both end a token.

    Args:
        first_ends: int array, byte at which each token of the first tokenization ends, non-decreasing.
        second_ends: the same for the second.
        begins: bytes at which texts begin, where several follow each other; tokens that end there, having covered
            nothing, belong to what follows. None: one text, which begins at byte 0.

    Returns:
        int64 array, `[num_groups, 4]`: first_start, first_stop, second_start, second_stop, as token
        indices. The groups follow each other without gaps; bytes that only one side covers are in no group.
    """
    places, stops = zip(*map(_last_at_each_byte, (first_ends, second_ends)), strict=True)
    is_end = np.zeros((2, max((int(each[-1]) for each in places if len(each)), default=0) + 1), bool)
    for side in range(2):
        is_end[side, places[side]] = True
    is_common = is_end[0] & is_end[1]
    is_common[0 if begins is None else begins[begins < len(is_common)]] = False
    ends = np.stack([stops[side][is_common[places[side]]] for side in range(2)], axis=1)
    starts = np.concatenate([np.zeros((1, 2), dtype=np.int64), ends])[: len(ends)]
    return np.stack([starts[:, 0], ends[:, 0], starts[:, 1], ends[:, 1]], axis=1)


def _last_at_each_byte(ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the different bytes at which tokens end, and the index after the last token that ends at each."""
    ends = np.asarray(ends, dtype=np.int64)
    stops = np.flatnonzero(np.append(ends[1:] != ends[:-1], np.ones(min(len(ends), 1), bool))) + 1
    return ends[stops - 1], stops


def utf8_widths(codes: np.ndarray) -> np.ndarray:
    """Return the bytes that each code point takes in UTF-8, int64."""
    return 1 + (codes >= 0x80).astype(np.int64) + (codes >= 0x800) + (codes >= 0x10000)


@dataclass(frozen=True)
class VocabularyOverlap:
    """Ids of the tokens that two vocabularies spell with the same bytes."""

    student_ids: np.ndarray
    """int64, `[common_tokens]`."""
    teacher_ids: np.ndarray
    """int64, `[common_tokens]`: the same tokens in the teacher's vocabulary."""
    student_size: int
    teacher_size: int

    @property
    def share_of_student(self) -> float:
        """Share of the student's vocabulary that the teacher has too."""
        return len(self.student_ids) / self.student_size

    @property
    def share_of_teacher(self) -> float:
        """Share of the teacher's vocabulary that the student has too."""
        return len(self.teacher_ids) / self.teacher_size


def overlap_vocabularies(
    student_table: list[bytes | None], teacher_table: list[bytes | None], end_ids: tuple[int, int] | None = None
) -> VocabularyOverlap:
    """Pair the ids that stand for the same bytes.

    Args:
        student_table: `token_bytes` of the student's tokenizer.
        teacher_table: `token_bytes` of the teacher's.
        end_ids: ids that end a document in the student and in the teacher; paired too if given.
    """
    # where two ids share bytes (<0x41> and A), the ordinary piece replaces the byte-fallback one,
    # which SentencePiece vocabularies list first
    teacher_id_of = {piece: token_id for token_id, piece in enumerate(teacher_table) if piece}
    student_id_of = {piece: token_id for token_id, piece in enumerate(student_table) if piece}
    pairs = sorted(
        (student_id_of[piece], teacher_id_of[piece]) for piece in student_id_of.keys() & teacher_id_of.keys()
    )
    if end_ids is not None:
        pairs.append(end_ids)
    ids = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return VocabularyOverlap(ids[:, 0], ids[:, 1], len(student_table), len(teacher_table))
