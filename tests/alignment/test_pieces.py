"""Texts in pieces: put together they are the texts, and each level keeps the cuts of those below."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdkit.alignment.pieces import LEVELS, cut, find_crossing

texts = st.lists(
    st.text(st.sampled_from(" \n\t\u00a0aZ1.'(\u00b2\u4e2d\U0001f600"), min_size=1, max_size=30), max_size=6
)


def pieces_of(some: list[str], level: int) -> list[list[str]]:
    """Return the pieces of each text."""
    different, indices, counts = cut(some, level)
    pieces = [different[index] for index in indices]
    return [pieces[start:stop] for start, stop in pairwise([0, *np.cumsum(counts)])]


@settings(max_examples=200, deadline=None)
@given(texts.filter(bool))
def test_pieces_put_together_are_the_texts_and_finer_at_every_level(some):
    before = [{0} for _ in some]
    for level in range(1, LEVELS + 1):
        pieces = pieces_of(some, level)
        assert ["".join(found) for found in pieces] == some
        places = [{0, *np.cumsum([len(piece) for piece in found]).tolist()} for found in pieces]
        assert all(coarse <= fine for coarse, fine in zip(before, places, strict=True))
        before = places


def test_a_text_is_cut_alike_alone_and_among_others():
    some = ["a b", " c", "d ", "\ne", "x\n", "  f", "\u00e9\u4e2d g"]
    for level in range(1, LEVELS + 1):
        assert pieces_of(some, level) == [pieces_of([text], level)[0] for text in some]


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (1, ["a1", " b\nc  d", " ((e", " .f"]),
        (2, ["a1", " b\n", "c  d", " ((e", " .f"]),
        (3, ["a1", " b\n", "c ", " d", " ((e", " .f"]),
        (4, ["a", "1", " b", "\n", "c", " ", " d", " ((e", " .f"]),
        (5, ["a", "1", " b", "\n", "c", " ", " d", " ((", "e", " .", "f"]),
    ],
)
def test_what_each_level_cuts(level, expected):
    assert pieces_of(["a1 b\nc  d ((e .f"], level)[0] == expected


def test_number_signs_that_are_no_ascii_digits_are_not_cut_off():
    """Some tokenizers group `\\u00b234` from its beginning on: `\\u00b23 4`."""
    assert pieces_of(["x\u00b234"], LEVELS)[0] == ["x\u00b234"]


def test_entries_across_the_place_of_a_cut_are_found():
    entries = ["of the", " the", "a1", "x", "\nb", "n\n", "  ", " 's", "", "(("]
    assert find_crossing(entries, 1) == ["of the"]
    assert find_crossing(entries, 2) == ["of the", "\nb"]
    assert find_crossing(entries, 4) == ["of the", "a1", "\nb", "n\n", "  "]
    assert find_crossing(entries, 5) == ["of the", "a1", "\nb", "n\n", "  ", " 's"]
