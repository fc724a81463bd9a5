"""What makes one of a teacher's answers better than another: a known answer, a reference, or the teacher itself."""

import inspect
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from kdkit.config.teacher import TEACHER_LOGPROB
from kdkit.errors import UserError
from kdkit.machine.user_code import find_user_function, is_user_code
from kdkit.maths.checking.verdicts import Verdict
from kdkit.runs.folder import fingerprint, fingerprint_files

NUMBER = re.compile(r"-?(?:\d[\d,]*\.?\d*|\.\d+)")
MARKED = "####"
"""Stands before the final answer in GSM8K."""
TOLERANCE = 1e-6
"""Relative, between numbers that count as equal."""
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_SIGNS = re.compile(r"[^\w\s]|_")
_WORD = re.compile("[a-z0-9]+")


@dataclass(frozen=True)
class Candidate:
    """One of a teacher's answers, and what it answers."""

    prompt: Sequence[dict[str, str]]
    """Messages with `role` and `content`, the last one the user's."""
    answer: str
    reference: str
    """The answer that the data gives."""
    logprob: float
    """Mean log-probability of the answer's tokens under the teacher, in nats; NaN where nobody asked."""


Scorer = Callable[[Candidate], float | Verdict]
"""A verdict counts 1 where it is right, and 0 else."""


def make_scorer(name: str) -> Scorer:
    """Return what a value of `sampling.scorer` means: from a candidate to a number, larger is better.

    A scorer of the user's own, `python:module:function`, is called with the prompt's messages, the answer and the
    reference.

    Raises:
        UserError: see `find_user_function`.
    """
    if is_user_code(name):
        function = find_user_function(name, "sampling.scorer")
        return lambda each: function(list(each.prompt), each.answer, each.reference)
    if name == "rouge_l":
        rouge = _make_rouge()
        return lambda each: rouge(each.reference, each.answer)
    known: dict[str, Scorer] = {
        TEACHER_LOGPROB: lambda each: each.logprob,
        "exact_match": lambda each: float(each.answer.strip() == each.reference.strip()),
        "normalised_match": lambda each: float(normalise(each.answer) == normalise(each.reference)),
        "numeric_match": lambda each: float(same_number(each.answer, each.reference)),
    }
    return known[name]


def identify_scorer(name: str) -> str:
    """Return what scores are known by: the name, and for a scorer of the user's own the text of its file."""
    if not is_user_code(name):
        return name
    function = find_user_function(name, "sampling.scorer")
    file = Path(function.__code__.co_filename) if inspect.isfunction(function) else Path()
    return fingerprint(name, fingerprint_files(file) if file.is_file() else "")


def score(scorer: Scorer, candidate: Candidate, name: str, number: int) -> tuple[float, Verdict | None]:
    """Score a candidate; return the score, and the verdict where it is made of one.

    Args:
        name: of the scorer, for messages.
        number: of the prompt, for messages.

    Raises:
        UserError: the scorer raises, or returns something that is no finite number.
    """
    wanted = f"sampling.scorer: expected a finite number from {name!r} for prompt {number}, got"
    answer = " ".join(candidate.answer.split())[:60]
    try:
        value: Any = scorer(candidate)
        verdict = value if isinstance(value, Verdict) else None
        number_of_it = float(value if verdict is None else verdict is Verdict.RIGHT)
    except Exception as error:  # whatever the user's own scorer raises
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{wanted} {type(error).__name__}: {reason} (answer: {answer!r}); correct the scorer"
        ) from error
    if not math.isfinite(number_of_it):
        raise UserError(f"{wanted} {number_of_it} (answer: {answer!r}); correct the scorer")
    return number_of_it, verdict


def normalise(text: str) -> str:
    """Return a text in lower case without punctuation, articles and repeated spaces.

    Source: the answers of SQuAD are compared so (Rajpurkar et al. 2016, arXiv:1606.05250).
    """
    return " ".join(_ARTICLES.sub(" ", _SIGNS.sub(" ", text.casefold())).split())


def same_number(answer: str, reference: str) -> bool:
    """Return whether two texts end in the same number; False where one of them holds none."""
    found = final_number(answer), final_number(reference)
    return None not in found and math.isclose(*found, rel_tol=TOLERANCE, abs_tol=TOLERANCE)


def final_number(text: str) -> float | None:
    """Return the last number of a text, or of what stands behind `####`; commas inside it are left out."""
    numbers = NUMBER.findall(text.rpartition(MARKED)[2])
    return float(numbers[-1].replace(",", "").rstrip(".")) if numbers else None


def _make_rouge() -> Callable[[str, str], float]:
    """Return ROUGE-L (F1, stemmed) of a reference and an answer, as the package rouge-score has it, but faster."""
    from rouge_score.scoring import fmeasure
    from rouge_score.tokenizers import DefaultTokenizer

    # stemming takes most of the time, and texts repeat the same words
    stem = lru_cache(maxsize=100_000)(DefaultTokenizer(use_stemmer=True).tokenize)

    def words(text: str) -> list[str]:
        return [each for word in _WORD.findall(text.lower()) for each in stem(word)]

    def rouge(reference: str, answer: str) -> float:
        wanted, found = words(reference), words(answer)
        if not wanted or not found:
            return 0.0
        common = count_common(wanted, found)
        return fmeasure(common / len(found), common / len(wanted))

    return rouge


def count_common(first: Sequence[str], second: Sequence[str]) -> int:
    """Return the length of the longest common subsequence.

    A bit per place of `first`, in one whole number: a bit is 0 where the subsequence of what was read becomes longer.
    Source: Hyyrö 2004, Bit-parallel LCS-length computation revisited.
    """
    places: dict[str, int] = {}
    for place, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << place
    every = (1 << len(first)) - 1
    bits = every
    for word in second:
        matches = bits & places.get(word, 0)
        bits = ((bits + matches) | (bits - matches)) & every
    return len(first) - bits.bit_count()
