"""How varied a model writes, and how much of it stands in its training text, with people's text as the yardstick."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kdkit.alignment.tokenizers import token_bytes
from kdkit.data.prepare import PreparedData
from kdkit.data.text.copies import KnownText
from kdkit.data.text.duplicates import UNIT
from kdkit.data.windows import PAD
from kdkit.evaluate.significance import LEVEL, paired_t_test, t_quantile

SEARCHED_TOKENS = 4_000_000
"""Of the training text that copies are looked for in: the first ones."""
MIN_TEXTS = 2
"""Texts from which on they can be compared with each other."""
BLEU_WORDS = 4
"""Words of the longest run that self-BLEU counts."""
Words = list[str]


def measure_diversity(texts: Mapping[str, Sequence[str]], known: KnownText) -> dict[str, Any]:
    """Measure what several writers have written after the same prompts.

    All texts are cut to one length, since every figure depends on it: that of the shortest quarter of all texts.

    Args:
        texts: by writer, one a prompt; writers without a word are left out.
        known: the training text.

    Returns:
        `num_prompts`; `words` of a text at most; `known_words`; `writers`: by name a `value` and `interval_95` over
        prompts of
        `distinct_1` to `distinct_3` (different n-grams / all n-grams of all texts), `entropy_2` (of their bigrams, in
        bits), `self_bleu` (BLEU-4 of a text against the others, mean; 1: all the same), `copied_run` (longest run of
        words that stands in the training text, mean) and `copied_share` (of five words in a row).
        Empty where there are too few texts.

    Source: Li et al. 2016 (arXiv:1510.03055, distinct-n); Zhang et al. 2018 (arXiv:1809.05972, entropy); Zhu et al.
    2018 (arXiv:1802.01886, self-BLEU); intervals of the first two by the jackknife (Efron & Tibshirani 1993, ch. 11).
    """
    cut = {name: [UNIT.findall(text) for text in each] for name, each in texts.items()}
    cut = {name: each for name, each in cut.items() if any(each)}
    if not cut or min(map(len, cut.values())) < MIN_TEXTS:
        return {}
    lengths = [len(words) for each in cut.values() for words in each]
    longest = max(1, int(np.quantile(lengths, 0.25)))
    return {
        "num_prompts": len(next(iter(cut.values()))),
        "words": longest,
        "known_words": known.num_words,
        "writers": {name: _measure([words[:longest] for words in each], known) for name, each in cut.items()},
    }


def training_text(data: PreparedData) -> KnownText:
    """Index the text that a run has trained on: of conversations the answers, else the windows, as far as we search."""
    if data.is_chat:
        return KnownText(each.answer for each in data.prompts("train"))
    ids = data.train.student_ids
    rows = np.asarray(ids[: max(1, SEARCHED_TOKENS // ids.shape[1])])[:, 1:]
    table = [piece or b"\n" for piece in token_bytes(data.student_tokenizer)]  # documents end between words
    text = b"".join(table[token_id] for token_id in rows[rows != PAD].tolist())
    return KnownText([text.decode(errors="replace")])


def _measure(texts: list[Words], known: KnownText) -> dict[str, Any]:
    """Measure one writer."""
    lower = [[word.lower() for word in words] for words in texts]
    grams = {n: [Counter(zip(*(words[i:] for i in range(n)), strict=False)) for words in lower] for n in (1, 2, 3)}
    joined = [" ".join(words) for words in lower]
    bleu = [self_bleu(words, lower[:i] + lower[i + 1 :]) for i, words in enumerate(lower)]
    return {
        **{f"distinct_{n}": _jackknife(grams[n], distinct, 1.0) for n in grams},
        "entropy_2": _jackknife(grams[2], entropy, math.inf),
        "self_bleu": _mean(bleu),
        "copied_run": _mean(known.longest_runs(joined).tolist()),
        "copied_share": _mean(known.copy_rates(joined).tolist()),
    }


def distinct(counts: Counter) -> float:
    """Return how many of some n-grams are different ones, as a share."""
    return len(counts) / max(counts.total(), 1)


def entropy(counts: Counter) -> float:
    """Return the entropy of some n-grams, in bits."""
    total = counts.total()
    return -math.fsum(count / total * math.log2(count / total) for count in counts.values())


def self_bleu(words: Words, others: Sequence[Words]) -> float:
    """Return BLEU-4 of one text with other texts as its references; runs of two and more smoothed by one.

    Source: Papineni et al. 2002, BLEU; smoothing of Lin & Och 2004, ORANGE (nltk's method2).
    """
    logs = 0.0
    for n in range(1, BLEU_WORDS + 1):
        counts = Counter(zip(*(words[i:] for i in range(n)), strict=False))
        most: Counter = Counter()
        for other in others:
            most |= Counter(zip(*(other[i:] for i in range(n)), strict=False))
        found, total = sum(min(count, most[gram]) for gram, count in counts.items()), counts.total()
        if not found and n == 1:
            return 0.0
        logs += math.log((found + (n > 1)) / (max(total, 1) + (n > 1)))
    nearest = min((abs(len(other) - len(words)), len(other)) for other in others)[1]
    return min(1.0, math.exp(1 - nearest / len(words))) * math.exp(logs / BLEU_WORDS)


def _jackknife(by_text: list[Counter], figure: Any, most: float) -> dict[str, Any]:
    """Return a figure of all texts together, `most` at most, and its interval from leaving out one text at a time."""
    together = sum(by_text, Counter())
    if not together:
        return {"value": 0.0, "interval_95": None}
    value, count = figure(together), len(by_text)
    rest = [together - each for each in by_text]
    if not all(rest):
        return {"value": value, "interval_95": None}
    left = np.array([figure(each) for each in rest])
    error = math.sqrt((count - 1) / count * float(((left - left.mean()) ** 2).sum()))
    reach = t_quantile(1 - LEVEL, count - 1) * error
    return {"value": value, "interval_95": (max(value - reach, 0.0), min(value + reach, most))}


def _mean(values: list[float]) -> dict[str, Any]:
    """Return a mean over texts and its interval, by Student's t."""
    test = paired_t_test(values)
    interval = None if test.interval is None else (max(test.interval[0], 0.0), test.interval[1])
    return {"value": test.mean, "interval_95": interval}
