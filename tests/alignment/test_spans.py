"""Spans: which rows of both models belong together, worked by hand and on real windows; chunks of whole spans."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdkit.alignment.spans import Spans, chunk_sequences, chunk_spans
from kdkit.alignment.tokenizers import token_bytes
from kdkit.data.batches import WindowCollator, find_spans
from kdkit.data.windows import PAD, Windows
from kdkit.losses.cross_entropy import IGNORE_INDEX, shift_labels
from tests.crossed import cross_data
from tests.tiny import make_config, make_data


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Windows of two tokenizers whose tokens cross."""
    folder = tmp_path_factory.mktemp("spans")
    return cross_data(make_config(folder), folder)


@pytest.fixture(scope="module")
def one_tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    return make_data(make_config(folder, student={"build": {"tokenizer": "teacher"}}), folder)


def make_spans(lengths: list[tuple[int, int]]) -> Spans:
    """Make the spans of one sequence from their student and teacher rows."""
    starts = np.cumsum([(0, 0), *lengths], axis=0)
    students, teachers = torch.from_numpy(starts[:, 0].copy()), torch.from_numpy(starts[:, 1].copy())
    rows = torch.arange(int(students[-1])), torch.arange(int(teachers[-1]))
    same = torch.zeros(len(lengths), dtype=torch.bool)
    return Spans(*rows, students, teachers, same, torch.tensor([0, len(lengths)]))


def test_two_sequences_worked_by_hand():
    # "the cats": the student reads  the| c|ats, the teacher  the| cat|s; " cats" ends together, its pieces do not
    # "a b!":     the student reads  a| b!,     the teacher  a| b|!
    windows = Windows(
        student_ids=np.array([[0, 11, 12, 13, PAD], [0, 14, 15, PAD, PAD]], dtype=np.int32),
        teacher_ids=np.array([[0, 21, 22, 23], [0, 24, 25, 26]], dtype=np.int32),
        teacher_positions=np.array([[0, 1, PAD, PAD, PAD], [0, 1, PAD, PAD, PAD]], dtype=np.int32),
        same_token=np.array([[True, False, False, False, False], [True, False, False, False, False]]),
        num_bytes=np.array([8, 4]),
    )
    spans = find_spans(windows, [1, 0], student_width=4, teacher_width=4)
    # the batch holds "a b!" first: its rows are 0 1 and 0 1 2, those of "the cats" 4 5 6 on both sides
    assert spans.student_rows.tolist() == [0, 1, 4, 5, 6]
    assert spans.teacher_rows.tolist() == [0, 1, 2, 4, 5, 6]
    assert spans.student_starts.tolist() == [0, 1, 2, 3, 5]
    assert spans.teacher_starts.tolist() == [0, 1, 3, 4, 6]
    assert spans.same_token.tolist() == [True, False, True, False]
    assert spans.sequence_starts.tolist() == [0, 2, 4]
    assert spans.student_lengths.tolist() == [1, 1, 1, 2]
    assert spans.span_of_student_rows().tolist() == [0, 1, 2, 3, 3]
    assert spans.span_of_teacher_rows().tolist() == [0, 1, 1, 2, 3, 3]


def test_spans_partition_all_rows_that_predict_a_token(data):
    batch = WindowCollator(data.train, with_teacher=True)([3, 0, 11])
    spans = batch["spans"]
    targets = shift_labels(batch["labels"]).flatten()
    assert spans.student_rows.tolist() == (targets != IGNORE_INDEX).nonzero()[:, 0].tolist()
    num_teacher = [(data.train.teacher_ids[row] != PAD).sum() - 1 for row in (3, 0, 11)]
    width = batch["teacher_input_ids"].shape[1]
    expected = [place * width + i for place, count in enumerate(num_teacher) for i in range(count)]
    assert spans.teacher_rows.tolist() == expected
    for starts, rows in ((spans.student_starts, spans.student_rows), (spans.teacher_starts, spans.teacher_rows)):
        assert starts[0] == 0 and starts[-1] == len(rows)
        assert (starts.diff() >= 1).all(), "every span has a row on either side"
    assert torch.bincount(spans.span_of_student_rows()).tolist() == spans.student_lengths.tolist()
    assert torch.bincount(spans.span_of_teacher_rows()).tolist() == spans.teacher_starts.diff().tolist()
    assert spans.student_lengths.max() > 1 and spans.teacher_starts.diff().max() > 1, "some spans must be longer"


def test_both_sides_of_a_span_predict_the_same_bytes_after_the_same_bytes(data):
    batch = WindowCollator(data.train, with_teacher=True)(list(range(8)))
    spans = batch["spans"]
    sides = []
    for tokenizer, ids, rows, starts in (
        (data.student_tokenizer, batch["input_ids"], spans.student_rows, spans.student_starts),
        (data.teacher_tokenizer, batch["teacher_input_ids"], spans.teacher_rows, spans.teacher_starts),
    ):
        table, predicted = token_bytes(tokenizer), ids.flatten()[rows + 1].tolist()
        pieces = [table[token] or b"<end>" for token in predicted]
        sides.append([b"".join(pieces[a:b]) for a, b in zip(starts.tolist(), starts[1:].tolist(), strict=False)])
    assert sides[0] == sides[1]
    assert len(sides[0]) > 50
    assert any(a > 1 and b > 1 for a, b in zip(spans.student_lengths, spans.teacher_starts.diff(), strict=True))


def test_a_span_of_the_same_token_is_one_row_on_either_side(data):
    batch = WindowCollator(data.train, with_teacher=True)(list(range(8)))
    spans = batch["spans"]
    same = spans.same_token
    assert 0 < same.sum() < len(same)
    assert (spans.student_lengths[same] == 1).all() and (spans.teacher_starts.diff()[same] == 1).all()
    student = batch["input_ids"].flatten()[spans.student_rows[spans.student_starts[:-1][same]] + 1]
    teacher = batch["teacher_input_ids"].flatten()[spans.teacher_rows[spans.teacher_starts[:-1][same]] + 1]
    pairs = set(zip(data.overlap.student_ids.tolist(), data.overlap.teacher_ids.tolist(), strict=True))
    assert set(zip(student.tolist(), teacher.tolist(), strict=True)) <= pairs


def test_with_one_tokenizer_every_row_is_a_span_of_its_own(one_tokenizer):
    spans = WindowCollator(one_tokenizer.train, with_teacher=True)([0, 1, 2])["spans"]
    everything = list(range(len(spans.student_rows) + 1))
    assert spans.student_starts.tolist() == spans.teacher_starts.tolist() == everything
    assert torch.equal(spans.student_rows, spans.teacher_rows)
    assert spans.same_token.all()


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (1, [(0, 1), (1, 3), (3, 4), (4, 5), (5, 6)]),
        (2, [(0, 1), (1, 3), (3, 5), (5, 6)]),
        (3, [(0, 3), (3, 5), (5, 6)]),
        (4, [(0, 4), (4, 6)]),
        (100, [(0, 6)]),
    ],
)
def test_chunks_worked_by_hand(size, expected):
    # student rows 0 | 1 2 | 3 | 4 | 5 and teacher rows 0 | 1 | 2 | 3 | 4 5
    spans = make_spans([(1, 1), (2, 1), (1, 1), (1, 1), (1, 2)])
    assert [(chunk.start, chunk.stop) for chunk in chunk_spans(spans, size)] == expected


@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=30),
    st.integers(1, 12),
)
def test_chunks_are_whole_spans_that_cover_the_rows_and_keep_to_the_size(lengths, size):
    spans = make_spans(lengths)
    chunks = list(chunk_spans(spans, size))
    assert [row for chunk in chunks for row in range(chunk.start, chunk.stop)] == spans.student_rows.tolist()
    starts = {start: number for number, start in enumerate(spans.student_starts.tolist())}
    for chunk in chunks:
        first, last = starts[chunk.start], starts[chunk.stop]
        rows = max(chunk.stop - chunk.start, int(spans.teacher_starts[last] - spans.teacher_starts[first]))
        # a span that is longer than the chunk is a chunk of its own
        assert rows <= size or last == first + 1
        if last < len(lengths):
            longer = [sum(side) for side in zip(*lengths[first : last + 1], strict=True)]
            assert max(longer) > size, "another span would have fitted"


def test_chunks_of_sequences_are_their_rows(data):
    spans = WindowCollator(data.train, with_teacher=True)([3, 0, 11])["spans"]
    chunks = list(chunk_sequences(spans))
    lengths = [int((data.train.student_ids[row] != PAD).sum()) - 1 for row in (3, 0, 11)]
    assert [chunk.stop - chunk.start for chunk in chunks] == lengths
    assert (chunks[0].start, chunks[-1].stop) == (0, len(spans.student_rows))
