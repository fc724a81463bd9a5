"""A BPE with fewer merges is the one that training with a smaller vocabulary gives."""

import pytest

from kdkit.alignment.tokenizers import train_tokenizer
from kdkit.data.tokenizer.merges import cut_text, has_merges, list_merges, merge_steps, shorten, step_sizes
from kdkit.errors import UserError
from tests.lossy import train_unigram


@pytest.fixture(scope="module")
def tokenizer(documents):
    return train_tokenizer(documents, 400)


@pytest.mark.parametrize("vocab_size", [257, 258, 300, 399, 400])
def test_the_first_merges_are_those_of_a_smaller_training(tokenizer, documents, vocab_size):
    expected = train_tokenizer(documents, vocab_size)
    found = shorten(tokenizer, vocab_size)
    assert found.backend_tokenizer.to_str() == expected.backend_tokenizer.to_str()
    assert (found.eos_token, len(found)) == (expected.eos_token, vocab_size)


def test_two_pairs_that_spell_the_same_entry_count_once():
    words = ["abc " * 9, "bcd " * 9, "abcd " * 8, "xab cdx " * 7]
    tokenizer = train_tokenizer(words, 275)
    pieces = [merge.piece for merge in list_merges(tokenizer)]
    for vocab_size in range(257, len(tokenizer)):
        assert shorten(tokenizer, vocab_size).get_vocab() == train_tokenizer(words, vocab_size).get_vocab()
    assert len(pieces) >= len(set(pieces))


@pytest.mark.parametrize("text", ["", "The river, l\u00e0!", "\u4e2d\u6587 \U0001f600"])
def test_the_steps_of_a_text_join_to_it_and_grow_shorter(tokenizer, text):
    sizes = step_sizes(tokenizer, 5)
    steps = merge_steps(tokenizer, text, sizes)
    assert [step["merges"] for step in steps] == [size - 257 for size in sizes]
    lengths = [len(step["tokens"]) for step in steps]
    assert lengths == sorted(lengths, reverse=True) and lengths[0] == len(text.encode())
    assert all("".join(step["tokens"]) == text.encode().hex() for step in steps)


def test_steps_go_from_no_merge_to_all(tokenizer):
    sizes = step_sizes(tokenizer, 5)
    assert sizes[0] == 257 and sizes[-1] == 400 and sizes == sorted(set(sizes)) and len(sizes) == 5


def test_a_tokenizer_without_merges_is_refused(documents):
    unigram = train_unigram(documents)
    assert not has_merges(unigram)
    with pytest.raises(UserError, match="expected a byte-pair encoding, whose merges have an order, got Unigram"):
        list_merges(unigram)


def test_a_real_tokenizer_has_merges_that_can_be_taken_away(real_tokenizer):
    gpt2 = real_tokenizer("gpt2")
    shorter = shorten(gpt2, 1000)
    assert len(list_merges(gpt2)) == 50_000 and len(shorter.get_vocab()) == 1000
    assert cut_text(gpt2, " the river") == [b" the", b" river"]
    assert b"".join(cut_text(shorter, " the river")) == b" the river" and len(cut_text(shorter, " the river")) > 2
