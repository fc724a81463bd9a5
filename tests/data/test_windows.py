from dataclasses import astuple

import numpy as np
import pytest

from kdkit.alignment.bytes import overlap_vocabularies
from kdkit.alignment.tokenizers import end_token_id, start_token_id, token_bytes, train_tokenizer
from kdkit.data.packing import Packer, pack_windows
from kdkit.data.windows import PAD, Windows

END = b"\xff"
"""Stands for the end token below; no UTF-8 text holds this byte."""


class Side:
    """One tokenizer, and how its rows are read back without the code under test."""

    def __init__(self, tokenizer, table=None):
        self.tokenizer = tokenizer
        self.table = table or token_bytes(tokenizer)
        self.start, self.end = start_token_id(tokenizer), end_token_id(tokenizer)

    def pieces(self, row: np.ndarray) -> list[bytes]:
        """Spell a row's tokens as bytes, the start token and the padding aside."""
        assert row[0] == self.start
        length = int((row != PAD).sum())
        assert (row[length:] == PAD).all()
        return [END if token_id == self.end else self.table[token_id] for token_id in row[1:length]]


def pack(documents, student: Side, teacher: Side, max_length: int, teacher_max_length: int) -> tuple[Windows, int]:
    """Pack with the common vocabulary of both sides."""
    overlap = overlap_vocabularies(student.table, teacher.table, (student.end, teacher.end))
    return pack_windows(documents, student.tokenizer, teacher.tokenizer, overlap, max_length, teacher_max_length)


def prefix_at(pieces: list[bytes]) -> dict[bytes, int]:
    """Map what has been read to the position that predicts the next token."""
    return {b"".join(pieces[:i]): i for i in range(len(pieces))}


@pytest.fixture(scope="module", params=["small", "real"])
def packed(request):
    """Documents, both sides, lengths and windows: small tokenizers, or Qwen beside SmolLM."""
    if request.param == "small":
        documents = request.getfixturevalue("documents")
        student, teacher = map(Side, request.getfixturevalue("small_pair"))
    else:
        path = request.getfixturevalue("test_data") / "lm" / "wikitext2_valid_raw.txt"
        documents = [part for part in path.read_text(encoding="utf-8")[:60_000].split("\n") if part.strip()]
        load, table = request.getfixturevalue("real_tokenizer"), request.getfixturevalue("real_table")
        student, teacher = (Side(load(name), table(name)) for name in ("smollm2", "qwen1.5"))
    return documents, student, teacher, (64, 56), *pack(documents, student, teacher, 64, 56)


def rows(packed):
    """Yield each window as pieces of both sides, aligned positions and same-token marks."""
    _, student, teacher, _, windows, _ = packed
    for student_row, teacher_row, positions, same_token, num_bytes in zip(*astuple(windows)[:5], strict=True):
        yield student.pieces(student_row), teacher.pieces(teacher_row), positions, same_token, num_bytes


def test_both_sides_of_a_window_are_the_same_text(packed):
    for student, teacher, *_ in rows(packed):
        assert b"".join(student) == b"".join(teacher) != b""


def test_windows_put_together_are_the_documents(packed):
    documents, *_, lost = packed
    assert lost == 0
    assert b"".join(b"".join(student) for student, *_ in rows(packed)) == b"".join(d.encode() + END for d in documents)


def test_the_bytes_of_windows_are_counted_without_end_tokens(packed):
    for student, _, _, _, num_bytes in rows(packed):
        assert num_bytes == len(b"".join(student).replace(END, b""))


def test_pieces_tell_which_document_each_byte_is_of(packed):
    documents, windows, spelled = packed[0], packed[-2], []
    for (student, teacher, *_), pieces in zip(rows(packed), windows.pieces, strict=True):
        pieces = pieces[pieces[:, 0] != PAD]
        ends = np.append(pieces[1:, 1], len(student)), np.append(pieces[1:, 2], len(teacher))
        for (number, s0, t0, num_bytes), s1, t1 in zip(pieces.tolist(), *ends, strict=True):
            text = b"".join(student[s0:s1])
            assert text == b"".join(teacher[t0:t1])
            assert num_bytes == len(text.replace(END, b""))
            spelled += [b""] * (number + 1 - len(spelled))
            spelled[number] += text
    assert spelled == [document.encode() + END for document in documents]
    assert 1 < windows.pieces.shape[1] < len(documents)


def test_windows_of_which_nobody_knows_the_documents_have_no_pieces():
    assert Windows(*(np.zeros((3, 2), int) for _ in range(4)), np.ones(3)).first(2).pieces.shape == (2, 0, 4)


def test_windows_are_within_both_limits_and_nearly_full(packed):
    *_, lengths, windows, _ = packed
    assert (windows.student_ids.shape[1], windows.teacher_ids.shape[1]) == lengths
    fill = np.maximum((windows.student_ids != PAD).mean(axis=1), (windows.teacher_ids != PAD).mean(axis=1))
    assert (fill[:-1] > 0.7).all()
    assert fill.mean() > 0.9


def test_teacher_positions_are_all_positions_that_have_read_the_same(packed):
    for student, teacher, positions, *_ in rows(packed):
        position_of = prefix_at(teacher)
        expected = [position_of.get(b"".join(student[:i]), PAD) for i in range(len(student))]
        assert positions[: len(student)].tolist() == expected
        assert (positions[len(student) :] == PAD).all()


def test_the_first_position_is_always_comparable(packed):
    assert (packed[-2].teacher_positions[:, 0] == 0).all()


def test_same_token_marks_the_positions_that_predict_the_same_bytes(packed):
    for student, teacher, positions, same_token, _ in rows(packed):
        expected = [p != PAD and teacher[p] == student[i] for i, p in enumerate(positions[: len(student)])]
        assert same_token[: len(student)].tolist() == expected
        assert not same_token[len(student) :].any()


def test_the_description_counts_what_is_there(packed):
    windows = packed[-2]
    everything = list(rows(packed))
    described = windows.describe()
    num_tokens = sum(len(student) for student, *_ in everything)
    assert described["num_windows"] == len(windows) == len(everything)
    assert described["student_tokens"] == num_tokens
    assert described["teacher_tokens"] == sum(len(teacher) for _, teacher, *_ in everything)
    assert described["num_bytes"] == sum(len(document.encode()) for document in packed[0])
    same_prefix = sum((positions != PAD).sum() for _, _, positions, *_ in everything)
    assert described["same_prefix_share"] == pytest.approx(same_prefix / num_tokens)
    same_token = sum(same_token.sum() for *_, same_token, _ in everything)
    assert described["same_token_share"] == pytest.approx(same_token / num_tokens)


def test_packing_is_deterministic(documents, small_pair):
    student, teacher = map(Side, small_pair)
    first, second = (pack(documents, student, teacher, 64, 56)[0] for _ in range(2))
    for one, other in zip(astuple(first), astuple(second), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def test_saved_windows_load_as_the_same(packed, tmp_path):
    windows = packed[-2]
    windows.save(tmp_path / "windows")
    loaded = Windows.load(tmp_path / "windows")
    for name, array in vars(windows).items():
        assert getattr(loaded, name).dtype == array.dtype
        np.testing.assert_array_equal(getattr(loaded, name), array)


@pytest.mark.parametrize(("count", "expected"), [(None, 4), (3, 3), (9, 4)])
def test_the_first_windows_are_taken(documents, small_pair, count, expected):
    student, teacher = map(Side, small_pair)
    windows, _ = pack(documents[:4], student, teacher, 2_000, 2_000)
    windows = Windows(*(np.repeat(array[:1], 4, axis=0) for array in astuple(windows)))
    assert len(windows.first(count)) == len(windows.first(count).student_ids) == expected


@pytest.mark.parametrize("name", ["small", "smollm2"])
def test_with_one_tokenizer_every_position_is_the_same(request, documents, small_pair, name):
    tokenizer = small_pair[0] if name == "small" else request.getfixturevalue("real_tokenizer")(name)
    side = Side(tokenizer)
    windows, lost = pack(documents, side, side, 48, 48)
    length = (windows.student_ids != PAD).sum(axis=1)[:, None] - 1
    place = np.arange(48)
    assert lost == 0
    np.testing.assert_array_equal(windows.student_ids, windows.teacher_ids)
    np.testing.assert_array_equal(windows.teacher_positions, np.where(place < length, place, PAD))
    np.testing.assert_array_equal(windows.same_token, place < length)


@pytest.fixture(scope="module")
def word_and_bytes():
    """A student that reads bytes beside a teacher that reads a long word as one token."""
    word = "internationalization"
    student, teacher = train_tokenizer(["a"], 257), train_tokenizer([f"{word} " * 50], 310)
    assert len(teacher.tokenize(word)) == 1
    return word, Side(student), Side(teacher)


@pytest.mark.parametrize("sides", ["student long", "teacher long"])
def test_a_group_longer_than_a_window_is_left_out_and_counted(word_and_bytes, sides):
    word, student, teacher = word_and_bytes
    lengths = (16, 100)
    if sides == "teacher long":
        student, teacher, lengths = teacher, student, (100, 16)
    windows, lost = pack([f"ab{word}", f"cd, {word}", "ef"], student, teacher, *lengths)
    read = b"".join(b"".join(student.pieces(row)) for row in windows.student_ids)
    assert read == b"".join(b"".join(teacher.pieces(row)) for row in windows.teacher_ids)
    kept = len(read.replace(END, b""))
    assert lost > 0 and lost % 20 in (0, 1)
    assert kept + lost == len(f"ab{word}cd, {word}ef")
    assert windows.num_bytes.sum() == kept


def test_a_group_that_just_fits_is_kept(word_and_bytes):
    word, student, teacher = word_and_bytes
    windows, lost = pack([word], student, teacher, len(word) + 1, 2)
    assert lost == 0
    assert [b"".join(student.pieces(row)) for row in windows.student_ids] == [word.encode(), END]


@pytest.mark.parametrize("texts", [[], [""], ["", ""]])
def test_documents_without_text_give_no_windows(small_pair, texts):
    student, teacher = map(Side, small_pair)
    windows, lost = pack(texts, student, teacher, 16, 32)
    assert (len(windows), lost) == (0, 0)
    assert windows.student_ids.shape == (0, 16) and windows.teacher_ids.shape == (0, 32)
    assert windows.describe()["same_token_share"] == 0.0


def test_windows_on_disk_are_those_in_memory_however_the_text_comes_in(packed, tmp_path, monkeypatch):
    documents, student, teacher, lengths, windows, lost = packed
    overlap = overlap_vocabularies(student.table, teacher.table, (student.end, teacher.end))
    packer = Packer(student.tokenizer, teacher.tokenizer, overlap, *lengths)
    for size in (1, 50, 700):  # a window then holds text of many batches, and a batch a part of a document
        monkeypatch.setattr("kdkit.data.streams.BATCH_CHARACTERS", size)
        described = packer.write(documents, tmp_path / str(size))
        written = Windows.load(tmp_path / str(size))
        for name, expected in vars(windows).items():
            np.testing.assert_array_equal(getattr(written, name), expected, err_msg=name)
        assert described == windows.describe() | {"bytes_left_out": lost}
