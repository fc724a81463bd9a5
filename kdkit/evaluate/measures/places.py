"""Where in a text a student keeps what its teacher knows: at rare or frequent tokens, early or late in its context.

Two tokenizers cut a text differently, so all is counted over spans: the shortest stretches of text that both start and
end together, each in the bin of its first (position) or rarest (frequency) student token.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdkit.alignment.tokenizers import token_bytes
from kdkit.data.batches import Side
from kdkit.data.prepare import PreparedData
from kdkit.data.windows import PAD, Windows
from kdkit.distill.checkpoints import BASELINE, STUDENT
from kdkit.evaluate.language import Units, gap_closed
from kdkit.evaluate.measures.tokens import find_documents, find_targets, sum_by_unit
from kdkit.evaluate.retention import Positions

FIRST_EDGE = 8
"""Tokens of the first bin of positions."""
IN_WINDOW, IN_DOCUMENT = 2, 4
"""How many times as far every next bin of positions reaches."""


@dataclass(frozen=True)
class Bins:
    """Kinds of places, and which one each student position is of."""

    names: list[str]
    of_position: np.ndarray
    """int64, `[num_windows, S]`: of the token that is predicted there."""


def bin_frequency(windows: Windows, train: Windows, count: int) -> Bins:
    """Sort held-out tokens by how often the training text has them, into bins of about equally many held-out tokens.

    Args:
        count: bins at most; tokens of one frequency stay together.
    """
    ids = np.asarray(train.student_ids[:, 1:])
    held_out = np.asarray(windows.student_ids)
    size = int(max(ids.max(initial=0), held_out.max(initial=0))) + 1
    frequency = np.bincount(ids[ids != PAD], minlength=size)
    of_next = np.append(frequency[np.maximum(held_out[:, 1:], 0)], np.zeros((len(held_out), 1), np.int64), axis=1)
    found = of_next[find_targets(windows, "student")]
    edges = np.unique(np.quantile(found, np.linspace(0, 1, count + 1)[1:-1], method="higher"))
    edges = edges[edges > found.min()]
    lows, highs = [found.min(), *edges], [*(edges - 1), found.max()]
    names = [f"{low:,} to {high:,}" if low < high else f"{low:,}" for low, high in zip(lows, highs, strict=True)]
    return Bins(names, np.searchsorted(edges, of_next, side="right"))


def bin_window_position(windows: Windows) -> Bins:
    """Sort tokens by how many stand before them in their window: what the model has read."""
    return _widen(
        np.broadcast_to(np.arange(windows.student_ids.shape[1]), windows.student_ids.shape), windows, IN_WINDOW
    )


def bin_document_position(windows: Windows) -> Bins:
    """Sort tokens by how many of their document stand before them, in this window or in those before it."""
    documents, is_token = find_documents(windows, "student"), np.asarray(windows.student_ids)[:, 1:] != PAD
    is_token = np.append(is_token, np.zeros((len(is_token), 1), bool), axis=1)
    flat, before = documents[is_token], np.zeros(documents.shape, np.int64)
    order = np.argsort(flat, kind="stable")
    firsts = np.searchsorted(flat[order], flat[order], side="left")
    places = np.empty(len(flat), np.int64)
    places[order] = np.arange(len(flat)) - firsts
    before[is_token] = places
    return _widen(before, windows, IN_DOCUMENT)


def _widen(places: np.ndarray, windows: Windows, times: int) -> Bins:
    """Sort places into bins of which each reaches so many times as far as the one before."""
    last = int(places[find_targets(windows, "student")].max())
    edges = [FIRST_EDGE]
    while edges[-1] <= last:
        edges.append(times * edges[-1])
    names = [f"{low:,} to {high - 1:,}" for low, high in zip([0, *edges], edges, strict=False)]
    return Bins(names, np.searchsorted(edges, places, side="right"))


@dataclass(frozen=True)
class SpanValues:
    """What every model pays for each span in the loss."""

    nats: dict[str, np.ndarray]
    """fp64, `[N]`, by model."""
    num_bytes: np.ndarray
    """int64, `[N]`: by the student's tokens."""
    first: np.ndarray
    """int64, `[N]`: first student position, in the flattened windows."""
    lengths: np.ndarray
    """int64, `[N]`: student tokens."""


def measure_spans(
    token_nats: Mapping[str, np.ndarray], sides: Mapping[str, Side], data: PreparedData, windows: Windows
) -> SpanValues:
    """Add up the nats of every model by span.

    Args:
        token_nats: by model, fp64, `[num_windows, S or T]`; see `Predictions.nats`.
        sides: whose tokens each model reads.
    """
    positions = np.asarray(windows.teacher_positions)
    rows = {
        side: _predicting(ids) for side, ids in (("student", windows.student_ids), ("teacher", windows.teacher_ids))
    }
    begins: dict[Side, np.ndarray] = {"student": (positions != PAD) & rows["student"]}
    begins["teacher"] = np.zeros(rows["teacher"].shape, bool)
    window, place = np.nonzero(begins["student"])
    begins["teacher"][window, positions[window, place]] = True
    starts = {side: np.flatnonzero(begins[side][rows[side]]) for side in rows}
    table = token_bytes(data.student_tokenizer)
    lengths = np.array([len(piece or b"") for piece in table] + [0], np.int64)
    following = np.append(np.asarray(windows.student_ids)[:, 1:], np.full((len(windows), 1), PAD), axis=1)
    sizes = lengths[np.where(following < len(table), following, PAD)]
    found = np.asarray(windows.unknown)
    window, place = np.nonzero(found[:, :, 0] == 0)  # unknown tokens of the student
    sizes[window, found[window, place, 1]] = found[window, place, 2]
    is_counted = find_targets(windows, "student")[begins["student"]]
    num_rows = int(rows["student"].sum())
    return SpanValues(
        {
            name: np.add.reduceat(nats[rows[sides[name]]], starts[sides[name]])[is_counted]
            for name, nats in token_nats.items()
        },
        np.add.reduceat(sizes[rows["student"]], starts["student"])[is_counted],
        np.flatnonzero(begins["student"])[is_counted],
        np.diff(np.append(starts["student"], num_rows))[is_counted],
    )


def _predicting(ids: np.ndarray) -> np.ndarray:
    """Return which positions predict a token: all but the last one of each window."""
    is_token = np.asarray(ids) != PAD
    return np.append(is_token[:, 1:], np.zeros((len(ids), 1), bool), axis=1)


def compare_places(
    bins: Bins, spans: SpanValues, positions: Positions, unit: np.ndarray, units: Units, rarest: bool = False
) -> list[dict[str, Any]]:
    """Compare all models in every kind of place.

    Args:
        positions: where student and teacher predict the same next token; see `compare_predictions`.
        unit: of student positions; see `find_units`.
        rarest: a span is of the lowest bin of its tokens, not of its first one's.

    Returns:
        A row per bin that has text: `bin`, `share` (of the bytes), `models`: by name `bits_per_byte` and `interval_95`
        over documents, for students also `kl_to_teacher` and `top_1_agreement` with theirs; `gap_closed` with
        `gap_closed_interval_95` (None where the teacher is no better than the baseline there, on some resampled text).
    """
    of_position, of_unit = bins.of_position.reshape(-1), unit.reshape(-1)
    of_span = _lowest(of_position, spans) if rarest else of_position[spans.first]
    place_of = positions.place
    rows, total = [], spans.num_bytes.sum()
    for number, name in enumerate(bins.names):
        chosen, there = of_span == number, of_position[place_of] == number
        if not spans.num_bytes[chosen].sum():
            continue
        nats = np.stack([values[chosen] for values in spans.nats.values()])
        sums = sum_by_unit(
            np.vstack([nats / np.log(2), spans.num_bytes[chosen]]), of_unit[spans.first[chosen]], units.count
        )
        drawn = units.sums(sums)
        drawn = drawn[:, drawn[-1] > 0]
        levels = dict(zip(spans.nats, drawn[:-1] / drawn[-1], strict=True))
        models: dict[str, Any] = {
            name: {"bits_per_byte": float(row.sum() / sums[-1].sum()), "interval_95": units.interval(level)}
            for row, (name, level) in zip(sums, levels.items(), strict=False)
        }
        for student, values in positions.values.items():
            models[student] |= _kept(values[:, there], of_unit[place_of[there]], units)
        rows.append(
            {"bin": name, "share": float(sums[-1].sum() / total), "models": models, **_gap(models, levels, units)}
        )
    return rows


def _lowest(of_position: np.ndarray, spans: SpanValues) -> np.ndarray:
    """Return the lowest bin among each span's tokens."""
    index = np.repeat(spans.first, spans.lengths) + np.arange(spans.lengths.sum())
    index -= np.repeat(np.cumsum(spans.lengths) - spans.lengths, spans.lengths)
    return np.minimum.reduceat(of_position[index], np.cumsum(spans.lengths) - spans.lengths)


def _kept(values: np.ndarray, unit: np.ndarray, units: Units) -> dict[str, Any]:
    """Return KL to the teacher and agreement with it, with their intervals; None without a position."""
    names = ("kl_to_teacher", "top_1_agreement")
    if not values.shape[1]:
        return {name: None for each in names for name in (each, f"{each}_interval_95")}
    kl, _, agreement, ones = sum_by_unit(np.vstack([values, np.ones(values.shape[1])]), unit, units.count)
    return {
        name: value
        for key, row in zip(names, (kl, agreement), strict=True)
        for name, value in (
            (key, float(row.sum() / ones.sum())),
            (f"{key}_interval_95", units.interval_of_ratio(row, ones)),
        )
    }


def _gap(models: dict[str, Any], levels: dict[str, np.ndarray], units: Units) -> dict[str, Any]:
    """Return the share of the gap that the student closed in a bin."""
    closed = gap_closed(*(models[name]["bits_per_byte"] for name in ("teacher", STUDENT, BASELINE)))
    gaps = levels[BASELINE] - levels["teacher"]
    interval = None
    if closed is not None and units.interval(gaps)[0] > 0:
        is_gap = gaps > 0
        interval = units.interval((levels[BASELINE] - levels[STUDENT])[is_gap] / gaps[is_gap])
    return {"gap_closed": closed, "gap_closed_interval_95": interval}
