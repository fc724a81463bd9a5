"""Which kind of text each document, and each piece of a window, is of."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdkit.data.windows import PAD, Windows

FILE = "kinds.npy"
"""Beside the windows of a split: the kind of every document."""


@dataclass(frozen=True)
class Kinds:
    """Names of the kinds of text, and the kind of every document of both splits."""

    names: tuple[str, ...]
    train: np.ndarray
    """int64, `[num_documents]`, in the order of their numbers in `Windows.pieces`."""
    evaluation: np.ndarray

    @classmethod
    def load(cls, names: list[str], folder: Path) -> "Kinds":
        """Open what the data stage has written beside the windows."""
        return cls(tuple(names), *(np.load(folder / split / FILE) for split in ("train", "evaluation")))


def kinds_of_pieces(windows: Windows, kinds: np.ndarray) -> np.ndarray:
    """Return the kind of every piece of the windows, int64, `[num_windows, D]`; `PAD` where there is none."""
    numbers = windows.pieces[:, :, 0]
    return np.where(numbers == PAD, PAD, kinds[np.maximum(numbers, 0)])


def kinds_of_documents(windows: Windows, kinds: np.ndarray) -> np.ndarray:
    """Return the kind of every document that some windows hold, in the order of `Score.document_nats`."""
    numbers = windows.pieces[:, :, 0]
    return kinds[np.unique(numbers[numbers != PAD])]
