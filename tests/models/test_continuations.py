"""Openings that every model continues, in any script."""

import pytest

from kdkit.models.continuations import choose_prompts

CHINESE = (
    "\u5f88\u4e45\u4ee5\u524d\uff0c\u6709\u4e00\u4e2a\u5c0f\u6751\u5e84\u3002\u6751\u91cc\u4f4f\u7740\u4e00\u4f4d\u8001\u4eba\uff0c\u4ed6\u6709\u4e00\u53ea\u732b\u548c\u4e24\u53ea\u72d7\u3002"
    * 3
)
THAI = (
    "\u0e01\u0e32\u0e25\u0e04\u0e23\u0e31\u0e49\u0e07\u0e2b\u0e19\u0e36\u0e48\u0e07\u0e19\u0e32\u0e19\u0e21\u0e32\u0e41\u0e25\u0e49\u0e27"
    * 3
)


@pytest.mark.parametrize("text", [CHINESE, THAI, "word\n" * 60, "a-b,c;d" * 20], ids=["Han", "Thai", "lines", "signs"])
def test_texts_without_spaces_are_continued(text):
    (prompt,) = choose_prompts([text], 4, 24)
    assert text.startswith(prompt)
    assert 10 < len(prompt) < len(text) - 10


def test_one_character_of_a_script_without_spaces_is_a_word():
    assert choose_prompts(["\u5f88\u4e45\u4ee5\u524d\uff0c\u6709\u4e00\u4e2a"], 1, 5) == [
        "\u5f88\u4e45\u4ee5\u524d\uff0c\u6709"
    ]


def test_short_texts_are_continued_from_their_middle():
    assert choose_prompts(["one two", "x", "three four"], 4, 24) == ["one", "three"]
    assert choose_prompts([], 4, 24) == []


def test_texts_with_spaces_are_cut_as_ever():
    texts = ["one two", CHINESE, "a b  c d", "e f g h"]
    assert choose_prompts(texts, 4, 3) == ["a b ", "e f g"]
