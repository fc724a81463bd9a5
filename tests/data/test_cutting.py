"""Windows cut into pieces: all of the text, in both models' tokens, aligned as before."""

from itertools import chain

import numpy as np
import pytest

from kdkit.data.batches import WindowCollator
from kdkit.data.cutting import cut_windows
from kdkit.data.windows import PAD
from tests.tiny import make_config, make_data


@pytest.fixture(scope="module")
def windows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cutting")
    return make_data(make_config(folder), folder).train


def tokens(ids: np.ndarray) -> list[int]:
    """Return the tokens of a row, without the start token."""
    return ids[ids != PAD][1:].tolist()


@pytest.mark.parametrize("length", [8, 11, 16, 23])
def test_the_pieces_of_a_window_are_its_text_in_both_tokenizers(windows, length):
    pieces, origins = cut_windows(windows, length)
    assert (np.diff(origins) >= 0).all() and set(origins) == set(range(len(windows)))
    for ids, own in ((windows.student_ids, pieces.student_ids), (windows.teacher_ids, pieces.teacher_ids)):
        for number in range(len(windows)):
            mine = [own[row] for row in np.flatnonzero(origins == number)]
            assert list(chain(*map(tokens, mine))) == tokens(ids[number])
            assert {row[0] for row in mine} == {ids[number, 0]}, "each begins with the start token"
    lengths = (pieces.student_ids != PAD).sum(axis=1)
    assert lengths.max() <= length and (lengths > 1).all()
    assert (lengths.max() - lengths[:-1].min()) < length, "about equal"


def test_pieces_are_aligned_where_the_windows_are(windows):
    pieces, origins = cut_windows(windows, 10)
    batch = WindowCollator(windows, with_teacher=True)(list(range(len(windows))))
    cut = WindowCollator(pieces, with_teacher=True)(list(range(len(pieces))))
    whole, parts = batch["spans"], cut["spans"]
    assert len(parts.same_token) == len(whole.same_token)
    assert parts.same_token.tolist() == whole.same_token.tolist()
    assert parts.student_starts.diff().tolist() == whole.student_starts.diff().tolist()
    assert parts.teacher_starts.diff().tolist() == whole.teacher_starts.diff().tolist()
    assert batch["counted"].sum() == cut["counted"].sum()
    assert len(origins) == len(pieces)


def test_a_length_that_all_have_changes_nothing(windows):
    pieces, origins = cut_windows(windows, windows.student_ids.shape[1])
    assert origins.tolist() == list(range(len(windows)))
    assert np.array_equal(pieces.student_ids, windows.student_ids[:, : pieces.student_ids.shape[1]])
    places = pieces.teacher_positions != PAD
    assert np.array_equal(
        pieces.teacher_positions[places], np.asarray(windows.teacher_positions)[:, : places.shape[1]][places]
    )
