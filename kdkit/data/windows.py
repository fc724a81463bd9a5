"""Windows: documents cut into training sequences that two models read side by side.

A window is a stretch of text that starts and ends where both tokenizers do, so both models read exactly the same
bytes; each side begins with its own start token, so every byte is predicted. Documents follow each other, an end token
after each.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerFast

from kdkit.alignment.bytes import VocabularyOverlap, align_ends
from kdkit.alignment.fidelity import UNKNOWN, find_losses
from kdkit.alignment.tokenizers import encode_with_ends, end_token_id, start_token_id, token_bytes

PAD = -1
"""Marks the unused end of a row; no tokenizer has this id."""


@dataclass(frozen=True)
class Windows:
    """Windows of one split, as padded rows; memory-mapped when loaded from disk."""

    student_ids: np.ndarray
    """int32, `[num_windows, S]`: token ids, `PAD` after the end."""
    teacher_ids: np.ndarray
    """int32, `[num_windows, T]`: the same text in the teacher's ids."""
    teacher_positions: np.ndarray
    """int32, `[num_windows, S]`: teacher position that has read the same bytes as this student position; `PAD` where
    there is none. Logits at position i predict token i + 1."""
    same_token: np.ndarray
    """bool, `[num_windows, S]`: at such a position, whether both next tokens are the same one of the common tokens."""
    num_bytes: np.ndarray
    """int64, `[num_windows]`: UTF-8 bytes of text in each window."""
    pieces: np.ndarray = None  # type: ignore[assignment]  # see __post_init__
    """int32, `[num_windows, D, 4]`: pieces of documents that each window consists of, in order: number of the document,
    first student position and first teacher position that predict it, UTF-8 bytes; rows of `PAD` after the last. D is
    0 where nobody knows them."""
    unknown: np.ndarray = None  # type: ignore[assignment]
    """int32, `[num_windows, U, 3]`: unknown tokens of each window: side (0 student, 1 teacher), position that predicts
    it, UTF-8 bytes that it covers; rows of `PAD` after the last. U is 0 where every token stands for its text."""
    changed_bytes: np.ndarray = None  # type: ignore[assignment]
    """int64, `[num_windows, 2]`: bytes that the student's and the teacher's tokenizer read as something else (lower
    case, no accents, no spaces)."""

    def __post_init__(self):
        if self.unknown is None:
            object.__setattr__(self, "unknown", np.zeros((len(self.num_bytes), 0, 3), np.int32))
        if self.changed_bytes is None:
            object.__setattr__(self, "changed_bytes", np.zeros((len(self.num_bytes), 2), np.int64))
        if self.pieces is None:
            object.__setattr__(self, "pieces", np.zeros((len(self.num_bytes), 0, 4), np.int32))

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
        return cls(**{name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in cls.__dataclass_fields__})

    def first(self, count: int | None) -> "Windows":
        """Return the first windows; all for None."""
        return Windows(*(array[:count] for array in vars(self).values()))

    def describe(self) -> dict[str, float]:
        """Count windows, bytes and tokens, and the share of student tokens where the two can be compared.

        Of the bytes, also the share that each tokenizer reads as an unknown token, and as something else.
        """
        student_tokens = int((self.student_ids[:, 1:] != PAD).sum())
        num_bytes = max(int(self.num_bytes.sum()), 1)
        unknown = [int(self.unknown[:, :, 2][self.unknown[:, :, 0] == side].sum()) for side in (0, 1)]
        changed = self.changed_bytes.sum(axis=0).tolist()
        return {
            "num_windows": len(self),
            "num_bytes": int(self.num_bytes.sum()),
            "student_tokens": student_tokens,
            "teacher_tokens": int((self.teacher_ids[:, 1:] != PAD).sum()),
            "same_prefix_share": float((self.teacher_positions != PAD).sum() / max(student_tokens, 1)),
            "same_token_share": float(self.same_token.sum() / max(student_tokens, 1)),
            "student_unknown_share": unknown[0] / num_bytes,
            "teacher_unknown_share": unknown[1] / num_bytes,
            "student_changed_share": changed[0] / num_bytes,
            "teacher_changed_share": changed[1] / num_bytes,
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
    tables = token_bytes(student_tokenizer), token_bytes(teacher_tokenizer)
    ends = end_token_id(student_tokenizer), end_token_id(teacher_tokenizer)
    builder = StreamBuilder()
    is_one = student_tokenizer is teacher_tokenizer
    for document in documents:
        student = encode_with_ends(student_tokenizer, tables[0], document)
        teacher = student if is_one else encode_with_ends(teacher_tokenizer, tables[1], document)
        if student[0]:
            losses = [find_losses(document, *sides) for sides in ((*student, tables[0]), (*teacher, tables[1]))]
            builder.add_document(*student, *teacher, ends, losses)
    streams = builder.join()
    bounds, dropped = _cut(streams.groups, max_length - 1, teacher_max_length - 1)
    starts = start_token_id(student_tokenizer), start_token_id(teacher_tokenizer)
    windows = assemble_windows(streams, bounds, overlap, starts, (max_length, teacher_max_length))
    return windows, sum(int(streams.group_bytes[g]) for g in dropped)


@dataclass(frozen=True)
class Streams:
    """Two token streams of the same text, and the groups of tokens that cover the same bytes."""

    student_ids: np.ndarray
    teacher_ids: np.ndarray
    groups: np.ndarray
    """int64, `[num_groups, 4]`: indices into the streams; see `align_ends`."""
    group_bytes: np.ndarray
    """int64, `[num_groups]`: bytes of text in each group."""
    document_starts: np.ndarray
    """int64, `[num_documents]`: first group of each document."""
    losses: tuple[np.ndarray, np.ndarray]
    """int64, `[num_losses, 3]` each, of the student's and of the teacher's stream: see `find_losses`."""


class StreamBuilder:
    """Two token streams in the making, document after document."""

    def __init__(self):
        self.num_groups = 0
        self._students: list[np.ndarray] = [np.zeros(0, np.int32)]
        self._teachers: list[np.ndarray] = [np.zeros(0, np.int32)]
        self._groups: list[np.ndarray] = [np.zeros((0, 4), np.int64)]
        self._bytes: list[np.ndarray] = [np.zeros(0, np.int64)]
        self._document_starts: list[int] = []
        self._losses: tuple[list[np.ndarray], list[np.ndarray]] = (
            [np.zeros((0, 3), np.int64)],
            [np.zeros((0, 3), np.int64)],
        )
        self._offset = np.zeros(4, dtype=np.int64)

    def add_document(
        self,
        student_ids: list[int],
        student_ends: np.ndarray,
        teacher_ids: list[int],
        teacher_ends: np.ndarray,
        end_ids: tuple[int, int] | None,
        losses: Sequence[np.ndarray] = (),
    ) -> None:
        """Add the tokens of one text, aligned by the bytes at which they end.

        Args:
            student_ends: int64: see `encode_with_ends`.
            end_ids: tokens that follow the document in both streams; None: it goes on.
            losses: of the student's tokens and of the teacher's: see `find_losses`; none if empty.
        """
        aligned = align_ends(student_ends, teacher_ends)
        covered = np.diff(student_ends[aligned[:, 1] - 1], prepend=0) if len(aligned) else np.zeros(0, np.int64)
        if not len(aligned) and (student_ids or end_ids is None):
            return
        if end_ids is not None:
            ending = [[len(student_ids), len(student_ids) + 1, len(teacher_ids), len(teacher_ids) + 1]]
            aligned, covered = np.concatenate([aligned, ending]), np.append(covered, 0)
            student_ids, teacher_ids = [*student_ids, end_ids[0]], [*teacher_ids, end_ids[1]]
        self._document_starts.append(self.num_groups)
        self._groups.append(aligned + self._offset)
        self._bytes.append(covered)
        self._students.append(np.array(student_ids, dtype=np.int32))
        self._teachers.append(np.array(teacher_ids, dtype=np.int32))
        for lost, found, offset in zip(self._losses, losses, self._offset[[0, 2]], strict=False):
            lost.append(found + np.array([offset, 0, 0]))
        self._offset += np.repeat([len(student_ids), len(teacher_ids)], 2)
        self.num_groups += len(aligned)

    def join(self) -> Streams:
        """Return what was added."""
        arrays = map(np.concatenate, (self._students, self._teachers, self._groups, self._bytes))
        losses = np.concatenate(self._losses[0]), np.concatenate(self._losses[1])
        return Streams(*arrays, np.array(self._document_starts, np.int64), losses)


def assemble_windows(
    streams: Streams,
    bounds: list[tuple[int, int]],
    overlap: VocabularyOverlap,
    starts: tuple[int, int],
    widths: tuple[int, int],
) -> Windows:
    """Make a window of each stretch of groups.

    Args:
        bounds: first group of each window, and the one after its last.
        starts: start tokens of the student and of the teacher.
        widths: lengths of the rows of both.
    """
    student_ids, teacher_ids, groups = streams.student_ids, streams.teacher_ids, streams.groups
    teacher_id_of = np.full(overlap.student_size, PAD, dtype=np.int64)
    teacher_id_of[overlap.student_ids] = overlap.teacher_ids
    windows = Windows(
        student_ids=np.full((len(bounds), widths[0]), PAD, dtype=np.int32),
        teacher_ids=np.full((len(bounds), widths[1]), PAD, dtype=np.int32),
        teacher_positions=np.full((len(bounds), widths[0]), PAD, dtype=np.int32),
        same_token=np.zeros((len(bounds), widths[0]), dtype=bool),
        num_bytes=np.array([streams.group_bytes[a:b].sum() for a, b in bounds], dtype=np.int64),
        pieces=_find_pieces(streams, bounds),
        **_find_losses(streams, bounds),
    )
    for row, (a, b) in enumerate(bounds):
        s0, s1, t0, t1 = groups[a, 0], groups[b - 1, 1], groups[a, 2], groups[b - 1, 3]
        windows.student_ids[row, 0], windows.teacher_ids[row, 0] = starts
        windows.student_ids[row, 1 : 1 + s1 - s0] = student_ids[s0:s1]
        windows.teacher_ids[row, 1 : 1 + t1 - t0] = teacher_ids[t0:t1]
        inside = groups[a:b]
        # the start token moves every token one place right, so its predictor stands at its old index
        windows.teacher_positions[row, inside[:, 0] - s0] = inside[:, 2] - t0
        single = inside[(inside[:, 1] - inside[:, 0] == 1) & (inside[:, 3] - inside[:, 2] == 1)]
        same = single[teacher_id_of[student_ids[single[:, 0]]] == teacher_ids[single[:, 2]]]
        windows.same_token[row, same[:, 0] - s0] = True
    return windows


def _find_pieces(streams: Streams, bounds: list[tuple[int, int]]) -> np.ndarray:
    """List the documents of each window; see `Windows.pieces`."""
    limits = np.array(bounds, np.int64).reshape(-1, 2)
    first = np.searchsorted(streams.document_starts, limits[:, 0], side="right") - 1
    counts = np.searchsorted(streams.document_starts, limits[:, 1], side="left") - first
    pieces = np.full((len(bounds), counts.max(initial=0), 4), PAD, np.int32)
    for row, (a, b) in enumerate(bounds):
        documents = np.arange(first[row], first[row] + counts[row])
        starts = np.maximum(streams.document_starts[documents], a)
        places = streams.groups[starts][:, [0, 2]] - streams.groups[a, [0, 2]]
        num_bytes = np.add.reduceat(streams.group_bytes[a:b], starts - a)
        pieces[row, : counts[row]] = np.column_stack([documents, places, num_bytes])
    return pieces


def _find_losses(streams: Streams, bounds: list[tuple[int, int]]) -> dict[str, np.ndarray]:
    """List the unknown tokens of each window, and count its changed bytes; see `Windows`."""
    limits = np.array(bounds, np.int64).reshape(-1, 2)
    changed = np.zeros((len(limits), 2), np.int64)
    unknown = []
    for side, losses in enumerate(streams.losses if len(limits) else ()):
        starts = streams.groups[limits[:, 0], 2 * side]
        rows = np.searchsorted(starts, losses[:, 0], side="right") - 1
        # what lies in a group that was left out is in no window
        inside = (rows >= 0) & (losses[:, 0] < streams.groups[limits[:, 1] - 1, 2 * side + 1][rows])
        rows, losses = rows[inside], losses[inside]
        is_unknown = losses[:, 2] == UNKNOWN
        np.add.at(changed[:, side], rows[~is_unknown], losses[~is_unknown, 1])
        places = losses[is_unknown, 0] - starts[rows[is_unknown]]
        sides = np.full(len(places), side)
        unknown.append(np.column_stack([rows[is_unknown], sides, places, losses[is_unknown, 1]]))
    found = np.concatenate([np.zeros((0, 4), np.int64), *unknown])
    found = found[np.argsort(found[:, 0], kind="stable")]
    counts = np.bincount(found[:, 0], minlength=len(limits))
    listed = np.full((len(limits), counts.max(initial=0), 3), PAD, np.int32)
    listed[np.arange(listed.shape[1]) < counts[:, None]] = found[:, 1:]
    return {"unknown": listed, "changed_bytes": changed}


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
