"""Tokens of texts are those that transformers' own call gives, whatever the tokenizer's file says of padding."""

import pytest

from kdkit.alignment.tokenizers import train_tokenizer
from kdkit.embeddings.data.token_pairs import tokenize_texts

TEXTS = ["a sentence of some words", "", "one more, which is longer than the others by far, as it goes on", "an end"]


@pytest.mark.parametrize("with_offsets", [True, False])
@pytest.mark.parametrize("max_length", [5, 64])
@pytest.mark.parametrize("prompt", ["", "query: "])
def test_ids_and_offsets_are_those_of_transformers(prompt, max_length, with_offsets):
    tokenizer = train_tokenizer(TEXTS * 4, 300)
    wanted = tokenizer(
        [prompt + text for text in TEXTS], truncation=True, max_length=max_length, return_offsets_mapping=True
    )
    tokenizer.backend_tokenizer.enable_padding(length=128)
    tokenizer.backend_tokenizer.enable_truncation(3)
    found = tokenize_texts(tokenizer, TEXTS, max_length, prompt, with_offsets)
    assert [ids.tolist() for ids in found.ids] == wanted["input_ids"]
    assert tokenizer.backend_tokenizer.truncation is None and tokenizer.backend_tokenizer.padding is None
    for spans, pairs in zip(found.offsets, wanted["offset_mapping"], strict=with_offsets):
        assert spans.tolist() == [[max(0, end - len(prompt)) for end in pair] for pair in pairs]
