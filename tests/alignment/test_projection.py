"""The projection of student tokens onto teacher tokens: bytes, weights, special tokens, real vocabularies."""

import time

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from kdkit.alignment.projection import NUM_PIECES, Projection, build_projection
from kdkit.alignment.tokenizers import end_token_id, start_token_id, token_bytes


def byte_level(pieces: list[str], special: tuple[str, ...] = ("<|endoftext|>",), **roles: str):
    """A byte-level tokenizer without merges: it writes single characters, whatever its vocabulary holds."""
    tokenizer = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(special))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **(roles or {"eos_token": special[0]}))


def spell(projection: Projection, table: list[bytes | None]) -> list[bytes]:
    """Put the pieces of each row together."""
    rows = zip(projection.ids.tolist(), number_of_pieces(projection).tolist(), strict=True)
    return [b"".join(table[i] or b"" for i in ids[:count]) for ids, count in rows]


def number_of_pieces(projection: Projection) -> np.ndarray:
    return (projection.weights > 0).sum(axis=1)


def test_rows_have_four_columns_of_falling_weights_that_sum_to_one_or_nothing(small_pair):
    student, teacher = small_pair
    projection = build_projection(student, teacher)
    assert projection.ids.shape == projection.weights.shape == (len(student), NUM_PIECES)
    assert projection.ids.dtype == np.int64 and projection.weights.dtype == np.float32
    assert projection.teacher_size == len(teacher) and projection.ids.max() < len(teacher)
    assert (np.diff(projection.weights, axis=1) <= 0).all()
    sums = projection.weights.sum(axis=1)
    assert np.allclose(sums[sums > 0], 1, atol=1e-6) and (projection.ids[projection.weights == 0] == 0).all()


def test_a_token_that_the_teacher_has_is_itself_with_weight_one(small_pair):
    student, teacher = small_pair
    projection, table = build_projection(student, teacher), token_bytes(teacher)
    checked = 0
    for row, piece in enumerate(token_bytes(student)):
        if piece in table and piece is not None:
            assert projection.is_exact[row] and table[projection.ids[row, 0]] == piece
            assert projection.weights[row].tolist() == [1, 0, 0, 0]
            checked += 1
    assert checked > 250


def test_a_vocabulary_is_projected_onto_itself_by_the_identity(small_pair):
    tokenizer = small_pair[0]
    projection = build_projection(tokenizer, tokenizer)
    assert projection.ids[:, 0].tolist() == list(range(len(tokenizer)))
    assert projection.share_of_exact == projection.share_of_mapped == 1
    assert projection.reachable().all()


def test_the_pieces_of_a_longer_vocabulary_spell_its_tokens_half_characters_too(small_pair):
    teacher, student = small_pair  # the student's vocabulary is the larger one here
    projection, halves = build_projection(student, teacher), 0
    counts, texts = number_of_pieces(projection), spell(projection, token_bytes(teacher))
    for row, piece in enumerate(token_bytes(student)):
        assert not piece or texts[row] == piece or (counts[row] == NUM_PIECES and piece.startswith(texts[row]))
        halves += bool(piece) and not projection.is_exact[row] and "\ufffd" in piece.decode("utf-8", "replace")
    assert (number_of_pieces(projection) > 1).sum() > 50 and halves > 0


def test_pieces_weigh_nine_tenths_of_a_tenth_of_the_one_before_and_four_are_kept():
    student = byte_level(["a", "ab", "abc", "abcd", "abcde"])
    projection = build_projection(student, byte_level(["a", "b", "c", "d", "e"]))
    assert projection.ids[:5].tolist() == [[0, 0, 0, 0], [0, 1, 0, 0], [0, 1, 2, 0], [0, 1, 2, 3], [0, 1, 2, 3]]
    expected = [[0.9, 0, 0, 0], [0.9, 0.09, 0, 0], [0.9, 0.09, 0.009, 0], *[[0.9, 0.09, 0.009, 0.0009]] * 2]
    assert np.allclose(projection.weights[:5], [np.array(row) / sum(row) for row in expected], atol=1e-6)


def test_half_a_character_is_cut_into_the_longest_tokens_that_spell_its_bytes():
    # in GPT-2's table the three bytes e4 b8 ad of a Chinese character are written U+00E4, U+00B8, U+0143
    student = byte_level(
        ["\u00e4", "\u00e4\u00b8", "\u00b8\u0143", "\u00e4\u00b8\u0143", "\u00e4\u00b8\u0143\u00e4\u00b8"]
    )
    projection = build_projection(student, byte_level(["\u00e4\u00b8", "\u0143", "\u00b8", "\u00e4"]))
    pieces = [projection.ids[row, : number_of_pieces(projection)[row]].tolist() for row in range(5)]
    # the whole character is text, so the teacher's tokenizer, which has no merges, has the say
    assert pieces == [[3], [0], [2, 1], [3, 2, 1], [0, 1, 0]]


def test_bytes_that_the_teacher_cannot_write_are_left_out():
    projection = build_projection(byte_level(["z", "az", "za"]), byte_level(["a"]))
    assert number_of_pieces(projection)[:3].tolist() == [0, 1, 0]
    assert projection.share_of_mapped == 0.5  # "az" begins with "a"; the end of text has its partner


def test_special_tokens_are_paired_by_spelling_and_documents_end_together():
    student = byte_level(["a"], ("</s>", "<s>", "<|im_end|>", "<only>"), bos_token="<s>", eos_token="</s>")
    teacher = byte_level(["b", "a"], ("<|im_end|>", "<eot>"), eos_token="<eot>")
    projection = build_projection(student, teacher)
    assert projection.ids[:4, 0].tolist() == [1, 3, 3, 2]
    assert number_of_pieces(projection).tolist() == [1, 1, 1, 1, 0]
    # the teacher starts with its end token, which is the partner of the student's end, not of its start
    students, teachers = projection.partners()
    assert dict(zip(teachers.tolist(), students.tolist(), strict=True)) == {1: 0, 2: 3, 3: 1}


def test_partners_are_one_to_one_and_exact_matches_come_first(small_pair):
    teacher, student = small_pair
    projection = build_projection(student, teacher)
    students, teachers = projection.partners()
    assert len(set(students.tolist())) == len(students) and len(set(teachers.tolist())) == len(teachers)
    assert (projection.ids[students, 0] == teachers).all()
    exact = projection.ids[projection.is_exact, 0]
    assert projection.is_exact[students[np.isin(teachers, exact)]].all()
    assert set(projection.ids[projection.weights[:, 0] >= 0.6, 0].tolist()) == set(teachers.tolist())


def test_of_two_exact_matches_the_later_one_and_of_two_others_the_heavier_one_is_the_partner():
    weights = np.array([[1, 0, 0, 0], [1, 0, 0, 0], [0.9, 0.1, 0, 0], [0.95, 0.05, 0, 0], [0.5, 0.5, 0, 0]], np.float32)
    ids = np.array([[3, 0, 0, 0], [3, 0, 0, 0], [1, 2, 0, 0], [1, 2, 0, 0], [2, 1, 0, 0]])
    projection = Projection(ids, weights, np.array([True, True, False, False, False]), 4)
    students, teachers = projection.partners()
    assert (students.tolist(), teachers.tolist()) == ([3, 1], [1, 3])
    assert projection.partners(0.96)[0].tolist() == [1]
    assert projection.reachable().tolist() == [False, True, True, True]


def test_a_teacher_that_drops_spaces_and_capitals_is_believed():
    vocabulary = {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "hel": 3, "##lo": 4}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    backend.add_special_tokens(["[UNK]", "[CLS]", "[SEP]"])
    teacher = PreTrainedTokenizerFast(tokenizer_object=backend, cls_token="[CLS]", sep_token="[SEP]")
    projection = build_projection(byte_level(["\u0120Hello", "hello", "\u0120x"]), teacher)
    assert projection.ids[:2, :2].tolist() == [[3, 4], [3, 4]]
    assert number_of_pieces(projection)[:3].tolist() == [2, 2, 0]
    assert projection.ids[3, 0] == end_token_id(teacher) == 2


@pytest.mark.parametrize(("student", "teacher"), [("stories260K", "smollm2"), ("smollm2", "stories260K")])
def test_sentencepiece_spaces_and_byte_tokens_are_those_of_byte_level_vocabularies(
    real_tokenizer, real_table, student, teacher
):
    projection = build_projection(real_tokenizer(student), real_tokenizer(teacher))
    counts, texts, lost = number_of_pieces(projection), spell(projection, real_table(teacher)), 0
    for row, piece in enumerate(real_table(student)):
        if piece and counts[row]:
            assert texts[row] == piece or (counts[row] == NUM_PIECES and piece.startswith(texts[row]))
        elif piece:
            # SmolLM has no token for some control characters and for bytes that no UTF-8 text holds
            assert len(piece) == 1 and piece not in real_table(teacher)
            lost += 1
    assert lost < 30


def test_smollm_onto_qwen_takes_seconds_and_maps_nearly_every_token(real_tokenizer, real_table):
    student, teacher = real_tokenizer("smollm2"), real_tokenizer("qwen1.5")
    began = time.perf_counter()
    projection = build_projection(student, teacher)
    seconds = time.perf_counter() - began
    sums = projection.weights.sum(axis=1)
    assert np.allclose(sums[sums > 0], 1, atol=1e-6)
    known = set(real_table("qwen1.5")) - {None}
    exact = [i for i, piece in enumerate(real_table("smollm2")) if piece in known]
    assert (projection.weights[exact, 0] == 1).all() and projection.is_exact[exact].all()
    assert projection.ids[end_token_id(student), 0] == end_token_id(teacher)
    assert projection.ids[start_token_id(student), 0] == start_token_id(teacher)
    print(
        f"smollm2 onto qwen1.5: {seconds:.1f} s, {projection.share_of_exact:.2%} exact, "
        f"{projection.share_of_mapped:.2%} mapped, {projection.reachable().mean():.2%} of the teacher reachable"
    )
    assert seconds < 20
    assert 0.79 < projection.share_of_exact < 0.81 and projection.share_of_mapped > 0.999
