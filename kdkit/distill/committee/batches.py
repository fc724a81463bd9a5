"""Batches for several teachers: the student's windows, and of each teacher its reading of them and its weights."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from kdkit.data.batches import WindowCollator
from kdkit.data.windows import PAD, Windows
from kdkit.distill.committee.scores import first_positions


@dataclass(frozen=True)
class CommitteeCollator:
    """Turn row numbers of windows into a batch; see `WindowCollator`."""

    members: tuple[WindowCollator, ...]
    """Of every teacher; the student's side is the same in all."""
    shares: np.ndarray
    """fp32, `[num_windows, D, K]`: see `Committee.shares`."""
    kinds: np.ndarray
    """int64, `[num_windows, D]`: the kind of every piece."""
    kind_names: tuple[str, ...] = ("text",)

    @property
    def windows(self) -> Windows:
        """The windows as the first teacher reads them."""
        return self.members[0].windows

    def lengths(self, rows: list[int]) -> list[int]:
        """Return the student's tokens of each window."""
        return self.members[0].lengths(rows)

    def __call__(self, rows: list[int]) -> dict[str, Any]:
        """Build a batch.

        Returns:
            What the first teacher's collator says; `members`: what each one's says; `weights`, fp32,
            `[K, student_rows]`; `sequences`, the place in the batch of each student row, and `kinds`, its kind of
            text, `PAD` where it is of none: int64 arrays, `[student_rows]`.
        """
        batches = [collate(rows) for collate in self.members]
        first = batches[0]
        sequence, piece = self._places(rows, first)
        weights = self.shares[rows][sequence, piece].T
        more = {
            "weights": torch.from_numpy(np.ascontiguousarray(weights)),
            "sequences": sequence,
            "kinds": self.kinds[rows][sequence, piece],
        }
        return first | {"members": batches} | more

    def _places(self, rows: list[int], batch: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """Return the sequence of every student row in the batch, and the piece of it that the row predicts."""
        sequence, position = np.divmod(batch["spans"].student_rows.numpy(), batch["input_ids"].shape[1])
        starts = first_positions(self.windows.pieces[rows], "student")
        starts[starts == PAD] = np.iinfo(np.int64).max
        piece = (starts[sequence] <= position[:, None]).sum(axis=1) - 1
        return sequence, np.maximum(piece, 0)
