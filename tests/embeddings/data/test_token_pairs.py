"""Tokens of texts are those that transformers' own call gives, whatever the tokenizer's file says of padding."""

import pytest

from kdkit.alignment import characters
from kdkit.alignment.characters import Ragged, TokenGroups
from kdkit.alignment.tokenizers import train_tokenizer
from kdkit.embeddings.data.token_pairs import align_texts, pair_tokens, tokenize_texts

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


@pytest.mark.parametrize("alignment", ["offsets", "weighted_dtw"])
def test_texts_aligned_chunk_by_chunk_are_aligned_as_at_once(alignment):
    pair = train_tokenizer(TEXTS * 4, 300), train_tokenizer(TEXTS * 4, 270)

    def encode(texts):
        return tuple(tokenize_texts(tokenizer, texts, 64, "") for tokenizer in pair)

    sides = encode(TEXTS)
    whole = pair_tokens(alignment, TEXTS, *sides)
    for chunk in (1, 3):
        parts = align_texts(alignment, TEXTS, tuple(side.ids for side in sides), encode, chunk)
        assert [[part.tolist() for part in parts[row]] for row in range(4)] == [
            [part.tolist() for part in whole[row]] for row in range(4)
        ]
        assert parts.share_aligned == whole.share_aligned > 0


def test_groups_are_counted_in_blocks_of_texts(monkeypatch):
    groups = Ragged.of([[-1, 0, 1, 1], [0], [0, 1], []]), Ragged.of([[0, 1, -1], [0, 0], [1, 0], [-1]])
    found = TokenGroups(*groups, *groups, 1.0)
    whole = found.share_one_to_one()
    assert whole == 3 / 6
    for block in (1, 2, 3):
        monkeypatch.setattr(characters, "COUNTED_TEXTS", block)
        assert found.share_one_to_one() == whole
