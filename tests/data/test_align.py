"""Sequences that begin with documents: `data.align`."""

from itertools import pairwise

import numpy as np
import pytest

from kdkit.config.language import config_from_values
from kdkit.data.packing import cut_groups
from kdkit.data.prepare import build_data, identify_data, text_of_teacher
from kdkit.data.windows import PAD
from tests.tiny import make_config, make_data

ALIGNED = {"align": "documents"}


def documents_of(windows) -> list[list[int]]:
    """Return the numbers of the documents in each window."""
    return [[int(number) for number in row[:, 0] if number != PAD] for row in np.asarray(windows.pieces)]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    folder = tmp_path_factory.mktemp("align")
    return make_data(make_config(folder), folder), make_data(make_config(folder, data=ALIGNED), folder)


def groups_of(*lengths: int) -> tuple[np.ndarray, np.ndarray]:
    """Return groups of one token each, of documents of some lengths, and the document of each."""
    ends = np.arange(1, sum(lengths) + 1)
    return np.column_stack([ends - 1, ends]), np.repeat(np.arange(len(lengths)), lengths)


def test_a_window_ends_before_a_document_that_it_would_cut():
    groups, documents = groups_of(3, 4, 2, 2, 6)
    assert cut_groups(groups, [8], True)[0] == [(0, 8), (8, 16), (16, 17)]
    bounds, dropped, stop = cut_groups(groups, [8], True, documents)
    assert bounds == [(0, 7), (7, 11), (11, 17)] and not dropped and stop == 17


def test_a_document_longer_than_a_window_begins_one_and_goes_on_in_the_next():
    groups, documents = groups_of(2, 20, 3)
    bounds, _, _ = cut_groups(groups, [8], True, documents)
    assert bounds == [(0, 2), (2, 10), (10, 18), (18, 25)]


def test_the_cut_does_not_depend_on_how_much_is_read_at_once():
    groups, documents = groups_of(3, 9, 2, 2, 6, 8, 1, 5)
    whole = cut_groups(groups, [8], True, documents)[0]
    for length in range(1, len(groups)):
        early, _, stop = cut_groups(groups[:length], [8], False, documents[:length])
        late, _, _ = cut_groups(groups[stop:], [8], True, documents[stop:])
        assert early + [(a + stop, b + stop) for a, b in late] == whole


def begins_inside(windows) -> list[bool]:
    """Return of every window but the first whether it begins inside a document whose start is not the one before's."""
    numbers = documents_of(windows)
    return [own[0] == before[-1] and before[0] != own[0] for before, own in pairwise(numbers)]


def test_every_training_sequence_begins_where_a_document_does(both):
    stream, aligned = both
    assert not any(begins_inside(aligned.train))
    assert any(begins_inside(stream.train)), "the text is such that a stream cuts documents"


def test_all_text_is_read_and_held_out_text_is_cut_as_ever(both):
    stream, aligned = both
    assert aligned.train.num_bytes.sum() == stream.train.num_bytes.sum()
    assert aligned.key != stream.key
    for name, array in vars(stream.evaluation).items():
        assert np.array_equal(array, getattr(aligned.evaluation, name)), name


def test_without_it_the_key_of_the_data_stays_and_the_teacher_serves_both(tmp_path):
    plain, aligned = make_config(tmp_path), make_config(tmp_path, data=ALIGNED)
    assert identify_data(plain, "x") != identify_data(aligned, "x")
    assert text_of_teacher(plain) == text_of_teacher(aligned)
    assert identify_data(config_from_values({}), "corpus") == "6b0ad4aa759d0376", "as before there was a choice"
    assert build_data(plain, tmp_path / "cache") == build_data(
        make_config(tmp_path, data={"align": "stream"}), tmp_path / "cache"
    )


def test_several_teachers_read_the_same_cut(tmp_path):
    config = make_config(tmp_path, data=ALIGNED)
    build = config.teacher.build.model_dump()
    members = [{"name": name, "build": build | {"vocab_size": size}} for name, size in (("a", 300), ("b", 340))]
    several = make_data(config_from_values(config.model_dump() | {"teachers": {"members": members}}), tmp_path)
    rows = [several.members[name].train for name in ("a", "b")]
    assert np.array_equal(rows[0].student_ids, rows[1].student_ids)
    assert not any(begins_inside(rows[0]))
