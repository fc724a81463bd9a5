"""Character alignment of two tokenizers: which tokens cover the same characters, found once, in the data step.

A group is the smallest stretch of text at whose ends both
tokenizers have a boundary, spaces aside: `don't` may be `don|'|t` for one and `don|'t` for the other, which makes the
groups `don` and `'t`. Tokens that cover nothing (special ones, the prompt) are in no group.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

NO_GROUP = -1
"""Group of a token that the other tokenizer has no counterpart for."""
COUNTED_TEXTS = 65536
"""Texts whose groups are counted together."""


@dataclass(frozen=True)
class Ragged:
    """Rows of integers of different lengths, one after the other."""

    values: np.ndarray
    """int32, all rows."""
    ends: np.ndarray
    """int64, `[rows]`: where each row ends."""

    @classmethod
    def of(cls, rows: list[np.ndarray] | list[list[int]]) -> "Ragged":
        """Put rows together."""
        values = [np.zeros(0, np.int32), *(np.asarray(row, dtype=np.int32) for row in rows)]
        return cls(np.concatenate(values), np.cumsum([len(row) for row in rows], dtype=np.int64))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, row: int) -> np.ndarray:
        row = range(len(self))[row]  # negative rows, and an IndexError that ends a loop
        return self.values[self.ends[row - 1] if row else 0 : self.ends[row]]

    def save(self, folder: Path, name: str) -> None:
        """Write two .npy files."""
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / f"{name}.npy", self.values)
        np.save(folder / f"{name}_ends.npy", self.ends)

    @classmethod
    def load(cls, folder: Path, name: str) -> "Ragged":
        """Open what `save` wrote; the values stay on disk until they are read."""
        return cls(np.load(folder / f"{name}.npy", mmap_mode="r"), np.load(folder / f"{name}_ends.npy"))


@dataclass(frozen=True)
class TokenGroups:
    """Aligned tokens of every text; `groups[row]` is the four arrays of one text, `[S]`, `[T]`, `[S]`, `[T]`."""

    student_ids: Ragged
    teacher_ids: Ragged
    student_group: Ragged
    """Group of each student token, counted from 0 in every text, `NO_GROUP` for none."""
    teacher_group: Ragged
    """The same for the teacher's tokens."""
    share_aligned: float
    """Share of the student's tokens that cover text, spaces included, which are in a group."""

    def __len__(self) -> int:
        return len(self.student_ids)

    def __getitem__(self, row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        return self.student_ids[row], self.teacher_ids[row], self.student_group[row], self.teacher_group[row]

    def share_one_to_one(self) -> float:
        """Return the share of the aligned student tokens whose group is one token of each model."""
        one_to_one, num_aligned = 0, 0
        for start in range(0, len(self), COUNTED_TEXTS):
            sizes = []
            for groups in (self.student_group, self.teacher_group):
                ends = groups.ends[start : start + COUNTED_TEXTS]
                first = groups.ends[start - 1] if start else 0
                values = groups.values[first : ends[-1]]
                text = np.repeat(np.arange(len(ends)), np.diff(ends, prepend=first))
                numbers = text * (int(values.max(initial=0)) + 1) + values
                sizes.append(np.unique(numbers[values != NO_GROUP], return_counts=True)[1])
            num_aligned += int(sizes[0].sum())
            one_to_one += int(((sizes[0] == 1) & (sizes[1] == 1)).sum())
        return one_to_one / max(num_aligned, 1)

    def save(self, folder: Path) -> None:
        """Write the arrays of the groups and of the ids."""
        for name in ("student_ids", "teacher_ids", "student_group", "teacher_group"):
            getattr(self, name).save(folder, name)
        np.save(folder / "share_aligned.npy", self.share_aligned)

    @classmethod
    def load(cls, folder: Path) -> "TokenGroups":
        """Open what `save` wrote."""
        names = ("student_ids", "teacher_ids", "student_group", "teacher_group")
        arrays = {name: Ragged.load(folder, name) for name in names}
        return cls(**arrays, share_aligned=float(np.load(folder / "share_aligned.npy")))


def align_by_offsets(
    text: str, student_offsets: np.ndarray, teacher_offsets: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Group the tokens of two tokenizers that cover the same characters.

    Args:
        text: what both read.
        student_offsets: int, `[S, 2]`: first character of each token and the one after its last, as fast tokenizers
            give them; equal for a token that covers no text.
        teacher_offsets: int, `[T, 2]`: the same of the teacher.

    Returns:
        Group of each student token and of each teacher token, int32, `[S]` and `[T]`; numbered in the order of text,
        `NO_GROUP` for tokens that cover nothing or have no counterpart.
    """
    letters_before = np.cumsum([0, *(not character.isspace() for character in text)])
    student, teacher = (letters_before[np.reshape(o, (-1, 2))] for o in (student_offsets, teacher_offsets))
    inner = np.zeros(letters_before[-1] + 2, dtype=np.int64)  # tokens that go on from one letter to the next
    for spans in (student, teacher):
        covering = spans[spans[:, 0] < spans[:, 1]]
        np.add.at(inner, covering[:, 0] + 1, 1)
        np.add.at(inner, covering[:, 1], -1)
    stretch_of = np.cumsum(np.cumsum(inner) == 0)  # from 1; stretch 0 is that of the tokens that cover nothing
    stretches = [np.where(spans[:, 0] < spans[:, 1], stretch_of[spans[:, 0]], 0) for spans in (student, teacher)]
    is_common = np.ones(len(inner) + 1, dtype=bool)
    for stretch in stretches:
        is_common &= np.bincount(stretch, minlength=len(is_common)) > 0
    is_common[0] = False
    group_of = np.where(is_common, np.cumsum(is_common) - 1, NO_GROUP).astype(np.int32)
    return group_of[stretches[0]], group_of[stretches[1]]
