"""The order of sentences: whole passes, and batches of about equal length."""

import numpy as np
import pytest

from kdkit.embeddings.training.batches import Order


@pytest.mark.parametrize("by_length", [True, False])
def test_every_row_is_seen_once_in_a_pass_and_passes_differ(by_length):
    order = Order(np.arange(20) % 7, 5, 0, by_length)
    first = [row for number in range(4) for row in order.rows(number)]
    second = [row for number in range(4, 8) for row in order.rows(number)]
    assert sorted(first) == sorted(second) == list(range(20)) and first != second


def test_batches_hold_sentences_of_about_equal_length():
    lengths = np.random.default_rng(0).integers(3, 60, size=640)
    padding = {}
    for by_length in (True, False):
        order = Order(lengths, 32, 0, by_length)
        batches = [lengths[order.rows(number)] for number in range(20)]
        padding[by_length] = sum(32 * batch.max() for batch in batches) / lengths.sum()
    assert padding[True] < 1.15 < 1.5 < padding[False]
