import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kdkit.alignment.bytes import align_ends, overlap_vocabularies
from kdkit.alignment.tokenizers import encode_with_ends


@st.composite
def two_partitions(draw) -> tuple[list[int], list[int]]:
    """Draw the ends of two tokenizations of the same bytes; tokens of no bytes are among them."""
    length = draw(st.integers(0, 30))
    cuts = st.lists(st.integers(0, length), max_size=25)
    return sorted([*draw(cuts), length]), sorted([*draw(cuts), length])


def walk_groups(first: list[int], second: list[int]) -> list[tuple[int, int, int, int]]:
    """Align by walking both lists, the one that is behind first; slow and plain."""
    groups = []
    i = j = first_start = second_start = 0
    while i < len(first) and j < len(second):
        if first[i] < second[j]:
            i += 1
        elif first[i] > second[j]:
            j += 1
        else:
            position = first[i]
            while i < len(first) and first[i] == position:
                i += 1
            while j < len(second) and second[j] == position:
                j += 1
            if position > 0:
                groups.append((first_start, i, second_start, j))
                first_start, second_start = i, j
    return groups


def align(first: list[int], second: list[int]) -> list[tuple[int, int, int, int]]:
    """Call `align_ends` with lists and return its rows."""
    groups = align_ends(np.array(first, dtype=np.int64), np.array(second, dtype=np.int64))
    assert groups.dtype == np.int64 and groups.shape[1:] == (4,)
    return [tuple(group) for group in groups.tolist()]


def test_a_hand_worked_example_is_aligned():
    # "un|believ|able| news" beside "unbeliev|ab|le| |news"
    assert align([2, 8, 12, 17], [8, 10, 12, 13, 17]) == [(0, 2, 0, 1), (2, 3, 1, 3), (3, 4, 3, 5)]


def test_equal_tokens_are_groups_of_one():
    assert align([1, 4, 9], [1, 4, 9]) == [(0, 1, 0, 1), (1, 2, 1, 2), (2, 3, 2, 3)]


def test_tokens_of_no_bytes_belong_to_the_token_before_them():
    # at the start there is none before them, so the first group takes them
    assert align([0, 2, 2, 5], [2, 5, 5]) == [(0, 3, 0, 1), (3, 4, 1, 3)]


@pytest.mark.parametrize(("first", "second"), [([], []), ([], [3]), ([0, 0], [0]), ([3], [])])
def test_without_common_bytes_there_are_no_groups(first, second):
    assert align(first, second) == []


def test_bytes_that_only_one_side_covers_are_in_no_group():
    assert align([2, 4], [2, 4, 6]) == [(0, 1, 0, 1), (1, 2, 1, 2)]


@given(two_partitions())
@example(([0, 0, 3, 3], [0, 3]))
def test_the_groups_are_those_of_a_slow_walk(ends):
    assert align(*ends) == walk_groups(*ends)


@given(two_partitions())
def test_groups_follow_each_other_and_have_no_empty_side(ends):
    groups = align(*ends)
    stops = (0, 0)
    for first_start, first_stop, second_start, second_stop in groups:
        assert (first_start, second_start) == stops
        assert first_start < first_stop and second_start < second_stop
        stops = first_stop, second_stop
    assert not groups or stops == (len(ends[0]), len(ends[1]))


@given(two_partitions())
def test_exchanging_the_sides_exchanges_the_columns(ends):
    first, second = ends
    assert align(second, first) == [(c, d, a, b) for a, b, c, d in align(first, second)]


def test_qwen_and_smollm_groups_cover_the_same_bytes_of_a_real_text(test_data, real_tokenizer, real_table):
    text = (test_data / "lm" / "wikitext2_valid_raw.txt").read_text(encoding="utf-8")[:20_000]
    sides = []
    for name in ("qwen1.5", "smollm2"):
        table = real_table(name)
        ids, ends = encode_with_ends(real_tokenizer(name), table, text)
        sides.append(([table[token_id] for token_id in ids], ends))
    (first, first_ends), (second, second_ends) = sides
    groups = align_ends(first_ends, second_ends)
    assert groups[-1].tolist()[1::2] == [len(first), len(second)]
    for a, b, c, d in groups:
        assert b"".join(first[a:b]) == b"".join(second[c:d])
        ends = [set(np.cumsum([len(piece) for piece in side])) for side in (first[a:b], second[c:d])]
        assert len(ends[0] & ends[1]) == 1, "the group could be cut"


def test_ids_of_the_same_bytes_are_paired():
    overlap = overlap_vocabularies([None, b"a", b"bc", b"d", b""], [b"bc", None, b"x", b"a", b""])
    assert list(zip(overlap.student_ids, overlap.teacher_ids, strict=True)) == [(1, 3), (2, 0)]
    assert (overlap.student_size, overlap.teacher_size) == (5, 5)
    assert overlap.share_of_student == overlap.share_of_teacher == 0.4


def test_special_tokens_are_not_paired_but_for_the_ends():
    tables = [None, None, b"a"], [None, b"a", None, None]
    assert overlap_vocabularies(*tables).student_ids.tolist() == [2]
    with_ends = overlap_vocabularies(*tables, end_ids=(1, 3))
    assert set(zip(with_ends.student_ids.tolist(), with_ends.teacher_ids.tolist(), strict=True)) == {(2, 1), (1, 3)}


def test_an_ordinary_piece_is_paired_before_a_byte_of_the_same_spelling():
    overlap = overlap_vocabularies([b"A"], [b"A", b"B", b"A"])
    assert (overlap.student_ids.tolist(), overlap.teacher_ids.tolist()) == ([0], [2])


def test_vocabularies_may_have_nothing_in_common():
    overlap = overlap_vocabularies([b"a", None], [b"b"])
    assert len(overlap.student_ids) == len(overlap.teacher_ids) == 0
    assert overlap.share_of_student == 0.0


@pytest.mark.parametrize(
    ("student", "teacher", "common", "share"),
    [("smollm2", "qwen1.5", 39_234, 0.798), ("smollm2", "gpt2", 36_960, 0.752)],
)
def test_real_vocabularies_share_most_tokens(real_table, student, teacher, common, share):
    tables = real_table(student), real_table(teacher)
    overlap = overlap_vocabularies(*tables)
    assert len(overlap.student_ids) == len(set(overlap.student_ids)) == len(set(overlap.teacher_ids)) == common
    assert overlap.share_of_student == pytest.approx(share, abs=5e-4)
    assert len(overlap_vocabularies(*tables, end_ids=(2, 0)).student_ids) == common + 1
