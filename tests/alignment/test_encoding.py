"""The fast tokenization of much text gives what the tokenizer itself gives; only the tokenizer is the reference."""

import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdkit.alignment.encoding import MAX_PIECES, TextEncoder
from kdkit.alignment.fidelity import find_losses
from kdkit.alignment.pieces import LEVELS
from kdkit.alignment.tokenizers import encode_with_ends

REAL = ["gpt2", "smollm2", "qwen1.5", "bert-base-uncased"]

words = st.text(st.sampled_from(" \n\t\r\u3000\u00a0aZ1\u00b2.,'\"(e\u0301\u4e2d\U0001f600-"), min_size=1, max_size=40)
texts = st.lists(words, max_size=6)
"""Little but spaces, line ends and whatever cutting rules treat apart."""


@pytest.fixture(params=["own", *REAL], scope="module")
def encoder(request):
    if request.param == "own":
        return TextEncoder(request.getfixturevalue("small_pair")[0])
    return TextEncoder(request.getfixturevalue("real_tokenizer")(request.param))


def expect(encoder, some):
    """Tokenize text by text with the tokenizer itself."""
    table = encoder.table
    pairs = [encode_with_ends(encoder.tokenizer, table, text) for text in some]
    ids = [token_id for row, _ in pairs for token_id in row]
    widths = [width for _, ends in pairs for width in np.diff(ends, prepend=0)]
    counts = [len(row) for row, _ in pairs]
    losses = []
    for i, (text, pair) in enumerate(zip(some, pairs, strict=True)):
        losses += [[sum(counts[:i]) + place, *rest] for place, *rest in find_losses(text, *pair, table).tolist()]
    return ids, widths, counts, losses


def check(encoder, some):
    for got, expected in zip(encoder.encode(some), expect(encoder, some), strict=True):
        assert got.tolist() == expected


@settings(max_examples=150, deadline=None)
@given(texts)
def test_any_texts_have_the_tokens_that_the_tokenizer_gives(encoder, some):
    check(encoder, some)


def test_real_text_has_the_tokens_that_the_tokenizer_gives(encoder, documents):
    check(encoder, documents[:60])
    check(encoder, documents[30:60])  # again, from memory


@pytest.mark.parametrize(("name", "is_fast"), [("gpt2", True), ("smollm2", True), ("qwen1.5", True), (REAL[3], False)])
def test_byte_level_tokenizers_are_fast(real_tokenizer, name, is_fast):
    assert TextEncoder(real_tokenizer(name)).is_fast == is_fast


def test_a_tokenizer_with_an_entry_across_words_reads_every_text_whole(small_pair):
    """`of the` as one entry: cut between the words it could never be found."""
    tokenizer = copy.deepcopy(small_pair[0])
    tokenizer.add_tokens(["of the"])
    encoder = TextEncoder(tokenizer)
    assert not encoder.is_fast
    check(encoder, ["one of the best", "of the"])


def test_entries_that_cutting_rules_keep_the_tokenizer_from_using_do_no_harm(real_tokenizer):
    """Qwen's vocabulary holds `<s>`, which its rules cut into three, and runs of spaces, which end before a word."""
    encoder = TextEncoder(real_tokenizer("qwen1.5"))
    assert encoder.level == LEVELS
    check(encoder, ["a <s>b</s>", "x    y", "x\n\n    y", "<unk><s> 1"])


def test_a_superscript_is_no_letter(real_tokenizer):
    """SmolLM2 reads the spaces before `\u00b2` otherwise than those before a letter."""
    check(TextEncoder(real_tokenizer("smollm2")), ["k\n  \u00b2z", "n   \u00b2>", "x\u00b23", "a \u00bd"])


def test_two_encoders_of_one_level_share_the_pieces(real_tokenizer):
    some = ["one text of words, and 12 more", " another"]
    first, second = TextEncoder(real_tokenizer("gpt2")), TextEncoder(real_tokenizer("smollm2"))
    for got, expected in zip(second.encode(some, first.cut(some)), second.encode(some), strict=True):
        assert got.tolist() == expected.tolist()


def test_a_full_memory_is_emptied(small_pair, monkeypatch):
    monkeypatch.setattr("kdkit.alignment.encoding.MAX_PIECES", 10)
    encoder = TextEncoder(small_pair[0])
    for number in range(5):
        check(encoder, [f"text {number} of words {number} and more, all {number} of them new{number}"])
        assert len(encoder._codes) < MAX_PIECES


def test_a_difference_at_the_start_of_the_text_ends_the_short_cut(small_pair):
    encoder = TextEncoder(small_pair[0])
    encoder.encode(["a text"])
    encoder._ids[:] = 0
    encoder.check("a text")
    assert not encoder.is_fast
    check(encoder, ["a text"])
