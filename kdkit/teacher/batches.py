"""Batches of windows as tensors. Letters: b batch, s student tokens, t teacher tokens.

Rows are padded on the right and no attention mask is built: under causal attention no real position
ever sees the padding after it, and padded positions are masked out of every loss by their labels.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from kdkit.data.packing import PAD, Windows

IGNORE_INDEX = -100
"""Label of a position that is in no loss (PyTorch's and transformers' convention)."""

Side = Literal["student", "teacher"]


@dataclass(frozen=True)
class WindowCollator:
    """Turn row numbers of windows into a batch; the data set itself is `range(len(windows))`."""

    windows: Windows
    side: Side = "student"
    """Whose tokens are `input_ids` and `labels`."""
    with_teacher: bool = False
    """Also deliver the teacher's ids and the aligned positions."""
    same_token_only: bool = True
    """Align only positions where both next tokens are the same; False: all that share a prefix."""

    def __call__(self, rows: list[int]) -> dict[str, torch.Tensor]:
        """Build a batch.

        Returns:
            `input_ids` and `labels`, int64, b s, not shifted; position 0 is a start token that nothing
            predicts, so its label is ignored. With `with_teacher` also `teacher_input_ids`, b t, and
            `teacher_positions`, b s: see `Windows.teacher_positions`, `PAD` where not aligned.
        """
        ids = self.windows.student_ids if self.side == "student" else self.windows.teacher_ids
        input_ids, is_token = _trim(ids[rows])
        labels = input_ids.masked_fill(~is_token, IGNORE_INDEX)
        labels[:, 0] = IGNORE_INDEX
        batch = {"input_ids": input_ids, "labels": labels}
        if self.with_teacher:
            batch["teacher_input_ids"], _ = _trim(self.windows.teacher_ids[rows])
            positions = self.windows.teacher_positions[rows, : input_ids.shape[1]].astype(np.int64)
            if self.same_token_only:
                positions[~self.windows.same_token[rows, : input_ids.shape[1]]] = PAD
            batch["teacher_positions"] = torch.from_numpy(positions)
        return batch


def _trim(ids: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Cut rows to the longest one; return ids with padding as 0, and where the tokens are."""
    is_token = ids != PAD
    longest = int(is_token.sum(axis=1).max())
    is_token = is_token[:, :longest]
    return torch.from_numpy(np.where(is_token, ids[:, :longest], 0).astype(np.int64)), torch.from_numpy(is_token)
