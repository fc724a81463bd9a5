"""Bits per byte and perplexity of a causal LM on windows: for the probe (02), learning curves (03), evaluation (04).

A scoring pass keeps no keys and values, and the logits of a batch never exist at once.
"""

import math
from collections.abc import Iterator
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
    window_nats, piece_nats = np.zeros(len(windows)), np.zeros(windows.pieces.shape[:2])
    num_tokens, num_nats, start = 0, 0.0, 0
    with open_reader(model, autocast_dtype) as reader:
        for batch in iterate_batches(windows, side, batch_size):
            targets = shift_labels(batch["labels"])
            nats = _token_nats(reader, batch["input_ids"], targets)
            rows = slice(start, start := start + len(targets))
            num_nats += nats.sum()
            nats += UNKNOWN_BITS * math.log(2) * _unknown_bytes(windows, rows, side, nats.shape)
            window_nats[rows] = nats.sum(axis=1)
            piece_nats[rows] = sum_by_piece(nats, windows.pieces[rows, :, 1 if side == "student" else 2])
            num_tokens += int((targets != IGNORE_INDEX).sum())
    score = Score(window_nats, np.asarray(windows.num_bytes), num_tokens, token_nats=float(num_nats))
    return _with_documents(score, windows.pieces, piece_nats) if windows.pieces.shape[1] else score


@torch.no_grad()
def _token_nats(reader: Reader, input_ids: torch.Tensor, targets: torch.Tensor) -> np.ndarray:
    """Return -log probability of every target, float64, `[B, S]`; 0 where nothing is predicted."""
    logits_of, flat = reader.read(input_ids), targets.flatten()
    rows = (flat != IGNORE_INDEX).nonzero().squeeze(1)
    nats = torch.zeros(len(flat), dtype=torch.float64)
    for part in even_chunks(len(rows), rows_per_chunk(reader.vocab_size, reader.device)):
        chosen = rows[part]
        logits = logits_of(chosen)
        wanted = logits.gather(1, flat[chosen, None].to(logits.device)).squeeze(1)
        nats[chosen] = (logits.logsumexp(dim=-1) - wanted).double().cpu()
    return nats.view(targets.shape).numpy()


def _unknown_bytes(windows: Windows, rows: slice, side: Side, shape: tuple[int, ...]) -> np.ndarray:
    """Return how many bytes each position predicts by an unknown token, `[B, S]`."""
    found = np.asarray(windows.unknown[rows], np.int64)
    num_bytes = np.zeros(shape)
    window, place = np.nonzero(found[:, :, 0] == ("student", "teacher").index(side))
    num_bytes[window, found[window, place, 1]] = found[window, place, 2]
    return num_bytes


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
