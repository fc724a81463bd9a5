"""Tokens of every training text for both models, and the alignment between them."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain

import numpy as np
from transformers import PreTrainedTokenizerFast

from kdkit.alignment.characters import NO_GROUP, Ragged, TokenGroups, align_by_offsets
from kdkit.alignment.spelling import align_by_spelling, importance_weights, spell

CHUNK = 4096
"""Texts that are handed to a tokenizer at once."""


@dataclass(frozen=True)
class TextTokens:
    """The tokens of texts, special ones and the prompt included, cut at the longest input."""

    ids: Ragged
    """Token ids of each text."""
    offsets: list[np.ndarray]
    """One array for each text, int32, `[tokens, 2]`: the characters that each token covers; (0, 0) for none; empty
    where nobody asked for them."""


def tokenize_texts(
    tokenizer: PreTrainedTokenizerFast, texts: list[str], max_length: int, prompt: str, with_offsets: bool = True
) -> TextTokens:
    """Tokenize texts as a model reads them: after the prompt, with special tokens, at most `max_length` ids.

    Args:
        with_offsets: false leaves `offsets` empty: a million texts would need gigabytes for them.
    """
    ids: list[np.ndarray] = []
    sizes: list[int] = []
    offsets: list[np.ndarray] = []
    backend = tokenizer.backend_tokenizer
    backend.no_padding()  # all-MiniLM's file asks for 128 tokens of every text
    backend.enable_truncation(max_length, direction=tokenizer.truncation_side)
    # transformers' own call makes lists of everything first, and without offsets the backend is twice as quick
    encode = backend.encode_batch if with_offsets else backend.encode_batch_fast
    for start in range(0, len(texts), CHUNK):
        found = encode([prompt + text for text in texts[start : start + CHUNK]])
        rows = [encoding.ids for encoding in found]
        ids.append(np.fromiter(chain.from_iterable(rows), np.int32))
        sizes += map(len, rows)
        for encoding in found if with_offsets else ():
            shifted = np.array(encoding.offsets, dtype=np.int32).reshape(-1, 2) - len(prompt)
            offsets.append(shifted.clip(min=0))
    backend.no_truncation()  # or whoever uses it next would read texts that are cut
    values = np.concatenate([np.zeros(0, np.int32), *ids])
    return TextTokens(Ragged(values, np.cumsum(sizes, dtype=np.int64)), offsets)


def pair_tokens(alignment: str, texts: list[str], student: TextTokens, teacher: TextTokens) -> TokenGroups:
    """Find the tokens of both models that belong together in every text.

    Args:
        alignment: `offsets`, or one of `kdkit.alignment.spelling.KINDS`.

    Raises:
        UserError: another alignment.
    """
    return align_texts(alignment, texts, (student.ids, teacher.ids), lambda chunk: (student, teacher), len(texts))


def align_texts(
    alignment: str,
    texts: list[str],
    ids: tuple[Ragged, Ragged],
    encode: Callable[[list[str]], tuple[TextTokens, TextTokens]],
    chunk: int = CHUNK,
) -> TokenGroups:
    """Do the same for texts that are tokenized chunk by chunk: characters of a million would need gigabytes.

    Args:
        ids: both models' tokens of all texts, the student's first.
        encode: tokenizes some texts for both models, with offsets.
        chunk: texts that are tokenized together.

    Raises:
        UserError: see `pair_tokens`.
    """
    surprises, covered = (_surprises(ids[0]), _surprises(ids[1])), 0
    values, sizes = ([], []), ([], [])
    for start in range(0, len(texts), max(chunk, 1)):
        some = texts[start : start + chunk]
        sides = encode(some)
        if alignment == "offsets":
            pairs = list(map(align_by_offsets, some, sides[0].offsets, sides[1].offsets))
        else:
            pairs = _align_spellings(alignment, some, sides, surprises)
        for side in (0, 1):
            values[side].append(np.concatenate([pair[side] for pair in pairs], dtype=np.int32, casting="unsafe"))
            sizes[side].extend(len(pair[side]) for pair in pairs)
        covered += sum(int((spans[:, 0] < spans[:, 1]).sum()) for spans in sides[0].offsets)
    groups = [
        Ragged(np.concatenate([np.zeros(0, np.int32), *values[side]]), np.cumsum(sizes[side], dtype=np.int64))
        for side in (0, 1)
    ]
    share = float((groups[0].values != NO_GROUP).sum()) / max(covered, 1)
    return TokenGroups(*ids, *groups, share)


def _align_spellings(
    kind: str, texts: list[str], sides: tuple[TextTokens, TextTokens], surprises: tuple[np.ndarray, np.ndarray]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Align every text by its tokens' spelling; in `weighted_dtw` rare tokens weigh more."""
    spellings = [list(map(spell, texts, side.offsets)) for side in sides]
    return [
        align_by_spelling(
            kind,
            spellings[0][row],
            spellings[1][row],
            importance_weights(surprises[0][sides[0].ids[row]]),
            importance_weights(surprises[1][sides[1].ids[row]]),
        )
        for row in range(len(texts))
    ]


def _surprises(ids: Ragged) -> np.ndarray:
    """Return -log of each token's share of all texts, in nats, by id."""
    counts = np.bincount(ids.values, minlength=1)
    return -np.log(np.maximum(counts, 1) / max(counts.sum(), 1))
