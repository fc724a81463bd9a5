"""Tokens of two vocabularies that begin with the same text."""

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from kdkit.alignment.prefixes import group_tokens
from kdkit.alignment.tokenizers import encode_with_ends, end_token_id, token_bytes, train_tokenizer
from tests.tiny import WORDS


@pytest.fixture(scope="module")
def pair():
    """A finer and a coarser byte-level tokenizer of the same text."""
    texts = [" ".join(WORDS[i:] + WORDS[:i]) for i in range(len(WORDS))]
    return train_tokenizer(texts, 280), train_tokenizer(texts, 320)


def test_a_coarser_token_stands_for_the_first_finer_token_of_its_text(pair):
    fine, coarse = pair
    groups, table, checked = group_tokens(fine, coarse), token_bytes(fine), 0
    for token_id, piece in enumerate(token_bytes(coarse)):
        if piece and piece.isascii():
            assert groups[token_id] == encode_with_ends(fine, table, piece.decode())[0][0]
            checked += 1
    assert checked > 150


def test_every_token_begins_with_the_text_it_stands_for(pair):
    fine, coarse = pair
    table = token_bytes(fine)
    for group, piece in zip(group_tokens(fine, coarse).tolist(), token_bytes(coarse), strict=True):
        assert piece is None or piece.startswith(table[group])


def test_a_vocabulary_stands_for_itself(pair):
    fine, _ = pair
    assert group_tokens(fine, fine).tolist() == list(range(len(fine)))


def test_the_ends_of_documents_belong_together_and_to_nothing_else(pair):
    fine, coarse = pair
    groups = group_tokens(fine, coarse).tolist()
    assert [i for i, group in enumerate(groups) if group == end_token_id(fine)] == [end_token_id(coarse)]


def test_only_bytes_that_smollm_cannot_write_stand_for_nothing(real_tokenizer):
    student, teacher = real_tokenizer("smollm2"), real_tokenizer("qwen1.5")
    table, pieces = token_bytes(student), token_bytes(teacher)
    writable = {piece for piece in table if piece and len(piece) == 1}
    lost = [piece for group, piece in zip(group_tokens(student, teacher), pieces, strict=True) if group == len(table)]
    assert 0 < len([piece for piece in lost if piece]) < 30
    assert all(piece is None or piece[:1] not in writable for piece in lost)


def test_a_tokenizer_without_a_token_that_ends_a_text_leaves_the_other_tokens_as_they_are(pair):
    fine, coarse = pair
    without_end = PreTrainedTokenizerFast(tokenizer_object=coarse.backend_tokenizer)
    assert end_token_id(without_end) is None
    ends, groups = end_token_id(coarse), group_tokens(fine, without_end)
    others = np.arange(len(groups)) != ends
    assert np.array_equal(groups[others], group_tokens(fine, coarse)[others])


def test_what_a_sentencepiece_teacher_says_next_is_the_event_of_what_the_student_says_next():
    text = " ".join(WORDS)
    texts = [f"{text}\n{text.title()}, {word}ed and {word}s" for word in WORDS]
    fine, coarse = train_sentencepiece(texts, 90), train_tokenizer(texts, 340)
    groups = group_tokens(fine, coarse).tolist()
    agree = total = 0
    for each in texts:
        (ids, ends), (fine_ids, fine_ends) = (encode_with_ends(t, token_bytes(t), each) for t in (coarse, fine))
        next_of = dict(zip([0, *fine_ends.tolist()], fine_ids, strict=False))
        # the first token of a text has a space on one side only
        for begin, token_id in list(zip([0, *ends.tolist()], ids, strict=False))[1:]:
            if begin in next_of:
                agree, total = agree + (groups[token_id] == next_of[begin]), total + 1
    assert total > 100
    assert agree / total > 0.97


def test_a_real_sentencepiece_teacher_cuts_words_as_within_a_text(real_tokenizer):
    fine, coarse = real_tokenizer("stories260K"), real_tokenizer("gpt2")
    groups, table, pieces = group_tokens(fine, coarse).tolist(), token_bytes(fine), token_bytes(coarse)
    words = [i for i, piece in enumerate(pieces) if piece and piece[:1] == b" " and piece[1:].isalpha()][:1000]
    expected = []
    for i in words:
        ids, ends = encode_with_ends(fine, table, "We" + pieces[i].decode())
        expected.append(ids[ends.tolist().index(2) + 1])
    assert np.mean(np.array(expected) == [groups[i] for i in words]) > 0.99


def train_sentencepiece(texts: list[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a BPE as Llama has it: a space is U+2581, and one is put before every text."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    # trained on words, so that no entry reaches across a space
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=["<unk>", "<s>"], show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.pre_tokenizer = None
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="<s>", unk_token="<unk>")
