"""Fast tokenization of much text: a piece of text that a tokenizer never looks beyond is tokenized once.

Most text repeats the same words. Where no entry of a vocabulary reaches across the space between two words, the tokens
of a text are those of its words, one after the other, and a table of the words seen replaces the tokenizer.
"""

import re
from itertools import islice, pairwise

import numpy as np
from transformers import PreTrainedTokenizerFast

from kdkit.alignment.tokenizers import encode_with_ends, token_bytes

MAX_PIECES = 400_000
"""Pieces that are remembered before all are forgotten: about 100 MB with two tokenizers."""

Encoded = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Ids of all texts, int32; UTF-8 bytes that each token covers, int64; tokens of each text, int64, `[num_texts]`."""

_LOOSE = re.compile(r"(?:\A\s+| )?\S+(?:(?! \S)(?!\n\S)(?!\s+ [^\W\d_])\s+\S+)*(?:\n(?=\S)|\s+(?= [^\W\d_])|\s+\Z)?")
"""A word with the space before it, and the spaces and line ends after it up to the own space of the next word."""
_STRICT = re.compile(r"(?:\A\s+| )?\S+(?:(?! \S)(?!\n\S)\s+\S+)*(?:\n(?=\S)|\s+\Z)?")
"""A word with the single space before it and the single line end after it; words between longer gaps stay together."""
_SPACED = re.compile(r"(?:\A\s+| )?\S+(?:(?! \S)\s+\S+)*(?:\s+\Z)?")
"""The same, but cut before single spaces only."""
_ACROSS = {
    _LOOSE: re.compile(r"(?s:.) \S|\n\S"),
    _STRICT: re.compile(r"\S \S|\n\S"),
    _SPACED: re.compile(r"\S \S"),
}
"""What a vocabulary must not hold: an entry across the place of a cut."""

MAX_NEW = 20_000
"""Pieces that go through a tokenizer in one call."""


class Pieces:
    """Numbers for the pieces of texts; encoders that cut alike share one, so that texts are cut and looked up once."""

    def __init__(self, pattern: re.Pattern[str]):
        self.pattern = pattern
        self.codes: dict[str, int] = {}
        self.generation = 0
        """How often the numbers began anew."""
        self._texts: list[str] = []
        self._cut = np.zeros(0, np.int64), np.zeros(0, np.int64)

    def cut(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the numbers of the pieces of all texts, and how many each text has, both int64."""
        if self._texts is not texts:
            if len(self.codes) > MAX_PIECES:
                self.codes, self.generation = {}, self.generation + 1
            split = [self.pattern.findall(text) for text in texts]
            pieces = [piece for found in split for piece in found]
            numbers = list(map(self.codes.get, pieces))
            if None in numbers:
                new = dict.fromkeys(piece for piece, number in zip(pieces, numbers, strict=True) if number is None)
                self.codes.update(zip(new, range(len(self.codes), len(self.codes) + len(new)), strict=True))
                numbers = list(map(self.codes.get, pieces))
            counts = np.fromiter(map(len, split), np.int64, len(split))
            self._texts, self._cut = texts, (np.array(numbers, np.int64), counts)
        return self._cut


class TextEncoder:
    """Tokenizes texts with one tokenizer, without special tokens; remembers the pieces that it has seen."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast):
        self.tokenizer = tokenizer
        self.table = token_bytes(tokenizer)
        self._adds_space = False
        self.pieces: Pieces | None = None
        """How texts are cut; None: not at all, every text goes through the tokenizer whole."""
        spellings = [piece.decode(errors="replace") for piece in self.table if piece]
        if any(t.lstrip or t.rstrip or t.single_word for t in tokenizer.added_tokens_decoder.values() if not t.special):
            return
        for pattern, adds_space in ((_LOOSE, False), (_STRICT, False), (_SPACED, False), (_SPACED, True)):
            if not any(map(_ACROSS[pattern].search, spellings)) and self._is_exact(pattern, adds_space):
                return
        self.pieces = None

    def share_pieces(self, other: "TextEncoder") -> None:
        """Use the numbers of another encoder, if it cuts alike."""
        if self.pieces is not None and other.pieces is not None and self.pieces.pattern is other.pieces.pattern:
            self.pieces = other.pieces
            self._forget()

    def check(self, text: str) -> None:
        """Tokenize a text in both ways; where they differ, every text goes through the tokenizer whole from now on."""
        pairs = zip(self.encode([text]), self._encode_whole([text]), strict=True)
        if not all(np.array_equal(first, second) for first, second in pairs):
            self.pieces = None

    def encode(self, texts: list[str]) -> Encoded:
        """Tokenize texts; see `encode_with_ends` for the bytes that a token covers.

        Args:
            texts: valid texts (see `clean_text`), not empty.
        """
        if self.pieces is None or not texts:
            return self._encode_whole(texts)
        codes, num_pieces = self.pieces.cut(texts)
        if not num_pieces.all():  # nothing but spaces
            return self._encode_in_runs(texts, num_pieces > 0)
        self._remember(self.pieces)
        first = np.cumsum(num_pieces) - num_pieces
        is_spelled = np.logical_and.reduceat(self._is_spelled[codes], first)
        if self._adds_space:  # the tokenizer adds another one to a text that begins with a space
            is_spelled &= [not text[0].isspace() for text in texts]
        if not is_spelled.all():
            return self._encode_in_runs(texts, is_spelled)
        lengths = self._lengths[codes]
        ends = np.cumsum(lengths)
        index = np.repeat(self._starts[codes] - ends + lengths, lengths) + np.arange(ends[-1])
        return self._ids[index], self._widths[index], np.add.reduceat(lengths, first)

    def _encode_in_runs(self, texts: list[str], in_pieces: np.ndarray) -> Encoded:
        """Tokenize neighbouring texts together, by their pieces or whole."""
        borders = [0, *(np.flatnonzero(np.diff(in_pieces)) + 1), len(texts)]
        parts = []
        for start, stop in pairwise(borders):
            parts.append((self.encode if in_pieces[start] else self._encode_whole)(texts[start:stop]))
        ids, widths, counts = map(np.concatenate, zip(*parts, strict=True))
        return ids, widths, counts

    def _encode_whole(self, texts: list[str]) -> Encoded:
        """Tokenize each text for itself."""
        ids, widths = [np.zeros(0, np.int32)], [np.zeros(0, np.int64)]
        for text in texts:
            found, ends = encode_with_ends(self.tokenizer, self.table, text)
            ids.append(np.array(found, np.int32))
            widths.append(np.diff(ends, prepend=0))
        return np.concatenate(ids), np.concatenate(widths), np.array([len(each) for each in ids[1:]], np.int64)

    def _forget(self) -> None:
        """Start with empty arrays: no piece has been tokenized."""
        self._generation = 0 if self.pieces is None else self.pieces.generation
        self._starts = self._lengths = np.zeros(0, np.int64)
        self._ids, self._widths = np.zeros(0, np.int32), np.zeros(0, np.int32)
        self._is_spelled = np.zeros(0, bool)

    def _remember(self, pieces: Pieces) -> None:
        """Tokenize the pieces that are new, and note which of all are spelled by their tokens."""
        if self._generation != pieces.generation:
            self._forget()
        new = list(islice(pieces.codes, len(self._lengths), None))
        arrays = [(self._starts, self._lengths, self._ids, self._widths, self._is_spelled)]
        place = len(self._ids)
        for start in range(0, len(new), MAX_NEW):
            lengths, ids, widths, is_spelled = self._tokenize(new[start : start + MAX_NEW])
            arrays.append((place + np.cumsum(lengths) - lengths, lengths, ids, widths, is_spelled))
            place += len(ids)
        self._starts, self._lengths, self._ids, self._widths, self._is_spelled = map(
            np.concatenate, zip(*arrays, strict=True)
        )

    def _tokenize(self, pieces: list[str]) -> tuple[np.ndarray, ...]:
        """Return the tokens of each piece, all ids, their bytes, and whether they spell the piece."""
        backend = self.tokenizer.backend_tokenizer
        backend.encode_special_tokens = True  # every call of the tokenizer itself resets this
        texts = [piece.removeprefix(" ") for piece in pieces] if self._adds_space else pieces
        encoding = backend.encode(texts, is_pretokenized=True, add_special_tokens=False)
        lengths = np.bincount(np.array(encoding.word_ids, np.int64), minlength=len(pieces))
        starts = np.cumsum(lengths) - lengths
        spelled = [self.table[token_id] or b"" for token_id in encoding.ids]
        widths = np.fromiter(map(len, spelled), np.int32, len(spelled))
        is_spelled = [
            b"".join(spelled[start : start + length]) == (f" {text}" if self._adds_space else text).encode()
            for text, start, length in zip(texts, starts.tolist(), lengths.tolist(), strict=True)
        ]
        if self._adds_space:  # the first word of a text has no space
            widths[starts[[not piece.startswith(" ") for piece in pieces] & (lengths > 0)]] -= 1
        return lengths, np.array(encoding.ids, np.int32), widths, np.array(is_spelled, bool)

    def _is_exact(self, pattern: re.Pattern[str], adds_space: bool) -> bool:
        """Cut by a pattern from now on; return whether the samples have the tokens that they have whole."""
        self.pieces, self._adds_space = Pieces(pattern), adds_space
        self._forget()
        samples = _samples()
        codes, _ = self.pieces.cut(samples[:1])
        self._remember(self.pieces)
        if not self._is_spelled[codes].all():
            return False
        found, expected = self.encode(samples), self._encode_whole(samples)
        return all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def _samples() -> list[str]:
    """Return cases in which cutting rules look around: runs of spaces, line ends, digits, marks, contractions."""
    runs = [
        "".join(gap + " " * count + after for count in range(1, 20) for gap in ("", "\n"))
        for after in ("x", "1", "(", "\n")
    ]
    return [
        "Hello world, it's a test (of words) and I'LL do 12,345.67% of 1999 again.\nThe end.\nthe the END",
        "na\u00efve caf\u00e9 \U0001f600 \u4e2d\u6587 \u3042 x\u00a0y \u3000z e\u0301 \u0301 a",
        "\tdef f(x):\n    return  x\n\n\nEnd.\n\nNext ...\n -- don't C++\r\nline   \n x\r\n\r\n<tag> [x] {y: z}\n",
        " one\n two  three   four \n\nfive ",
        *runs,
    ]
