"""The split into training and held-out sentences; decontamination leaves test texts out of both."""

import re
import unicodedata
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from kdkit.config.embeddings import SentencesConfig
from kdkit.data.text.corpora import PYTHON_DOCS
from kdkit.data.text.duplicates import UNIT, copy_rates, ngrams
from kdkit.embeddings.data.sentences import Sentences
from kdkit.errors import UserError

MIN_SENTENCES = 4
"""Two to learn from and two to hold out."""
NEAR_WORDS, NEAR_SHARE, NEAR_LENGTH = 4, 0.8, 6
"""Words in a row, share of them, and words at least, of a text that nearly is a test's."""
CHUNK = 16_384
"""Texts that are compared at once."""
_OTHER = re.compile(r"[\W_]+")
_BRACKET = re.compile(r"-[lr][rsc]b-")
"""How the Penn Treebank writes brackets."""


def decontaminate(texts: list[str], tests: dict[str, list[str]]) -> tuple[list[str], dict[str, int]]:
    """Leave out texts that a test also has, letter case, spaces, punctuation and tokenisation aside.

    Args:
        tests: texts of each task, by its name.

    Returns:
        The texts that are left, and how many each task removed; a text of two tasks counts for both.
    """
    if not tests:
        return texts, {}
    folded = {task: set(map(_fold, test)) for task, test in tests.items()}
    tested = set().union(*folded.values())
    left, counts = [], dict.fromkeys(tests, 0)
    for text in texts:
        if (form := _fold(text)) not in tested:
            left.append(text)
            continue
        for task, forms in folded.items():
            counts[task] += form in forms
    return left, counts


def count_near_matches(texts: list[str], tests: dict[str, list[str]]) -> dict[str, int]:
    """Count the texts that nearly are a test's: of whose runs of 4 words 4 fifths stand in its texts.

    They stay among the texts: a reader has to know of them. Texts of less than 6 words are not counted.
    """
    known = {task: ngrams(test, NEAR_WORDS) for task, test in tests.items()}
    every = np.unique(np.concatenate([np.zeros(0, np.uint64), *known.values()]))
    likely: list[str] = []
    for start in range(0, len(texts) if len(every) else 0, CHUNK):
        chunk = texts[start : start + CHUNK]
        rates = copy_rates(chunk, every, NEAR_WORDS)
        near = (chunk[place] for place in np.flatnonzero(rates >= NEAR_SHARE))
        likely += [text for text in near if len(UNIT.findall(text)) >= NEAR_LENGTH]
    return {
        task: int((copy_rates(likely, found, NEAR_WORDS) >= NEAR_SHARE).sum()) if likely else 0
        for task, found in known.items()
    }


def _fold(text: str) -> str:
    """Keep letters and digits alone ("PCCW 's" and "PCCW's" are one); of a text without any, all but its spaces."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    return _OTHER.sub("", _BRACKET.sub("", plain)) or "".join(plain.split())


@dataclass(frozen=True)
class Selection:
    """Training rows of one or two sentences, and what is held out."""

    rows: list[tuple[str, ...]]
    evaluation: list[str]
    evaluation_document: list[int] | None
    counts: dict[str, Any]


def select_sentences(sentences: Sentences, tests: dict[str, list[str]], data: SentencesConfig, seed: int) -> Selection:
    """Choose what is trained on and what is held out."""
    rows = _candidate_rows(sentences, data)
    distinct = list(dict.fromkeys(chain.from_iterable(rows)))
    clean, removed = decontaminate(distinct, tests)
    if len(clean) < MIN_SENTENCES:
        tested = len(distinct) - len(clean)
        remedy = f"give more text, or set data.decontaminate=false ({tested} are tested on)" if tested else "give more"
        raise UserError(
            f"data.path: expected at least {MIN_SENTENCES} distinct sentences, got {len(clean)} in "
            f"{sentences.source!r}; {remedy}"
        )
    document_of = None
    if data.path == PYTHON_DOCS:
        document_of = dict(reversed(list(zip(sentences.first, map(int, sentences.labels), strict=True))))
    evaluation = _hold_out(clean, document_of, data, seed)
    allowed = set(clean) - set(evaluation)
    rows = _subset([row for row in rows if allowed.issuperset(row)], data.subset_size, seed)
    if not rows:
        raise UserError(
            f"data.path: expected training rows, got none in {sentences.source!r} after holding out "
            f"{len(evaluation)} sentences; give more text, or lower data.evaluation_fraction"
        )
    counts = {
        "rows": len(sentences),
        "sentences": len(sentences.texts()),
        "distinct": len(distinct),
        "duplicates": len(sentences.texts()) - len(set(sentences.texts())),
        "removed": removed,
        "near_matches": count_near_matches(clean, tests),
        "training_rows": len(rows),
        "training_texts": len(set(chain.from_iterable(rows))),
        "held_out": len(evaluation),
    }
    documents = document_of and [document_of[text] for text in evaluation]
    return Selection(rows, evaluation, documents, counts)


def _candidate_rows(sentences: Sentences, data: SentencesConfig) -> list[tuple[str, ...]]:
    """Return the distinct rows to choose from, of one sentence, or of two that belong together."""
    if data.positives == "dropout":
        return [(text,) for text in dict.fromkeys(sentences.texts())]
    if sentences.second is None:
        raise UserError(
            f"data.positives: expected rows of two sentences for `second`, got one each in {sentences.source!r}; "
            "set data.positives=dropout, or data.columns"
        )
    rows = list(zip(sentences.first, sentences.second, strict=True))
    if data.positive_labels is not None:
        labels = sentences.labels or []
        rows = [row for row, label in zip(rows, labels, strict=False) if label in data.positive_labels]
        if not rows:
            found = ", ".join(sorted(set(labels))[:8]) or "none"
            raise UserError(
                f"data.positive_labels: expected labels that occur in {sentences.source!r}, got "
                f"{', '.join(data.positive_labels)}; it has {found}"
            )
    return list(dict.fromkeys(rows))


def _hold_out(texts: list[str], document_of: dict[str, int] | None, data: SentencesConfig, seed: int) -> list[str]:
    """Choose sentences to hold out, whole documents where there are documents, in the order of the texts."""
    generator = np.random.default_rng(seed)
    count = max(min(3, len(texts) // 2), min(round(data.evaluation_fraction * len(texts)), data.max_evaluation))
    if document_of is None:
        return [texts[i] for i in sorted(generator.permutation(len(texts))[:count])]
    documents = np.array([document_of[text] for text in texts])
    numbers, sizes = np.unique(documents, return_counts=True)
    chosen, size = [], 0
    for i in generator.permutation(len(numbers)):
        if size + sizes[i] <= count:
            chosen.append(numbers[i])
            size += sizes[i]
    chosen = chosen or [numbers[sizes.argmin()]]
    return [texts[i] for i in np.flatnonzero(np.isin(documents, chosen))]


def _subset(rows: list[tuple[str, ...]], size: int | None, seed: int) -> list[tuple[str, ...]]:
    """Draw rows by the seed until they hold `size` distinct sentences, and return them in their order."""
    if size is None:
        return rows
    seen: set[str] = set()
    chosen = []
    for i in np.random.default_rng(seed).permutation(len(rows)):
        new = set(rows[i]) - seen
        if len(seen) + len(new) <= size:
            seen |= new
            chosen.append(i)
        if len(seen) == size:
            break
    return [rows[i] for i in sorted(chosen)]
