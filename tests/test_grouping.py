"""Groups of tokens that begin with the same text."""

import numpy as np
import pytest

from kdkit.data.grouping import group_tokens
from kdkit.data.tokenizers import encode_with_ends, end_token_id, token_bytes, train_tokenizer
from tests.tiny import WORDS


@pytest.fixture(scope="module")
def pair():
    """A finer and a coarser byte-level tokenizer of the same text."""
    texts = [" ".join(WORDS[i:] + WORDS[:i]) for i in range(len(WORDS))]
    return train_tokenizer(texts, 280), train_tokenizer(texts, 320)


def grouped(student, teacher, student_is_finer):
    return group_tokens(student, teacher, (end_token_id(student), end_token_id(teacher)), student_is_finer)


def test_every_token_of_the_finer_tokenizer_is_its_own_group(pair):
    groups = grouped(*pair, student_is_finer=True)
    assert len(set(groups.student.tolist())) == len(pair[0])
    assert groups.student.min() > 0, "the byte-level vocabulary has text for every id but the end, which has its own"


def test_a_coarser_token_belongs_to_the_first_finer_token_of_its_text(pair):
    fine, coarse = pair
    groups = grouped(fine, coarse, student_is_finer=True)
    table, checked = token_bytes(fine), 0
    for token_id, piece in enumerate(token_bytes(coarse)):
        if piece and piece.isascii():
            first = encode_with_ends(fine, table, piece.decode())[0][0]
            assert groups.teacher[token_id] == groups.student[first]
            checked += 1
    assert checked > 150


def test_every_group_is_a_prefix_of_its_tokens(pair):
    fine, coarse = pair
    groups = grouped(fine, coarse, student_is_finer=True)
    piece_of = {group: piece for group, piece in zip(groups.student.tolist(), token_bytes(fine), strict=True) if piece}
    for group, piece in zip(groups.teacher.tolist(), token_bytes(coarse), strict=True):
        assert piece is None or piece.startswith(piece_of[group])


def test_the_ends_of_documents_share_a_group_of_their_own(pair):
    fine, coarse = pair
    groups = grouped(fine, coarse, student_is_finer=True)
    end = groups.student[end_token_id(fine)]
    assert groups.teacher[end_token_id(coarse)] == end
    assert (groups.student == end).sum() == 1 and (groups.teacher == end).sum() == 1


def test_swapping_the_sides_swaps_the_groups(pair):
    fine, coarse = pair
    one, other = grouped(fine, coarse, student_is_finer=True), grouped(coarse, fine, student_is_finer=False)
    assert np.array_equal(one.student, other.teacher) and np.array_equal(one.teacher, other.student)


def test_only_bytes_that_smollm_cannot_write_are_without_a_group(real_tokenizer):
    student, teacher = real_tokenizer("smollm2"), real_tokenizer("qwen1.5")
    groups = grouped(student, teacher, student_is_finer=True)
    writable = {piece for piece in token_bytes(student) if piece and len(piece) == 1}
    pieces = [
        (group, piece) for group, piece in zip(groups.teacher.tolist(), token_bytes(teacher), strict=True) if piece
    ]
    lost = [piece for group, piece in pieces if group == 0]
    assert len(pieces) > 150_000 and 0 < len(lost) < 30
    assert all(piece[:1] not in writable for piece in lost)
