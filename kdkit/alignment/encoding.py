"""Fast tokenization of much text: a piece of text that a tokenizer never looks beyond is tokenized once.

Most text repeats the same words. Where a tokenizer makes no token across the space between two words, the tokens of a
text are those of its words, one after the other, and a table of the words seen replaces the tokenizer.
"""

from itertools import chain, pairwise

import numpy as np
from transformers import PreTrainedTokenizerFast

from kdkit.alignment.fidelity import find_losses, no_losses
from kdkit.alignment.pieces import LEVELS, Pieces, cut, find_crossing
from kdkit.alignment.tokenizers import encode_with_ends, reads_special_tokens, token_bytes

MAX_PIECES = 400_000
"""Pieces that an encoder remembers before it starts anew: about 100 MB."""

PART = 1_000
"""Pieces that a tokenizer reads at once."""

Encoded = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Ids of all texts, int32; UTF-8 bytes that each token covers, int64; tokens of each text, int64, `[num_texts]`; what
the tokens do not spell, int64, `[num_losses, 3]` (see `find_losses`; tokens are counted from the first text on)."""

MAX_CROSSING = 2_000
"""Entries across the place of a cut that are tried out; where there are more, texts are not cut there."""

_SAMPLES = [
    "Hello world, it's a test (of words) and I'LL do 12,345.67% of 1999 again.\nThe end.\nthe the END a1b2.c_d(e)f[3]g",
    "na\u00efve caf\u00e9 \U0001f600 \u4e2d\u6587 \u3042 x\u00a0y \u3000z e\u0301 \u0301 a",
    "\tdef f(x):\n    return  x\n\n\nEnd.\n\nNext ...\n -- don't C++\r\nline   \n x\r\n\r\n<tag> [x] {y: z}\n",
    " one\n two  three   four \n\nfive ",
    "f('a') 'b ''s 1's x's.'t (\"d\n\"e\t'f\u00a0'g  \"h \u201ci -1 x=-j +(k)",
]
"""Cases in which cutting rules look around: line ends, digits, marks, contractions; see `_samples`."""


class TextEncoder:
    """Tokenizes texts with one tokenizer, without special tokens; remembers the pieces that it has seen."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast):
        self.tokenizer = tokenizer
        self.table = token_bytes(tokenizer)
        self.level = 0
        """How finely texts are cut, see `LEVELS`; 0: not at all, every text goes through the tokenizer whole."""
        self._adds_space = False
        self._forget()
        added, are_read = tokenizer.added_tokens_decoder.values(), reads_special_tokens(tokenizer)
        if any(t.lstrip or t.rstrip or t.single_word for t in added if are_read or not t.special):
            return
        entries = [piece.decode(errors="replace") for piece in self.table if piece]
        for level, adds_space in [*((level, False) for level in range(LEVELS, 0, -1)), (1, True)]:
            if self._is_exact(level, adds_space, find_crossing(entries, level)):
                return
        self.level = 0

    def check(self, text: str) -> None:
        """Tokenize a text in both ways; where they differ, every text goes through the tokenizer whole from now on."""
        pairs = zip(self.encode([text]), self._encode_whole([text]), strict=True)
        if not all(np.array_equal(first, second) for first, second in pairs):
            self.level = 0

    @property
    def is_fast(self) -> bool:
        """Whether this tokenizer never looks beyond a piece; else every text goes through it whole."""
        return self.level > 0

    @property
    def may_cut(self) -> bool:
        """Whether a text may be given in pieces, cut before single spaces, as if each were a text."""
        return self.is_fast and not self._adds_space

    def cut(self, texts: list[str]) -> Pieces | None:
        """Cut texts as `encode` takes them, into pieces for all encoders of this level; None: they stay whole."""
        return cut(texts, self.level) if texts and self.is_fast else None

    def encode(self, texts: list[str], pieces: Pieces | None = None) -> Encoded:
        """Tokenize texts; see `encode_with_ends` for the bytes that a token covers.

        Args:
            texts: valid texts (see `clean_text`), not empty.
            pieces: what `cut` makes of them, if it is known.
        """
        pieces = self.cut(texts) if pieces is None else pieces
        if pieces is None:
            return self._encode_whole(texts)
        codes = self._look_up(pieces.different)[pieces.indices]
        first = np.cumsum(pieces.counts) - pieces.counts
        is_spelled = np.logical_and.reduceat(self._is_spelled[codes], first)
        if self._adds_space:  # the tokenizer adds another one to a text that begins with a space
            is_spelled &= [not text[0].isspace() for text in texts]
        if not is_spelled.all():
            return self._encode_in_runs(texts, is_spelled)
        lengths = self._lengths[codes]
        ends = np.cumsum(lengths)
        index = np.repeat(self._starts[codes] - ends + lengths, lengths) + np.arange(ends[-1])
        return self._ids[index], self._widths[index], np.add.reduceat(lengths, first), no_losses()  # all are spelled

    def _encode_in_runs(self, texts: list[str], in_pieces: np.ndarray) -> Encoded:
        """Tokenize neighbouring texts together, by their pieces or whole."""
        borders = [0, *(np.flatnonzero(np.diff(in_pieces)) + 1), len(texts)]
        parts = []
        for start, stop in pairwise(borders):
            parts.append((self.encode if in_pieces[start] else self._encode_whole)(texts[start:stop]))
        return _join(parts)

    def _encode_whole(self, texts: list[str]) -> Encoded:
        """Tokenize each text for itself."""
        parts = [(np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros(0, np.int64), no_losses())]
        for text in texts:
            ids, ends = encode_with_ends(self.tokenizer, self.table, text)
            losses = find_losses(text, ids, ends, self.table)
            parts.append((np.array(ids, np.int32), np.diff(ends, prepend=0), np.array([len(ids)]), losses))
        return _join(parts)

    def _look_up(self, pieces: list[str]) -> np.ndarray:
        """Return the number of each piece; new ones are tokenized and remembered."""
        if len(self._codes) > MAX_PIECES:
            self._forget()
        codes = list(map(self._codes.get, pieces))
        if None in codes:
            self._remember([piece for piece, code in zip(pieces, codes, strict=True) if code is None])
            codes = list(map(self._codes.get, pieces))
        return np.array(codes, np.int64)

    def _forget(self) -> None:
        """Start with an empty table."""
        self._codes: dict[str, int] = {}
        self._starts = self._lengths = self._widths = np.zeros(0, np.int64)
        self._ids, self._is_spelled = np.zeros(0, np.int32), np.zeros(0, bool)

    def _remember(self, pieces: list[str]) -> None:
        """Tokenize pieces and add them to the table; note which of them their tokens spell."""
        backend = self.tokenizer.backend_tokenizer
        backend.encode_special_tokens = not reads_special_tokens(
            self.tokenizer
        )  # every call of the tokenizer itself resets this
        texts = [piece.removeprefix(" ") for piece in pieces] if self._adds_space else pieces
        backend.no_padding()  # nor in a batch
        # several inputs are read on several cores
        parts = [texts[first : first + PART] for first in range(0, len(texts), PART)]
        encodings = backend.encode_batch(parts, is_pretokenized=True, add_special_tokens=False)
        token_ids = list(chain.from_iterable(each.ids for each in encodings))
        words = [np.array(each.word_ids, np.int64) + number * PART for number, each in enumerate(encodings)]
        ids = np.array(token_ids, np.int32)
        lengths = np.bincount(np.concatenate(words), minlength=len(pieces))
        starts = np.cumsum(lengths) - lengths
        spelled = [self.table[token_id] or b"" for token_id in token_ids]
        widths = np.fromiter(map(len, spelled), np.int64, len(spelled))
        is_spelled = np.array(
            [
                b"".join(spelled[start : start + length]) == (f" {text}" if self._adds_space else text).encode()
                for text, start, length in zip(texts, starts.tolist(), lengths.tolist(), strict=True)
            ]
        )
        if self._adds_space:  # the first word of a text has no space
            widths[starts[[not piece.startswith(" ") for piece in pieces] & (lengths > 0)]] -= 1
        self._codes.update(zip(pieces, range(len(self._codes), len(self._codes) + len(pieces)), strict=True))
        self._starts = np.append(self._starts, len(self._ids) + starts)
        self._lengths = np.append(self._lengths, lengths)
        self._ids, self._widths = np.append(self._ids, ids), np.append(self._widths, widths)
        self._is_spelled = np.append(self._is_spelled, is_spelled)

    def _is_exact(self, level: int, adds_space: bool, crossing: list[str]) -> bool:
        """Cut at a level from now on; return whether samples have the tokens that they have whole.

        Args:
            crossing: entries across the place of a cut. Cutting rules may keep the tokenizer from ever using them, so
                it is asked for each, alone and between letters, digits, spaces and signs.
        """
        if len(crossing) > MAX_CROSSING:
            return False
        self.level, self._adds_space = level, adds_space
        self._forget()
        samples = _samples()
        codes = self._look_up(cut(samples[:1], level).different)
        if not self._is_spelled[codes].all():
            return False
        samples += [around + entry + around for entry in crossing for around in ("", "x", "1", " ", ".", "\n")]
        found, expected = self.encode(samples), self._encode_whole(samples)
        return all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def _samples() -> list[str]:
    """Return the cases in which cutting rules look around, runs of spaces among them."""
    gaps = [gap + " " * count for count in range(1, 20) for gap in ("", "\n")]
    return _SAMPLES + ["".join(gap + after for gap in gaps) for after in ("x", "1", "(", "\n")]


def _join(parts: list[Encoded]) -> Encoded:
    """Put texts after each other."""
    ids, widths, counts, losses = zip(*parts, strict=True)
    before = np.cumsum([0, *map(len, ids)])
    moved = [found + np.array([first, 0, 0]) for found, first in zip(losses, before, strict=False)]
    return np.concatenate(ids), np.concatenate(widths), np.concatenate(counts), np.concatenate(moved)
