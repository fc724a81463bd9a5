"""Token vectors of a teacher that has one for every token, computed once for the queries and documents of a training.

A folder of the cache holds for each role `ROLE.bin`, fp16 `[tokens, H]`, the texts one after the other, and
`ROLE_texts.npy` and `ROLE_ends.npy`: the number of each text, and where it ends.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from kdkit.embeddings.models.late import Role
from kdkit.embeddings.models.token_vectors import pad_vectors
from kdkit.errors import UserError
from kdkit.losses.ranking.late_interaction import maxsim


@dataclass(frozen=True)
class RoleTokens:
    """Token vectors of the texts of one role; they stay on disk until they are read."""

    values: np.ndarray
    """fp16, `[tokens, H]`."""
    texts: np.ndarray
    """int64, `[texts]`: their numbers, ascending."""
    ends: np.ndarray
    """int64, `[texts]`: where each one ends."""

    def batch(self, texts: np.ndarray, device: torch.device | str) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the vectors of texts, given by number: `[B, T, H]`, and a mask, bool, `[B, T]`."""
        places = np.searchsorted(self.texts, texts)
        starts = np.where(places > 0, self.ends[places - 1], 0)
        rows = [self.values[start:end] for start, end in zip(starts, self.ends[places], strict=True)]
        vectors, mask = pad_vectors(rows)
        return vectors.to(device), mask.to(device)


@dataclass(frozen=True)
class TokenStore:
    """Token vectors of both roles."""

    queries: RoleTokens
    documents: RoleTokens

    def score(
        self, queries: np.ndarray, documents: np.ndarray, device: torch.device | str, *, mean: bool
    ) -> torch.Tensor:
        """Return MaxSim of texts, given by number: fp32, `[Q, D]`."""
        (asked, counted), (found, there) = self.queries.batch(queries, device), self.documents.batch(documents, device)
        return maxsim(asked, found, counted, there, mean=mean)


def open_tokens(folder: Path, role: Role) -> RoleTokens:
    """Open the files of a role.

    Raises:
        UserError: they are damaged.
    """
    try:
        width = int(np.load(folder / "width.npy"))
        values = np.memmap(folder / f"{role}.bin", np.float16, mode="r").reshape(-1, width)
        stored = RoleTokens(values, np.load(folder / f"{role}_texts.npy"), np.load(folder / f"{role}_ends.npy"))
        is_whole = len(stored.texts) == len(stored.ends) and len(values) == stored.ends[-1]
    except (OSError, ValueError, EOFError):
        is_whole = False
    if not is_whole:
        raise damaged(folder, "token vectors")
    return stored


def damaged(folder: Path, what: str) -> UserError:
    """Return the error about a folder of the cache whose files are not as they were written."""
    return UserError(
        f"cache_dir: expected the teacher's {what} in {str(folder)!r}, got damaged files; remove that folder, they are "
        "made again"
    )
