"""Bits per byte and perplexity of a causal LM on windows: for the probe (02), learning curves (03), evaluation (04).

A scoring pass keeps no keys and values, and the logits of a batch never exist at once.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from transformers import PreTrainedModel

from kdkit.data.batches import Side, WindowCollator
from kdkit.data.windows import PAD, Windows
from kdkit.losses.chunked.engine import even_chunks, rows_per_chunk
from kdkit.losses.cross_entropy import IGNORE_INDEX, shift_labels
from kdkit.models.reading import Reader, open_reader
from kdkit.training.score import UNKNOWN_BITS, Score

Measure = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Takes logits, `[rows, V]`, and the tokens that followed, int64, `[rows]`; returns values of each, `[K, rows]`."""


def measure_nats(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return -log probability of what followed, `[1, rows]`."""
    wanted = logits.gather(1, targets[:, None]).squeeze(1)
    return (logits.logsumexp(dim=-1) - wanted)[None]


def score_windows(
    model: PreTrainedModel | Reader,
    windows: Windows,
    side: Side,
    batch_size: int,
    autocast_dtype: torch.dtype | None = None,
) -> Score:
    """Score a model on windows; the model's mode and device are left as they are.

    Args:
        model: or what reads with it, such as a teacher's `reader()`.
        side: whose tokens the model reads.
        batch_size: windows at once.
        autocast_dtype: run the forward pass under autocast; None: as the weights are.

    Raises:
        UserError: see `find_head`.
    """
    return sum_tokens(score_tokens(model, windows, side, batch_size, autocast_dtype)[0], windows, side)


def score_tokens(
    model: PreTrainedModel | Reader,
    windows: Windows,
    side: Side,
    batch_size: int,
    autocast_dtype: torch.dtype | None = None,
    measure: Measure = measure_nats,
) -> np.ndarray:
    """Measure a model's prediction of every token of some windows; arguments as for `score_windows`.

    Args:
        measure: what is kept of the logits.

    Returns:
        fp64, `[K, num_windows, S]`, at the position that predicts; 0 where nothing in the loss is predicted.
    """
    ids = windows.student_ids if side == "student" else windows.teacher_ids
    parts = [np.zeros((1, 0, ids.shape[1]))] if not len(windows) else []
    with open_reader(model, autocast_dtype) as reader:
        for batch in iterate_batches(windows, side, batch_size):
            values = measure_batch(reader, batch["input_ids"], shift_labels(batch["labels"]), measure)
            parts.append(np.pad(values, ((0, 0), (0, 0), (0, ids.shape[1] - values.shape[2]))))
    return np.concatenate(parts, axis=1)


def sum_tokens(token_nats: np.ndarray, windows: Windows, side: Side) -> Score:
    """Add up the nats of tokens, fp64, `[num_windows, S]`, as `score_tokens` returns them."""
    nats = token_nats + unknown_nats(windows, side)
    num_tokens = int(windows.labels(slice(None), side == "teacher").sum())
    score = Score(nats.sum(axis=1), np.asarray(windows.num_bytes), num_tokens, token_nats=float(token_nats.sum()))
    if not windows.pieces.shape[1]:
        return score
    piece_nats = sum_by_piece(nats, np.asarray(windows.pieces[:, :, 1 if side == "student" else 2]))
    return _with_documents(score, windows.pieces, piece_nats)


@torch.no_grad()
def measure_batch(
    reader: Reader, input_ids: torch.Tensor, targets: torch.Tensor, measure: Measure = measure_nats
) -> np.ndarray:
    """Measure the prediction of every target, fp64, `[K, B, S]`; 0 where nothing is predicted.

    Args:
        input_ids: int64, `[B, S]`.
        targets: int64, `[B, S]`: what follows each position; `IGNORE_INDEX` where that is not asked.
    """
    logits_of, flat = reader.read(input_ids), targets.flatten()
    rows = (flat != IGNORE_INDEX).nonzero().squeeze(1)
    parts = []
    for part in even_chunks(len(rows), rows_per_chunk(reader.vocab_size, reader.device)) or [slice(0, 0)]:
        logits = logits_of(rows[part])
        parts.append(measure(logits, flat[rows[part]].to(logits.device)).double().cpu())
    found = torch.cat(parts, dim=1)
    values = torch.zeros(len(found), len(flat), dtype=torch.float64)
    values[:, rows] = found
    return values.view(-1, *targets.shape).numpy()


def unknown_nats(windows: Windows, side: Side) -> np.ndarray:
    """Return what is charged at each position for text that it predicts by an unknown token, `[num_windows, S]`."""
    found = np.asarray(windows.unknown, np.int64)
    num_bytes = np.zeros((windows.student_ids if side == "student" else windows.teacher_ids).shape)
    window, place = np.nonzero(found[:, :, 0] == ("student", "teacher").index(side))
    num_bytes[window, found[window, place, 1]] = found[window, place, 2]
    return UNKNOWN_BITS * math.log(2) * num_bytes


def sum_by_piece(nats: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Sum values of positions, float64, over the pieces that begin at `starts`: `[B, S]`, `[B, D]` -> `[B, D]`."""
    ends = np.append(starts[:, 1:], np.full((len(starts), 1), PAD), axis=1)
    ends = np.where(ends == PAD, nats.shape[1], ends)
    sums = np.pad(nats.cumsum(axis=1), ((0, 0), (1, 0)))
    total = np.take_along_axis(sums, np.clip(ends, 0, nats.shape[1]), axis=1)
    before = np.take_along_axis(sums, np.clip(starts, 0, nats.shape[1]), axis=1)
    return np.where(starts == PAD, 0.0, total - before)


def _with_documents(score: Score, pieces: np.ndarray, piece_nats: np.ndarray) -> Score:
    """Add the sums by document to a score."""
    is_piece = pieces[:, :, 0] != PAD
    _, places = np.unique(pieces[:, :, 0][is_piece], return_inverse=True)
    sums = (np.bincount(places, values[is_piece]) for values in (piece_nats, pieces[:, :, 3]))
    nats, num_bytes = sums
    return replace(score, document_nats=nats, document_bytes=num_bytes.astype(np.int64))


def iterate_batches(
    windows: Windows, side: Side, batch_size: int, with_teacher: bool = False, rows: list[int] | None = None
) -> Iterator[dict[str, torch.Tensor]]:
    """Yield windows in order, as batches.

    Args:
        rows: row numbers of those wanted, which come with the batch as `windows`; None: all.
    """
    collate = WindowCollator(windows, side, with_teacher)
    wanted = range(len(windows)) if rows is None else rows
    for start in range(0, len(wanted), batch_size):
        chosen = list(wanted[start : start + batch_size])
        yield collate(chosen) | {"windows": chosen}
