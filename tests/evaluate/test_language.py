"""Intervals: whole documents are drawn, ratios have them too, and they hold the truth as often as they say."""

import math

import numpy as np
import pytest

from kdkit.evaluate.language import MIN_DOCUMENTS, gap_closed, paired_interval, resample_text
from kdkit.training.score import Score

BYTES = 100


def make_score(bits, document_of=None):
    """Return the score of windows with these bits per byte, all equally long, of these documents."""
    nats, num_bytes = np.asarray(bits) * math.log(2) * BYTES, np.full(len(bits), BYTES)
    if document_of is None:
        return Score(nats, num_bytes, len(bits))
    sums = (np.bincount(document_of, weights=values) for values in (nats, num_bytes))
    return Score(nats, num_bytes, len(bits), *sums)


def dependent_text(rng, num_documents):
    """Draw the difference of two models on windows of documents: what they share in one is as large as the rest."""
    document_of = np.repeat(np.arange(num_documents), rng.integers(2, 15, num_documents))
    return rng.normal(0.1, 0.15, num_documents)[document_of] + rng.normal(0, 0.2, len(document_of)), document_of


@pytest.mark.parametrize("num_documents", [11, 40])
def test_the_interval_holds_the_truth_as_often_as_it_says(num_documents):
    rng, held, windows_held = np.random.default_rng(0), 0, 0
    for trial in range(150):
        bits, document_of = dependent_text(rng, num_documents)
        nothing = bits * 0
        low, high = paired_interval(make_score(bits, document_of), make_score(nothing, document_of), seed=trial)
        held += low <= 0.1 <= high
        error = bits.std(ddof=1) / math.sqrt(len(bits))  # windows as if they were independent: the published mistake
        windows_held += abs(bits.mean() - 0.1) <= 1.96 * error
    assert held / 150 > 0.89
    assert windows_held / 150 < 0.75


def test_the_width_is_that_of_the_delta_method_over_documents():
    bits, document_of = dependent_text(np.random.default_rng(1), 60)
    counts = np.bincount(document_of)
    residuals = np.bincount(document_of, weights=bits - bits.mean())
    error = math.sqrt((residuals**2).sum()) / counts.sum()  # of a ratio of sums over clusters
    low, high = paired_interval(make_score(bits, document_of), make_score(bits * 0, document_of), seed=0)
    assert high - low == pytest.approx(2 * 2.0 * error, rel=0.12)


def test_many_documents_of_which_one_is_most_of_the_text_are_not_many():
    bits = np.random.default_rng(0).normal(2.0, 0.3, 100)
    alike, uneven = np.arange(100) // 5, np.maximum(np.arange(100) - 80, 0)  # 20 documents; one is 81 windows long
    over = [resample_text({"a": make_score(bits, documents)}, 0).over for documents in (alike, uneven)]
    assert over[0] == "documents" and over[1].startswith("blocks of")


def test_few_or_unknown_documents_are_replaced_by_blocks_of_windows_and_that_is_said():
    bits, document_of = dependent_text(np.random.default_rng(2), MIN_DOCUMENTS - 1)
    for known in (None, document_of):
        resampled = resample_text({"it": make_score(bits, known)}, seed=0)
        assert resampled.over.startswith("blocks of ") and resampled.num_units < len(bits)


def test_blocks_are_wider_than_single_windows_where_neighbours_resemble_each_other():
    rng, values = np.random.default_rng(3), [0.0]
    for _ in range(999):
        values.append(0.7 * values[-1] + rng.normal(0, 0.1))
    low, high = paired_interval(make_score(values), make_score(np.zeros(1000)), seed=0)
    independent = 2 * 1.96 * np.std(values) / math.sqrt(1000)
    expected = independent * math.sqrt((1 + 0.7) / (1 - 0.7))  # of an autoregressive series, by its spectrum at 0
    assert high - low == pytest.approx(expected, rel=0.3) and high - low > 1.6 * independent


def test_windows_that_do_not_resemble_their_neighbours_are_drawn_in_short_blocks():
    resampled = resample_text({"it": make_score(np.random.default_rng(4).normal(2, 0.3, 500))}, seed=0)
    assert resampled.num_units == math.ceil(500 / 8)  # the cube root of 500


def test_the_same_texts_are_drawn_for_all_models():
    bits, document_of = dependent_text(np.random.default_rng(5), 20)
    for documents in (document_of, None):
        scores = {name: make_score(bits + offset, documents) for name, offset in (("a", 0.5), ("b", 0.0))}
        levels = resample_text(scores, seed=1).levels
        assert levels["a"] - levels["b"] == pytest.approx(np.full(2000, 0.5))


def test_the_gap_closed_has_an_interval_that_holds_it():
    rng = np.random.default_rng(6)
    text, document_of = dependent_text(rng, 30)
    scores = {
        "teacher": make_score(2.0 + text, document_of),
        "student": make_score(2.3 + text + rng.normal(0, 0.05, len(text)), document_of),
        "baseline": make_score(2.5 + text, document_of),
    }
    resampled = resample_text(scores, seed=0)
    low, high = resampled.gap_closed("teacher", "student", "baseline")
    value = gap_closed(*(score.bits_per_byte for score in scores.values()))
    assert low < value < high < low + 0.2
    saved = resampled.saving("baseline", "student")
    assert saved[0] < 1 - scores["student"].bits_per_byte / scores["baseline"].bits_per_byte < saved[1]


def test_a_gap_that_other_texts_do_not_show_gives_no_interval():
    bits, document_of = dependent_text(np.random.default_rng(7), 30)
    teacher, level = make_score(2.0 + bits - bits.mean(), document_of), make_score(bits * 0 + 2.001, document_of)
    scores = {"teacher": teacher, "student": level, "baseline": level}
    assert gap_closed(*(score.bits_per_byte for score in scores.values())) is not None
    assert resample_text(scores, seed=0).gap_closed("teacher", "student", "baseline") is None
