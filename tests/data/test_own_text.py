"""Windows of what a student wrote: both models read the same text, as far as it is text."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdkit.alignment.bytes import overlap_vocabularies
from kdkit.alignment.tokenizers import encode_with_ends, end_token_id, start_token_id, token_bytes
from kdkit.data.own_text import windows_of_ids
from kdkit.data.packing import pack_windows
from kdkit.data.windows import PAD, Windows

TEXTS = ["Na\u00efve caf\u00e9, \u4e2d\u6587 \U0001f600!\n\n\tx = 1  # end ", " It was.", "1847 \u00fcber \U0001f468"]


class Pair:
    """Two tokenizers with their tables."""

    def __init__(self, student, teacher):
        self.student, self.teacher = student, teacher
        self.tables = token_bytes(student), token_bytes(teacher)
        self.ends = end_token_id(student), end_token_id(teacher)
        self.overlap = overlap_vocabularies(*self.tables, self.ends)

    def read(self, *rows: list[int], same: bool = False) -> Windows:
        return windows_of_ids(list(rows), self.student, self.teacher, self.overlap, same)

    def ids(self, text: str, side: int = 0) -> list[int]:
        return encode_with_ends((self.student, self.teacher)[side], self.tables[side], text)[0]

    def byte(self, value: int) -> int:
        """Return the student's token of a single byte."""
        return self.tables[0].index(bytes([value]))


@pytest.fixture(scope="module")
def pair(small_pair):
    return Pair(*small_pair)


def tokens(ids: np.ndarray) -> list[int]:
    """Return what stands in a row after the start token, without padding."""
    return [int(i) for i in ids[1:] if i != PAD]


def spelled(pair: Pair, ids: list[int], side: int) -> bytes:
    return b"".join(b"|" if i == pair.ends[side] else pair.tables[side][i] for i in ids)


def longest_text(row: list[int], table: list[bytes | None], end: int) -> int:
    """Find by trial how many of the ids are text and ends of documents."""
    for kept in range(len(row), 0, -1):
        pieces = [b"" if i == end else table[i] for i in row[:kept]]
        if None in pieces:
            continue
        documents, current = [], b""
        for i, piece in zip(row[:kept], pieces, strict=True):
            documents, current = ([*documents, current], b"") if i == end else (documents, current + piece)
        try:
            [document.decode() for document in [*documents, current]]
        except UnicodeDecodeError:
            continue
        return kept
    return 0


@pytest.mark.parametrize(("student", "teacher"), [("smollm2", "qwen1.5"), ("gpt2", "smollm2")])
def test_real_text_is_aligned_as_if_it_had_been_packed(real_tokenizer, test_data, student, teacher):
    pair = Pair(real_tokenizer(student), real_tokenizer(teacher))
    documents = [(test_data / "lm" / "wikitext2_valid_raw.txt").read_text(encoding="utf-8")[:4000], *TEXTS]
    packed, lost = pack_windows(documents, pair.student, pair.teacher, pair.overlap, 10_000, 10_000)
    assert (len(packed), lost) == (1, 0)
    written = pair.read(tokens(packed.student_ids[0]))
    for name, expected in vars(packed).items():
        got = getattr(written, name)
        assert np.array_equal(got, expected[:, : got.shape[1]] if expected.ndim == 2 else expected), name
    assert written.same_token.any() and (written.teacher_positions == PAD).any()


def test_every_short_document_is_aligned_as_if_it_had_been_packed(pair, documents):
    packed = [pack_windows([text], pair.student, pair.teacher, pair.overlap, 5000, 5000)[0] for text in documents]
    written = pair.read(*(tokens(windows.student_ids[0]) for windows in packed))
    assert len(written) == len(documents) == 40
    for row, windows in enumerate(packed):
        for name, expected in vars(windows).items():
            got = getattr(written, name)[row]
            if name == "pieces":  # all but the document's number, which counts on
                got, expected = got[0, 1:], expected[:, 0, 1:]
            assert np.array_equal(got, expected[0, : len(got)] if expected.ndim == 2 else expected[0]), name


@given(st.data())
def test_any_ids_are_read_as_far_as_they_are_text(pair, data):
    token_ids = st.one_of(st.integers(0, 299), st.just(pair.ends[0]), st.sampled_from(pair.ids(TEXTS[0])))
    rows = data.draw(st.lists(st.lists(token_ids, max_size=30), max_size=4))
    windows = pair.read(*rows)
    kept = [row[:count] for row in rows if (count := longest_text(row, pair.tables[0], pair.ends[0]))]
    assert [tokens(ids) for ids in windows.student_ids] == kept
    for row, ids in enumerate(kept):
        teacher_ids = tokens(windows.teacher_ids[row])
        assert spelled(pair, teacher_ids, 1) == spelled(pair, ids, 0)
        assert windows.num_bytes[row] == sum(len(pair.tables[0][i]) for i in ids if i != pair.ends[0])
        # positions that have read the same: the bytes before them are the same on both sides
        positions = windows.teacher_positions[row]
        assert positions[0] == 0
        for i in np.flatnonzero(positions != PAD):
            assert spelled(pair, ids[:i], 0) == spelled(pair, teacher_ids[: positions[i]], 1)
    if kept:
        assert set(windows.student_ids[:, 0]) == {start_token_id(pair.student)}
        assert set(windows.teacher_ids[:, 0]) == {start_token_id(pair.teacher)}


def test_half_a_character_at_the_end_is_left_out(pair):
    text = pair.ids("the river ")
    windows = pair.read([*text, *map(pair.byte, "\U0001f60a".encode()[:3])])
    assert tokens(windows.student_ids[0]) == text
    assert windows.num_bytes.tolist() == [len("the river ")]


def test_nothing_is_read_after_half_a_character(pair):
    text, end = pair.ids("the river "), pair.ends[0]
    windows = pair.read([*text, pair.byte(0xE4), *text, end, *text, end], [*text, end])
    assert [tokens(ids) for ids in windows.student_ids] == [text, [*text, end]]


def test_a_character_spelled_in_bytes_is_read_whole(pair):
    text, crab = pair.ids("the river "), [*map(pair.byte, "\U0001f980".encode())]
    windows = pair.read([*text, *crab, *text])
    assert tokens(windows.student_ids[0]) == [*text, *crab, *text]
    assert windows.teacher_positions[0, len(text)] != PAD
    assert spelled(pair, tokens(windows.teacher_ids[0]), 1).decode() == "the river \U0001f980the river "


def test_a_special_token_ends_what_is_read(real_tokenizer):
    pair = Pair(real_tokenizer("smollm2"), real_tokenizer("gpt2"))
    special = pair.student.convert_tokens_to_ids("<|im_start|>")
    assert special not in pair.ends and pair.tables[0][special] is None
    text = pair.ids("Once upon a time")
    windows = pair.read([*text, special, *text], [special, *text])
    assert [tokens(ids) for ids in windows.student_ids] == [text]
    assert tokens(windows.teacher_ids[0]) == pair.ids("Once upon a time", side=1)


def test_end_tokens_separate_documents_on_both_sides(pair):
    first, second, (end, teacher_end) = pair.ids("the river"), pair.ids("a castle"), pair.ends
    windows = pair.read([*first, end, *second, end, end, *first])
    assert tokens(windows.student_ids[0]) == [*first, end, *second, end, end, *first]
    first_teacher, second_teacher = pair.ids("the river", side=1), pair.ids("a castle", side=1)
    expected = [*first_teacher, teacher_end, *second_teacher, teacher_end, teacher_end, *first_teacher]
    assert tokens(windows.teacher_ids[0]) == expected
    # the position before an end predicts it on both sides, and it is the same token
    for place, token_id in enumerate(tokens(windows.student_ids[0])):
        if token_id == end:
            assert windows.same_token[0, place]
            assert expected[windows.teacher_positions[0, place]] == teacher_end


def test_a_document_without_an_end_gets_none(pair):
    windows = pair.read(pair.ids("the river and"))
    assert tokens(windows.teacher_ids[0]) == pair.ids("the river and", side=1)


def test_a_document_that_is_cut_short_gets_no_end(pair):
    text, end = pair.ids("the river"), pair.ends[0]
    windows = pair.read([*text, pair.byte(0xE4), end])
    assert tokens(windows.student_ids[0]) == text
    assert pair.ends[1] not in tokens(windows.teacher_ids[0])


def test_rows_without_text_are_left_out(pair):
    text = pair.ids("the river")
    windows = pair.read([], text, [pair.byte(0xE4)], [pair.byte(0xE4), *text])
    assert [tokens(ids) for ids in windows.student_ids] == [text]


@pytest.mark.parametrize("same", [True, False])
def test_rows_that_all_have_no_text_give_no_windows(pair, same):
    for rows in ([], [[]], [[], []]):
        windows = pair.read(*rows, same=same)
        assert len(windows) == 0
        assert windows.student_ids.shape == windows.teacher_ids.shape == (0, 1)


def test_with_one_tokenizer_the_teacher_reads_the_very_same_ids(small_pair):
    pair = Pair(small_pair[0], small_pair[0])
    # half characters and ends included: nothing has to be read as text
    rows = [[*pair.ids("the river"), pair.byte(0xE4), *pair.ids("castle"), pair.ends[0], 7], [], [pair.byte(0xE4)]]
    windows = pair.read(*rows, same=True)
    assert [tokens(ids) for ids in windows.student_ids] == [tokens(ids) for ids in windows.teacher_ids]
    assert [tokens(ids) for ids in windows.student_ids] == [row for row in rows if row]
    for row, ids in enumerate(windows.student_ids):
        length = int((ids != PAD).sum())
        # the last token predicts nothing
        assert windows.teacher_positions[row].tolist()[: length - 1] == list(range(length - 1))
        assert set(windows.teacher_positions[row].tolist()[length - 1 :]) == {PAD}
        assert windows.same_token[row].tolist()[: length - 1] == [True] * (length - 1)
