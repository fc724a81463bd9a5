"""Perplexity with as much context as can be had (a sliding window), and with none but the document's own."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from kdkit.alignment.tokenizers import start_token_id
from kdkit.data.batches import Side, longest_sequence
from kdkit.data.windows import PAD, Windows
from kdkit.evaluate.language import Units, choose_units
from kdkit.evaluate.measures.tokens import find_documents, find_units
from kdkit.losses.cross_entropy import IGNORE_INDEX
from kdkit.models.reading import Reader, open_reader
from kdkit.training.scoring import measure_batch, sum_tokens, unknown_nats

Read = PreTrainedModel | Reader


def measure_contexts(
    models: Mapping[str, tuple[Read, Side]],
    token_nats: Mapping[str, np.ndarray],
    windows: Windows,
    tokenizers: Mapping[Side, PreTrainedTokenizerFast],
    *,
    stride: float,
    batch_size: int,
    seed: int,
    autocast_dtype: torch.dtype | None = None,
) -> dict[str, Any]:
    """Score models on one text in three ways: in windows as they were trained, by a sliding window, by document.

    Args:
        models: by name, with whose tokens each one reads.
        token_nats: of the windows, by model; see `Predictions.nats`.
        windows: the text; its documents are known.
        stride: how far a sliding window moves on, as a share of its length.

    Returns:
        `bytes`, `documents`, `stride` in tokens and `length` of a window by side, `intervals_over`; `models`: by name
        `in_windows`, `sliding` and `by_document`, each with `bits_per_byte` and `perplexity` (of its own tokens) and
        their intervals.
    """
    lengths = {side: longest_sequence(side, windows) for side in ("student", "teacher")}
    strides = {side: max(1, round(stride * (length - 1))) for side, length in lengths.items()}
    scores = {name: sum_tokens(token_nats[name], windows, side) for name, (_, side) in models.items()}
    units = choose_units(scores, seed)
    found = {}
    for name, (model, side) in models.items():
        text = _Text(windows, side, start_token_id(tokenizers[side]), units)
        cut = lengths[side], strides[side]
        with open_reader(model, autocast_dtype) as reader:
            stream = score_sequences(reader, [text.stream], *cut, batch_size)[0]
            documents = score_sequences(reader, text.documents, *cut, batch_size)
        ways = {
            "in_windows": token_nats[name][:, :-1][text.is_token],
            "sliding": stream,
            "by_document": np.concatenate(documents)[text.back],
        }
        found[name] = {way: text.describe(nats) for way, nats in ways.items()}
    return {
        "bytes": int(windows.num_bytes.sum()),
        "documents": int(find_documents(windows, "student").max()) + 1,
        "length": lengths,
        "stride": strides,
        "intervals_over": units.over,
        "models": found,
    }


class _Text:
    """The text of windows as one side's tokens, and as documents."""

    def __init__(self, windows: Windows, side: Side, start: int | None, units: Units):
        ids = np.asarray(windows.student_ids if side == "student" else windows.teacher_ids)
        self.is_token = ids[:, 1:] != PAD
        tokens, document = ids[:, 1:][self.is_token], find_documents(windows, side)[:, :-1][self.is_token]
        begin = [] if start is None else [start]
        order = np.argsort(document, kind="stable")
        ends = np.cumsum(np.bincount(document))[:-1]
        self.stream = [*begin, *tokens.tolist()]
        self.documents = [[*begin, *part.tolist()] for part in np.split(tokens[order], ends)]
        self.back = np.argsort(order, kind="stable")
        """Where each token of the stream stands in the documents, one after the other."""
        self.units, self.unit = units, find_units(windows, side, units)[:, :-1][self.is_token]
        self.charge = unknown_nats(windows, side)[:, :-1][self.is_token]
        by_document = units.length is None
        pieces = np.asarray(windows.pieces)
        known = pieces[:, :, 0] != PAD
        numbers = np.unique(pieces[:, :, 0][known], return_inverse=True)[1]
        self.num_bytes = np.bincount(numbers, pieces[:, :, 3][known]) if by_document else np.asarray(windows.num_bytes)

    def describe(self, nats: np.ndarray) -> dict[str, Any]:
        """Return bits per byte and perplexity of the text, from the nats of its tokens, with their intervals."""
        sums = np.stack(
            [
                np.bincount(self.unit, nats + self.charge, self.units.count) / math.log(2),
                self.num_bytes,
                np.bincount(self.unit, nats, self.units.count),
                np.bincount(self.unit, minlength=self.units.count),
            ]
        )
        bits, num_bytes, plain, count = sums.sum(axis=1)
        low, high = self.units.interval_of_ratio(sums[2], sums[3])
        return {
            "bits_per_byte": float(bits / num_bytes),
            "bits_per_byte_interval_95": self.units.interval_of_ratio(sums[0], sums[1]),
            "perplexity": math.exp(plain / count),
            "perplexity_interval_95": (math.exp(low), math.exp(high)),
        }


def score_sequences(
    reader: Reader, sequences: Sequence[Sequence[int]], length: int, stride: int, batch_size: int
) -> list[np.ndarray]:
    """Return -log probability of every token but the first of some sequences, in nats, each read once.

    A sequence that is longer than `length` is read by a window that moves on by `stride` tokens, and each window scores
    the tokens that no earlier one has: with a small stride every token has at least `length - stride` before it.

    Args:
        sequences: token ids, the start token included.
        stride: less than `length`, or a window's first token would have none before it.

    Returns:
        Of each sequence, fp64, `[len - 1]`.

    Source: transformers' guide "Perplexity of fixed-length models".
    """
    found = [np.zeros(max(len(each) - 1, 0)) for each in sequences]
    jobs = [(i, *cut) for i, each in enumerate(sequences) for cut in slide(len(each), length, stride)]
    jobs.sort(key=lambda job: job[3] - job[1])  # little padding
    for start in range(0, len(jobs), batch_size):
        batch = jobs[start : start + batch_size]
        width = max(end - begin for _, begin, _, end in batch)
        ids = torch.zeros(len(batch), width, dtype=torch.int64)
        targets = torch.full_like(ids, IGNORE_INDEX)
        for row, (i, begin, first, end) in enumerate(batch):
            part = torch.tensor(sequences[i][begin:end])
            ids[row, : len(part)] = part
            targets[row, first - begin - 1 : end - begin - 1] = part[first - begin :]
        nats = measure_batch(reader, ids, targets)[0]
        for row, (i, begin, first, end) in enumerate(batch):
            found[i][first - 1 : end - 1] = nats[row, first - begin - 1 : end - begin - 1]
    return found


def slide(total: int, length: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """Yield the windows over a sequence: where each begins, the first token that it scores, and where it ends."""
    done = 1  # nothing predicts the first token
    for begin in range(0, total, stride):
        end = min(begin + length, total)
        if end > done:
            yield begin, done, end
        done = max(done, end)
        if end == total:
            return
