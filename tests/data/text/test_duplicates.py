"""Near-copies across the split, against a comparison with plain sets of words."""

import random
import re
from collections import Counter

import pytest

from kdkit.data.text.duplicates import MAX_OWNERS, MIN_SHINGLES, copy_rate, find_near_copies, ngrams

WORDS = [f"{first}{second}" for first in "bdfgklmnprst" for second in ("a", "e", "i", "o", "u", "an", "el", "or")]


def write(generator: random.Random, length: int) -> list[str]:
    return [generator.choice(WORDS) for _ in range(length)]


def grams(text: str) -> set[tuple[str, ...]]:
    """Return the sets of five words, letters and digits only."""
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + 5]) for i in range(max(1, len(words) - 4))}


def expected(held_out: list[str], other: str) -> bool:
    """Compare by definition."""
    counts = Counter(gram for text in held_out for gram in grams(text))
    forms = {gram for gram, count in counts.items() if count > MAX_OWNERS}
    for text in held_out:
        first, second = grams(text) - forms, grams(other) - forms
        shorter, longer = sorted((len(first), len(second)))
        share = 0.8 if longer > 3 * shorter else 0.4
        if first & second and len(first & second) >= (longer if shorter < MIN_SHINGLES else share * shorter):
            return True
    return False


@pytest.mark.parametrize("seed", range(5))
def test_near_copies_are_those_that_the_definition_names(seed):
    generator = random.Random(seed)
    form = " ".join(write(generator, 20))
    held_out = [" ".join(write(generator, generator.randrange(1, 120))) for _ in range(30)]
    held_out[:10] = [f"{form} {text}" for text in held_out[:10]]
    others = []
    for _ in range(200):
        words = generator.choice(held_out).split()
        for _ in range(generator.randrange(0, 1 + len(words) // 6)):  # another word, one more, one less
            place = generator.randrange(len(words))
            words[place : place + generator.randrange(2)] = write(generator, generator.randrange(2))
        before, after = (write(generator, generator.choice((0, 0, 40, 150))) for _ in range(2))
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


def test_what_many_share_is_a_form_and_makes_no_copy():
    generator = random.Random(0)
    form = " ".join(write(generator, 60))
    texts = [f"{form} {' '.join(write(generator, 40))} {form}" for _ in range(40)]
    copies = [text.upper() for text in texts[:10]]
    assert find_near_copies(texts[:20], [*texts[20:], *copies]).tolist() == [False] * 20 + [True] * 10
    assert not find_near_copies([form] * 20, [form]).any()


def test_nothing_held_out_and_nothing_to_compare():
    assert find_near_copies([], ["a text"]).tolist() == [False]
    assert find_near_copies(["a text"], []).tolist() == []


def copied_by_sets(text: str, sources: list[str], n: int) -> float:
    """Compute the copy rate by definition."""
    cut = [[tuple(words[i : i + n]) for i in range(len(words) - n + 1)] for words in map(str.split, [text, *sources])]
    known = {gram for grams in cut[1:] for gram in grams}
    return sum(gram in known for gram in cut[0]) / len(cut[0]) if cut[0] else 0.0


@pytest.mark.parametrize("n", [1, 3, 5, 8])
def test_the_copy_rate_is_the_share_of_word_ngrams_that_stand_in_a_source(n):
    generator = random.Random(n)
    sources = [" ".join(write(generator, 60)) for _ in range(5)]
    known = ngrams(sources, n)
    for size in (0, 2, 7, 20, 60):
        own = write(generator, 30)
        text = " ".join(own[:size] + sources[size % 5].split()[5 : 5 + size] + own[size:])
        rate = copied_by_sets(text, sources, n)
        assert copy_rate(text, sources, n) == copy_rate(text, known, n) == pytest.approx(rate)
        assert (rate > 0) == (size >= n) or n == 1


def test_the_copy_rate_knows_no_case_and_no_punctuation():
    assert copy_rate("The QUICK brown, fox - jumps!", "see: the quick (brown) fox jumps", 5) == 1.0
    assert copy_rate("the quick brown fox", "the quick brown fox", 5) == 0.0  # fewer than five words
    assert copy_rate("the quick brown fox jumps", [], 5) == 0.0
