"""Stored vectors: the codes of sentence-transformers, scores of tasks, and a search by bits."""

import numpy as np
import pytest

from kdkit.config.tasks import Task
from kdkit.embeddings.data.sentences import Sentences
from kdkit.embeddings.data.tasks import TaskData
from kdkit.embeddings.evaluate.measures import Vectors
from kdkit.embeddings.evaluate.quantised import (
    RESCORED,
    find_ranges,
    from_bits,
    from_int8,
    nearest_kept,
    score_stored,
    search_by_bits,
    to_bits,
    to_int8,
)


def draw(count, width=20, seed=0):
    values = np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def test_codes_are_those_of_sentence_transformers():
    quantization = pytest.importorskip("sentence_transformers.util.quantization")
    vectors, others = draw(50), draw(200, seed=1)
    others[:, 3] = 0.25  # a dimension without a range
    codes = to_int8(vectors, find_ranges(others))
    wanted = quantization.quantize_embeddings(vectors, "int8", calibration_embeddings=others)
    assert codes.dtype == wanted.dtype and (codes == wanted).mean() > 0.999  # a number on an edge may round
    assert np.abs(codes.astype(int) - wanted).max() <= 1
    np.testing.assert_array_equal(to_bits(vectors), quantization.quantize_embeddings(vectors, "ubinary"))


def test_int8_is_within_half_a_step_of_the_number():
    vectors = draw(50)
    ranges = find_ranges(vectors)
    steps = (ranges[1] - ranges[0]) / 255
    inside = np.abs(from_int8(to_int8(vectors, ranges), ranges) - vectors) <= steps / 2 * 1.001
    assert inside[vectors < ranges[1]].all()  # the largest number of all lies on the last edge


def test_bits_come_back_as_signs():
    vectors = draw(5, width=11)
    np.testing.assert_array_equal(from_bits(to_bits(vectors), 11), np.where(vectors > 0, 1, -1))


def sts(scores, count):
    first, second = [f"a{row}" for row in range(count)], [f"b{row}" for row in range(count)]
    return TaskData(Task(name="t", kind="sts", path="t"), Sentences(first, second, None, scores, "t", "t"), None, [])


def test_a_task_is_scored_on_what_comes_back():
    first, second = draw(40), draw(40, seed=1)
    scores = (first * second).sum(axis=1).tolist()
    places = {("", f"{side}{row}"): row + 40 * (side == "b") for side in "ab" for row in range(40)}
    vectors = Vectors(np.concatenate([first, second]), places)
    found = score_stored(sts(scores, 40), vectors, draw(300, seed=2), [8], ["int8", "binary"])
    assert list(found["int8"]) == ["8", "20"]
    assert 99.0 < found["int8"]["20"] <= 100 and 30 < found["binary"]["20"] < found["int8"]["20"]
    assert found["int8"]["8"] < found["int8"]["20"]
    hamming = (np.sign(first) * np.sign(second)).sum(axis=1)
    from scipy.stats import spearmanr

    assert found["binary"]["20"] == pytest.approx(100 * spearmanr(hamming, scores)[0], abs=1e-6)


def test_a_search_by_bits_rescores_the_nearest_alone():
    queries, documents = draw(6), draw(100, seed=3)
    scores = search_by_bits(queries, to_bits(documents), 5)
    for query, line in zip(queries, scores, strict=True):
        kept = np.isfinite(line)
        distances = ((query > 0) != (documents > 0)).sum(axis=1)
        assert kept.sum() == 5 * RESCORED and distances[kept].max() <= distances[~kept].min()
        np.testing.assert_allclose(line[kept], (np.where(documents > 0, 1, -1) @ query)[kept], rtol=1e-5)


def test_the_nearest_are_kept_by_bytes_better_than_by_bits():
    vectors = draw(300, width=64)
    int8, binary = (nearest_kept(vectors, storage) for storage in ("int8", "binary"))
    assert 0.95 < int8 <= 1 and 0.2 < binary < int8
    assert nearest_kept(vectors[:10], "int8") is None
