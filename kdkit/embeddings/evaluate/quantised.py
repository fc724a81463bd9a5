"""Sentence vectors stored in fewer bytes: int8 with a range per dimension, or one bit per dimension.

The codes are those of `sentence_transformers.quantize_embeddings`: int8 cuts the range of each dimension, found on
other sentences, into 256 steps; a bit says whether a number is above 0.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import numpy as np

from kdkit.embeddings.data.tasks import TaskData
from kdkit.embeddings.evaluate.measures import Vectors, main_score, measure
from kdkit.embeddings.evaluate.ranking import FIRST, rank_by

Storage = Literal["int8", "binary"]
NEAREST = 10
"""Nearest sentences that a search among stored vectors is to find."""
RESCORED = 4
"""Candidates of the search by bits for each wanted text; sentence-transformers' example."""


def find_ranges(vectors: np.ndarray) -> np.ndarray:
    """Return the smallest and the largest number of each dimension: `[2, H]`, of vectors `[num_texts, H]`."""
    return np.stack([vectors.min(axis=0), vectors.max(axis=0)])


def to_int8(vectors: np.ndarray, ranges: np.ndarray) -> np.ndarray:
    """Return int8 codes, `[num_texts, H]`; what lies outside the ranges is cut to them.

    Args:
        vectors: `[num_texts, H]`.
        ranges: `[2, H]`, from `find_ranges`.
    """
    codes = np.floor((vectors - ranges[0]) / _steps(ranges))
    return (np.clip(codes, 0, 255) - 128).astype(np.int8)


def from_int8(codes: np.ndarray, ranges: np.ndarray) -> np.ndarray:
    """Return the numbers that int8 codes stand for, fp32, `[num_texts, H]`: the middle of each step."""
    return ((codes.astype(np.float32) + 128.5) * _steps(ranges) + ranges[0]).astype(np.float32)


def to_bits(vectors: np.ndarray) -> np.ndarray:
    """Return a bit for each number, packed: uint8, `[num_texts, ceil(H / 8)]`."""
    return np.packbits(vectors > 0, axis=-1)


def from_bits(packed: np.ndarray, width: int) -> np.ndarray:
    """Return -1 and 1 for the bits, fp32, `[num_texts, width]`: their cosine falls with the Hamming distance."""
    return np.unpackbits(packed, axis=-1)[:, :width].astype(np.float32) * 2 - 1


def store(vectors: Vectors, storage: Storage, calibration: np.ndarray) -> Vectors:
    """Return vectors as they come back from storage, at length 1 again.

    Args:
        calibration: `[num_texts, H]`, vectors of other texts, from which int8 takes its ranges.
    """
    if storage == "int8":
        ranges = find_ranges(calibration)
        values = from_int8(to_int8(vectors.values, ranges), ranges)
    else:
        values = from_bits(to_bits(vectors.values), vectors.values.shape[1])
    return Vectors(values, vectors.places).cut(values.shape[1])


def score_stored(
    data: TaskData, vectors: Vectors, calibration: np.ndarray, widths: list[int], storages: list[Storage]
) -> dict[str, dict[str, float]]:
    """Score a task on stored vectors.

    Args:
        calibration: `[num_texts, H]`, of held-out sentences.
        widths: so many first numbers are stored, at length 1; the full width is always scored too.

    Returns:
        storage -> width -> main score.
    """
    full = vectors.values.shape[1]
    found: dict[str, dict[str, float]] = {storage: {} for storage in storages}
    for width in dict.fromkeys([*widths, full]):
        cut, others = vectors.cut(width), Vectors(calibration, {}).cut(width).values
        for storage in storages:
            numbers: tuple[Any, Any] = measure(data, store(cut, storage, others), full=False)
            found[storage][str(width)] = main_score(numbers[1], data)
    return found


def score_rescored(data: TaskData, vectors: Vectors, widths: list[int]) -> dict[str, float]:
    """Score a task of kind `retrieval` by a search among documents kept as bits, see `search_by_bits`.

    Args:
        widths: so many first numbers are stored; the full width is always scored too.

    Returns:
        width -> nDCG@10, in percent.
    """
    task, rankings, found = data.task, data.rankings, {}
    for width in dict.fromkeys([*widths, vectors.values.shape[1]]):
        cut = vectors.cut(width)
        queries = cut.of(rankings.queries, task.query_prompt)
        bits = to_bits(cut.of(rankings.documents, task.document_prompt))
        found[str(width)] = 100.0 * float(rank_by(rankings, partial(_search, queries, bits)).ndcg.mean())
    return found


def _search(queries: np.ndarray, bits: np.ndarray, asked: slice, found: np.ndarray | slice) -> np.ndarray:
    """Return the scores of some queries and documents, for `rank_by`."""
    return search_by_bits(queries[asked], bits[found], FIRST)


def nearest_kept(vectors: np.ndarray, storage: Storage, count: int = NEAREST) -> float | None:
    """Return which share of every text's nearest others a search among stored vectors finds: 0 to 1.

    The query keeps all its numbers; only what is searched is stored. Bits are rescored, see `search_by_bits`.

    Args:
        vectors: `[num_texts, H]`, of length 1; int8 takes its ranges from them. None for `count` texts or fewer.
    """
    if len(vectors) <= count:
        return None
    if storage == "binary":
        # one more is asked for: a text finds itself
        stored = search_by_bits(vectors, to_bits(vectors), count + 1)
    else:
        ranges = find_ranges(vectors)
        stored = vectors @ from_int8(to_int8(vectors, ranges), ranges).T
    found = []
    for scores in (vectors @ vectors.T, stored):
        np.fill_diagonal(scores, -np.inf)
        found.append(np.argsort(-scores, axis=1, kind="stable")[:, :count])
    return float(np.mean([len(np.intersect1d(*rows)) / count for rows in zip(*found, strict=True)]))


def search_by_bits(queries: np.ndarray, documents: np.ndarray, count: int) -> np.ndarray:
    """Score documents kept as bits: a search by Hamming distance, whose best are rescored by the query's own numbers.

    Args:
        queries: `[Q, H]`, not quantised.
        documents: uint8, `[D, ceil(H / 8)]`, from `to_bits`.
        count: texts wanted; `RESCORED` times as many are rescored.

    Returns:
        fp32, `[Q, D]`: of the rescored documents the query times their signs, of the others -inf.

    Source: Yamada et al. 2021 (BPR, arXiv 2106.00882); `semantic_search_faiss` of sentence-transformers.
    """
    signs = from_bits(documents, queries.shape[1])
    agreement = (np.where(queries > 0, np.float32(1), np.float32(-1)) @ signs.T).astype(np.int64)
    # of documents at one distance the first: their number decides, and no whole order is made
    order = np.arange(len(documents)) - agreement * len(documents)
    nearest = np.argpartition(order, min(RESCORED * count, len(documents)) - 1, axis=1)[:, : RESCORED * count]
    scores = np.full((len(queries), len(documents)), -np.inf, np.float32)
    np.put_along_axis(scores, nearest, np.take_along_axis(queries @ signs.T, nearest, axis=1), axis=1)
    return scores


def _steps(ranges: np.ndarray) -> np.ndarray:
    """Return the width of a step of each dimension, `[H]`; 1 where all numbers were equal."""
    steps = (ranges[1] - ranges[0]) / 255
    return np.where(steps == 0, 1, steps)


def add_stored_scores(
    scores: dict[str, dict[str, Any]],
    tasks: list[TaskData],
    vectors: Vectors,
    held_out: np.ndarray,
    widths: list[int],
    quantisations: Sequence[Storage],
) -> dict[str, Any]:
    """Score vectors, and their first numbers, as stored in fewer bytes; int8 takes its ranges from held-out sentences.

    Adds to each task's numbers `quantised`: storage -> width -> main score; with `binary`, to those of kind `retrieval`
    `rescored`: width -> nDCG@10, see `score_rescored`.

    Returns:
        `nearest_kept`: storage -> share of the ten nearest held-out sentences that a search among stored ones finds.
    """
    for data in tasks if quantisations else []:
        scores[data.task.name]["quantised"] = score_stored(data, vectors, held_out, widths, list(quantisations))
        if data.task.kind == "retrieval" and "binary" in quantisations:
            scores[data.task.name]["rescored"] = score_rescored(data, vectors, widths)
    if not quantisations:
        return {}
    return {"nearest_kept": {storage: nearest_kept(held_out, storage) for storage in quantisations}}
