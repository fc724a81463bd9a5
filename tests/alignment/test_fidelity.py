"""What a tokenizer loses of a text, against counts made from the text alone."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdkit.alignment.fidelity import CHANGED, UNKNOWN, find_losses
from kdkit.alignment.tokenizers import encode_with_ends, token_bytes, unknown_id
from tests.lossy import train_unigram, train_wordpiece

LATIN = [
    f"{word} stands beside {word[::-1]} and zebra quick jump fox vow" for word in ("apple", "river", "mountain")
] * 9
CHINESE = "\u4e2d\u6587\u672c"
REAL = ["gpt2", "qwen1.5", "smollm2", "stories260K"]


def losses_of(tokenizer, text):
    table = token_bytes(tokenizer)
    ids, ends = encode_with_ends(tokenizer, table, text)
    return find_losses(text, ids, ends, table)


def count(losses, kind):
    return int(losses[losses[:, 2] == kind, 1].sum())


@pytest.fixture(scope="module")
def wordpiece():
    return train_wordpiece(LATIN)


@pytest.fixture(scope="module")
def unigram():
    return train_unigram(LATIN)


@given(words=st.lists(st.text("abcdeimnoprstvw", min_size=1, max_size=6), min_size=1), data=st.data())
@settings(max_examples=60)
def test_lost_spaces_and_capitals_are_counted_byte_by_byte(wordpiece, words, data):
    words = [word.capitalize() if data.draw(st.booleans()) else word for word in words]
    text = (" " * data.draw(st.integers(1, 2))).join(words)
    losses = losses_of(wordpiece, text)
    assert count(losses, CHANGED) == sum(character == " " or character.isupper() for character in text)
    assert count(losses, UNKNOWN) == 0


@given(text=st.text())
@settings(max_examples=60)
def test_a_byte_level_tokenizer_without_a_normaliser_loses_nothing(small_pair, text):
    assert len(losses_of(small_pair[0], text)) == 0


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("text", [" a  b\n\n1999 The", "na\u00efve cafe\u0301 \U0001f9ff", f"{CHINESE} caf\u00e9"])
def test_real_tokenizers_of_causal_models_lose_nothing_of_ordinary_text(real_tokenizer, name, text):
    assert count(losses_of(real_tokenizer(name), text), UNKNOWN) == 0
    assert count(losses_of(real_tokenizer(name), text), CHANGED) == 0


def test_bert_loses_accents_case_and_spaces(real_tokenizer):
    losses = losses_of(real_tokenizer("bert-base-uncased"), "The caf\u00e9")
    # T for t; the space; two bytes of an accented letter for one
    assert count(losses, CHANGED) == 1 + 1 + 2


@given(parts=st.lists(st.sampled_from(["apple", "river", CHINESE, "\u6587", "\U0001f600"]), min_size=1))
@settings(max_examples=60)
def test_unknown_text_is_counted_by_its_bytes(unigram, parts):
    text = " ".join(parts)
    losses = losses_of(unigram, text)
    expected = len("".join(character for character in text if ord(character) > 0x2000).encode())
    # a space before an unknown word may belong to its token
    assert expected <= count(losses, UNKNOWN) <= expected + text.count(" ") + 1
    assert count(losses, CHANGED) == 0


def test_the_unknown_token_is_no_text(unigram, wordpiece, small_pair):
    assert token_bytes(unigram)[unknown_id(unigram)] is None
    assert token_bytes(wordpiece)[unknown_id(wordpiece)] is None
    assert unknown_id(small_pair[0]) is None
