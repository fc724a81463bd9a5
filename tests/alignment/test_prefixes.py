"""Tokens of two vocabularies that begin with the same text."""

import numpy as np
import pytest
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
