"""Near-copies across the split, against a comparison with plain sets of words."""

import random
import re

import pytest

from kdkit.data.duplicates import MIN_SHINGLES, find_near_copies

WORDS = [f"{first}{second}" for first in "bdfgklmnprst" for second in ("a", "e", "i", "o", "u", "an", "el", "or")]


def write(generator: random.Random, length: int) -> list[str]:
    return [generator.choice(WORDS) for _ in range(length)]


def expected(held_out: list[str], other: str) -> bool:
    """Compare by definition: sets of five words, letters and digits only."""

    def grams(text: str) -> set[tuple[str, ...]]:
        words = re.findall(r"\w+", text.lower())
        return {tuple(words[i : i + 5]) for i in range(max(1, len(words) - 4))}

    for text in held_out:
        first, second = grams(text), grams(other)
        shorter, longer = sorted((len(first), len(second)))
        if len(first & second) >= (longer if shorter < MIN_SHINGLES else 0.3 * shorter):
            return True
    return False


@pytest.mark.parametrize("seed", range(5))
def test_near_copies_are_those_that_the_definition_names(seed):
    generator = random.Random(seed)
    held_out = [" ".join(write(generator, generator.randrange(1, 120))) for _ in range(30)]
    others = []
    for _ in range(200):
        words = generator.choice(held_out).split()
        for _ in range(generator.randrange(0, 1 + len(words) // 6)):  # another word, one more, one less
            place = generator.randrange(len(words))
            words[place : place + generator.randrange(2)] = write(generator, generator.randrange(2))
        before, after = (write(generator, generator.choice((0, 0, 40))) for _ in range(2))
        others.append(" ".join([*before, *words, *after]))
    wanted = [expected(held_out, other) for other in others]
    assert find_near_copies(held_out, others).tolist() == wanted
    assert 40 < sum(wanted) < 190


def test_case_spaces_and_punctuation_make_no_other_text():
    text = "It is a truth universally acknowledged, that a single man must be in want of a wife."
    assert find_near_copies([text], [text.upper().replace(" ", "\n").replace(",", ";"), text[:60]]).tolist() == [1, 0]


def test_texts_without_spaces_are_compared_by_characters():
    text = "".join(chr(0x4E00 + 37 * number) for number in range(200))
    edited = text[:50] + "\u4e01" + text[51:]
    assert find_near_copies([text], [edited, text[::-1]]).tolist() == [True, False]


def test_a_form_that_everybody_fills_in_is_found_without_comparing_all_pairs():
    form = " ".join(write(random.Random(0), 60))
    texts = [f"{form} {number}" for number in range(400)]
    assert find_near_copies(texts[:200], texts[200:]).all()


def test_nothing_held_out_and_nothing_to_compare():
    assert find_near_copies([], ["a text"]).tolist() == [False]
    assert find_near_copies(["a text"], []).tolist() == []
