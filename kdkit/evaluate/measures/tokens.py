"""Every token of the held-out text, as each model expected it: what all measures of predictions add up."""

from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

from kdkit.data.batches import Side
from kdkit.data.windows import PAD, Windows
from kdkit.evaluate.language import Units
from kdkit.models.reading import Reader
from kdkit.training.scoring import score_tokens


@dataclass(frozen=True)
class Predictions:
    """A model's predictions of all tokens in the loss; arrays are `[num_windows, S]`, at the position that predicts."""

    is_target: np.ndarray
    """bool: whether something in the loss is predicted there; elsewhere the values are 0."""
    nats: np.ndarray
    """fp64: -log probability of what followed."""
    confidence: np.ndarray
    """fp64: probability of the token that was found the most likely one."""
    is_right: np.ndarray
    """fp64: whether that one followed, 1 or 0."""
    brier: np.ndarray
    """fp64: squared distance of the distribution from the one that is sure of what followed, 0 to 2."""


def predict_tokens(
    model: PreTrainedModel | Reader,
    windows: Windows,
    side: Side,
    batch_size: int,
    autocast_dtype: torch.dtype | None = None,
) -> Predictions:
    """Read windows with a model; see `kdkit.training.scoring.score_tokens`."""
    values = score_tokens(model, windows, side, batch_size, autocast_dtype, measure_prediction)
    return Predictions(find_targets(windows, side), *values)


def measure_prediction(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return nats, confidence, whether it was right, and the Brier score, `[4, rows]`.

    Args:
        logits: `[rows, V]`.
        targets: int64, `[rows]`: what followed.

    Source: Brier 1950, Verification of forecasts expressed in terms of probability (its sum over all outcomes).
    """
    total = logits.logsumexp(dim=-1)
    nats = total - logits.gather(1, targets[:, None]).squeeze(1)
    highest, best = logits.max(dim=-1)
    # the sum of squared probabilities, without the probabilities
    squares = ((2 * logits).logsumexp(dim=-1) - 2 * total).exp()
    brier = 1 - 2 * (-nats).exp() + squares
    return torch.stack([nats, (highest - total).exp(), (best == targets).to(nats.dtype), brier])


def find_targets(windows: Windows, side: Side) -> np.ndarray:
    """Return at which positions something in the loss is predicted, bool, `[num_windows, S]`."""
    labels = windows.labels(slice(None), side == "teacher")
    return np.append(labels[:, 1:], np.zeros((len(labels), 1), bool), axis=1)


def find_units(windows: Windows, side: Side, units: Units) -> np.ndarray:
    """Return of which unit (document or window) each position's prediction is, int64, `[num_windows, S]`."""
    ids = windows.student_ids if side == "student" else windows.teacher_ids
    if units.length is not None:
        return np.broadcast_to(np.arange(len(ids))[:, None], ids.shape)
    return find_documents(windows, side)


def find_documents(windows: Windows, side: Side) -> np.ndarray:
    """Return of which document each position predicts a token, int64, `[num_windows, S]`: counted from 0, in order."""
    shape = (windows.student_ids if side == "student" else windows.teacher_ids).shape
    numbers, starts = (
        np.asarray(windows.pieces[:, :, 0]),
        np.asarray(windows.pieces[:, :, 1 if side == "student" else 2]),
    )
    row, place = np.nonzero(numbers != PAD)
    begins = np.zeros(shape, np.int64)
    np.add.at(begins, (row, starts[row, place]), 1)
    piece = np.maximum(begins.cumsum(axis=1) - 1, 0)
    _, documents = np.unique(numbers[row, place], return_inverse=True)
    of_piece = np.zeros(numbers.shape, np.int64)
    of_piece[row, place] = documents
    return np.take_along_axis(of_piece, piece, axis=1)


def sum_by_unit(values: np.ndarray, unit: np.ndarray, count: int) -> np.ndarray:
    """Sum values by unit: `[K, N]` and `[N]` to `[K, count]`."""
    return np.stack([np.bincount(unit, row, count) for row in values])
