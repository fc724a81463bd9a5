"""How much of the problems that models are judged on stands in what they were trained on."""

import re
from collections.abc import Sequence
from typing import Any

from kdkit.data.text.duplicates import copy_rate, find_near_copies, ngrams

WORDS = 13
"""Words in a row that make a copy of a long problem, as GPT-3 and the Llama models were examined with."""
NUMBER = re.compile(r"\d+(?:\.\d+)?")


def measure_contamination(statements: Sequence[str], training: Sequence[str]) -> dict[str, Any]:
    """Compare problems with training texts.

    Args:
        statements: of the problems that models are judged on.
        training: of the training problems, or other texts.

    Returns:
        `training_texts`: how many; and shares of the problems: `same_text` (case and spaces aside), `same_numbers` (all
        numbers, in the same order, in words that are the same but for single letters, `f` and `g`: see `_skeleton`),
        `only_numbers` (the numbers alone, whatever the words; of problems with three numbers or more),
        `near_copies` (see `find_near_copies`), and `ngrams`: mean share of their 13-grams of words that stand there, of
        the `ngram_problems` problems that are so long.
    """
    if not training:
        return {"training_texts": 0}
    known = {" ".join(text.lower().split()) for text in training}
    numbers = {_numbers(text) for text in training}
    with_numbers = {(_skeleton(text), _numbers(text)) for text in training}
    grams = ngrams(training, WORDS)
    is_long = [text for text in statements if len(ngrams(text, WORDS))]
    rates = [copy_rate(text, grams, WORDS) for text in is_long]
    many = [text for text in statements if len(_numbers(text)) >= 3]
    return {
        "training_texts": len(training),
        "same_text": _share([" ".join(text.lower().split()) in known for text in statements]),
        "same_numbers": _share([(_skeleton(text), _numbers(text)) in with_numbers for text in statements]),
        "only_numbers": _share([_numbers(text) in numbers for text in many]),
        "near_copies": _share(find_near_copies(training, statements).tolist()),
        "ngrams": sum(rates) / len(rates) if rates else None,
        "ngram_problems": len(is_long),
    }


def _numbers(text: str) -> tuple[str, ...]:
    """Return the numbers of a text, in their order."""
    return tuple(NUMBER.findall(text))


def _skeleton(text: str) -> str:
    """Return a text without its spaces and the punctuation of sentences, all numbers alike and all single letters."""
    alike = re.sub(r"(?<![A-Za-z\\])[A-Za-z](?![A-Za-z])", "@", NUMBER.sub("#", text))
    return re.sub(r"[\s.,:;$?!]", "", alike).lower()


def _share(hits: Sequence[bool]) -> float | None:
    return sum(hits) / len(hits) if hits else None
