"""Several teachers, opened."""

from dataclasses import dataclass

import numpy as np

from kdkit.distill.plan import Member
from kdkit.teachers.cache import CachedSignals
from kdkit.teachers.interface import TextTeacher


@dataclass(frozen=True)
class Committee:
    """Several teachers, each in memory or as a cache of its answers, and how much each says about every piece of text.

    A piece is what a window holds of one document (`Windows.pieces`).
    """

    members: tuple[Member, ...]
    teachers: tuple[TextTeacher | CachedSignals, ...]
    shares: np.ndarray
    """fp32, `[num_windows, D, K]`: each teacher's weight at every piece of the training windows; they sum to 1, or to 0
    where nobody teaches."""

    @property
    def names(self) -> list[str]:
        """What the teachers are called."""
        return [member.name for member in self.members]
