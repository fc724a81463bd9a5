"""Counts of a text agree with counting its tokens one by one."""

from collections import Counter
from itertools import chain

import pytest

from kdkit.alignment.tokenizers import token_bytes, train_tokenizer
from kdkit.data.tokenizer.usage import count_tokens, first_of
from tests.lossy import train_wordpiece

TEXTS = ["The river took the letter.", "", "caf\u00e9 \u4e2d\u6587 \U0001f600!", " the the\n\nthe"]


@pytest.fixture(scope="module")
def tokenizer(documents):
    return train_tokenizer(documents, 300)


def test_tokens_are_counted_as_the_tokenizer_makes_them(tokenizer):
    use = count_tokens(tokenizer, iter(TEXTS))
    rows = [tokenizer(text, add_special_tokens=False).input_ids for text in TEXTS]
    assert dict(enumerate(use.counts.tolist())) == dict.fromkeys(range(300), 0) | Counter(chain(*rows))
    size = len("".join(TEXTS).encode())
    assert (use.num_texts, use.num_bytes, use.num_words) == (3, size, 11)
    assert use.bytes_per_token == pytest.approx(size / sum(map(len, rows)))


def test_tokens_that_end_inside_a_character_are_counted(tokenizer):
    table, expected = token_bytes(tokenizer), 0
    for text in TEXTS:
        read = b""
        for token in tokenizer(text, add_special_tokens=False).input_ids:
            read += table[token]
            try:
                read.decode()
            except UnicodeDecodeError:
                expected += 1
    assert count_tokens(tokenizer, TEXTS).inner_tokens == expected > 0


def test_the_most_and_the_least_used_are_what_was_counted(tokenizer):
    use = count_tokens(tokenizer, ["the the the river"])
    table = token_bytes(tokenizer)
    pieces = Counter(table[i] for i in tokenizer("the the the river", add_special_tokens=False).input_ids)
    assert dict(use.most_used(99)) == pieces == dict(use.rarest(99))
    assert use.most_used(99)[0][1] == max(pieces.values()) and use.rarest(99)[0][1] == min(pieces.values())
    assert use.never_used == 299 - len(pieces)  # without <|endoftext|>


def test_what_is_unknown_or_changed_is_counted_in_bytes(documents):
    use = count_tokens(train_wordpiece(documents), ["The \U0001f9ff river"])
    assert use.unknown_bytes == 5  # the space before it is lost with it
    assert use.changed_bytes >= 1 and use.describe()["unknown_share"] == 5 / 14


def test_no_text_has_no_tokens(tokenizer):
    use = count_tokens(tokenizer, [])
    assert (use.num_tokens, use.bytes_per_token, use.most_used(3), use.rarest(3)) == (0, 0.0, [], [])


@pytest.mark.parametrize(("size", "expected"), [(0, []), (1, ["a"]), (3, ["ab", "c"]), (4, ["ab", "c"]), (99, None)])
def test_the_first_bytes_of_texts_end_at_a_character(size, expected):
    texts = ["ab", "c\u4e2d", "d"]
    assert first_of(texts, size) == (texts if expected is None else expected)
