"""Alignment of two tokenizers by the spelling of their tokens, as CDM and EMO publish it.

Kept to reproduce them; `kdkit.alignment.characters` finds more, faster, and never pairs two different words.
"""

import numpy as np
from rapidfuzz import process
from rapidfuzz.distance import Levenshtein

from kdkit.alignment.characters import NO_GROUP
from kdkit.alignment.warping import group_positions, warp
from kdkit.errors import UserError

KINDS = ("dtw", "weighted_dtw", "edit_distance")


def spell(text: str, offsets: np.ndarray) -> list[str]:
    """Return what each token covers, lower-cased, without spaces; empty for a token that covers nothing.

    The text itself rather than the vocabulary's entries, which write spaces, bytes and unknown words in their own ways.

    Args:
        offsets: int, `[num_tokens, 2]`: see `align_by_offsets`.
    """
    return ["".join(text[start:end].lower().split()) for start, end in offsets]


def align_by_spelling(
    kind: str,
    student: list[str],
    teacher: list[str],
    student_weights: np.ndarray | None = None,
    teacher_weights: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Group the tokens of two tokenizers by edit distance.

    Args:
        kind: `dtw`: time warping, and of its path the tokens that meet one other each, of the same spelling (the
            source document's code); `weighted_dtw`: time warping with weighted costs, and what its path joins (CDM,
            arXiv 2502.11104, sec. 3); `edit_distance`: tokens that are each other's nearest, of equal distances the
            one at the more similar place (EMO, EMNLP 2025 main 385).
        student: S spellings, see `spell`; empty ones are in no group.
        teacher: T spellings.
        student_weights: float, `[S]`: factor of each token's costs in `weighted_dtw`; None: 1.
        teacher_weights: float, `[T]`.

    Returns:
        As `align_by_offsets`: int32, `[S]` and `[T]`.

    Raises:
        UserError: another kind.
    """
    if kind not in KINDS:
        raise UserError(f"align_by_spelling: expected {', '.join(KINDS)}, got {kind!r}; choose one of them")
    groups = np.full(len(student), NO_GROUP, np.int32), np.full(len(teacher), NO_GROUP, np.int32)
    spelled = [np.flatnonzero([bool(text) for text in side]) for side in (student, teacher)]
    if not all(map(len, spelled)):
        return groups
    students, teachers = [student[i] for i in spelled[0]], [teacher[j] for j in spelled[1]]
    costs = process.cdist(students, teachers, scorer=Levenshtein.distance).astype(np.float64)
    if kind == "weighted_dtw":
        weights = [
            1.0 if w is None else np.asarray(w, dtype=np.float64)[places]
            for w, places in zip((student_weights, teacher_weights), spelled, strict=True)
        ]
        rows, columns, _ = warp(costs * np.reshape(weights[0], (-1, 1)) * np.reshape(weights[1], (1, -1)))
        found = group_positions(rows, columns)
    else:
        pairs = _one_to_one(costs) if kind == "dtw" else _mutual_nearest(costs)
        found = _number(pairs, costs.shape)
    for group, places, numbers in zip(groups, spelled, found, strict=True):
        group[places] = numbers
    return groups


def importance_weights(values: np.ndarray) -> np.ndarray:
    """Turn a measure of each token of a text into factors of 3.4 to 5.6: 3 + 3 sigmoid(4 v - 2), v scaled to 0..1.

    CDM takes the entropy of the next token. An embedding model predicts none, so this takes -log of the token's share
    of the training texts: an adaptation.

    Args:
        values: float, `[num_tokens]`.

    Returns:
        float64, `[num_tokens]`; all equal where the values are.
    """
    if not len(values):
        return np.zeros(0)
    low, high = values.min(), values.max()
    scaled = (values - low) / (high - low if high > low else 1.0)
    return 3.0 + 3.0 / (1.0 + np.exp(2.0 - 4.0 * scaled))


def _one_to_one(costs: np.ndarray) -> np.ndarray:
    """Return the cells of the warping path, `[pairs, 2]`, that are alone in their row and column and cost nothing."""
    rows, columns, _ = warp(costs)
    alone = (np.bincount(rows)[rows] == 1) & (np.bincount(columns)[columns] == 1) & (costs[rows, columns] == 0)
    return np.stack([rows[alone], columns[alone]], axis=1)


def _mutual_nearest(costs: np.ndarray) -> np.ndarray:
    """Return the cells, `[pairs, 2]`, that are the cheapest of their row and of their column."""
    places = [np.linspace(0.0, 0.5, size) for size in costs.shape]  # differ by less than one edit
    costs = costs + abs(places[0][:, None] - places[1][None, :])
    teacher_of, student_of = costs.argmin(axis=1), costs.argmin(axis=0)
    rows = np.arange(len(costs))
    mutual = student_of[teacher_of] == rows
    return np.stack([rows[mutual], teacher_of[mutual]], axis=1)


def _number(pairs: np.ndarray, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Give each pair a group of its own."""
    groups = np.full(shape[0], NO_GROUP), np.full(shape[1], NO_GROUP)
    for group, members in zip(groups, pairs.T, strict=True):
        group[members] = np.arange(len(pairs))
    return groups
