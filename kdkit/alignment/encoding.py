"""Fast tokenization of much text: a piece of text that a tokenizer never looks beyond is tokenized once.

Most text repeats the same words. Where no entry of a vocabulary reaches across the space between two words, the tokens
of a text are those of its words, one after the other, and a table of the words seen replaces the tokenizer.
"""

import re
from itertools import count, islice, pairwise
from typing import NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerFast

from kdkit.alignment.tokenizers import encode_with_ends, token_bytes

MAX_PIECES = 200_000
"""Pieces that are remembered before all are forgotten: about 50 MB with two tokenizers."""

Encoded = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Ids of all texts, int32; UTF-8 bytes that each token covers, int64; tokens of each text, int64, `[num_texts]`."""

_LOOSE = re.compile(r"(?:\A\s+| )?\S+(?:(?! \S)(?!\n\S)(?!\s+ [^\W\d_])\s+\S+)*(?:\n(?=\S)|\s+(?= [^\W\d_])|\s+\Z)?")
"""A word with the space before it, and the spaces and line ends after it up to the own space of the next word."""
_STRICT = re.compile(r"(?:\A\s+| )?\S+(?:(?! \S)(?!\n\S)\s+\S+)*(?:\n(?=\S)|\s+\Z)?")
"""A word with the single space before it and the single line end after it; words between longer gaps stay together."""
_SPACED = re.compile(r"(?:\A\s+| )?\S+(?:(?! \S)\s+\S+)*(?:\s+\Z)?")
"""The same, but cut before single spaces only."""
_AFTER_LETTERS = re.compile(r"(?<=[^\W\d_])(?=[!-@\[-`{-~])")
"""Inside a piece: after a letter, where an ASCII digit or sign follows."""
MAX_NEW = 20_000
"""Parts of pieces that go through a tokenizer in one call."""


class Rule(NamedTuple):
    """Where texts are cut, and what shows that a tokenizer does not look across."""

    pieces: re.Pattern[str]
    parts: re.Pattern[str] | None
    """Where pieces are cut again; None: nowhere."""
    across: re.Pattern[str]
    """What a vocabulary must not hold: an entry across the place of a cut."""
    adds_space: bool
    """The tokenizer puts a space before every text, so a piece goes in without its own."""


def _rules() -> list[Rule]:
    """Return the rules, the fastest first."""
    return [
        Rule(_LOOSE, _AFTER_LETTERS, re.compile(r"(?s:.) \S|\n\S|[^\W\d_][!-@\[-`{-~]"), False),
        Rule(_LOOSE, None, re.compile(r"(?s:.) \S|\n\S"), False),
        Rule(_STRICT, None, re.compile(r"\S \S|\n\S"), False),
        Rule(_SPACED, None, re.compile(r"\S \S"), False),
        Rule(_SPACED, None, re.compile(r"\S \S"), True),
    ]


class Pieces:
    """Numbers for the pieces of texts and for their parts; encoders with one rule share them: see `TextEncoder`."""

    def __init__(self, rule: Rule):
        self.rule = rule
        self.generations = 0, 0
        """How often the numbers of pieces, and of parts, began anew."""
        self.parts: dict[str, int] = {}
        self._forget()

    def _forget(self) -> None:
        """Begin the numbers of pieces anew, and those of parts where they are too many as well."""
        pieces, parts = self.generations
        if len(self.parts) > MAX_PIECES:
            self.parts, parts = {}, parts + 1
        self.generations = pieces + 1, parts
        self.codes: dict[str, int] = {}
        self.part_codes = self.num_parts = np.zeros(0, np.int64)
        self._texts: list[str] = []
        self._cut = self.part_codes, self.num_parts

    def cut(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the numbers of the pieces of all texts, and how many each text has, both int64."""
        if self._texts is texts:
            return self._cut
        if len(self.codes) > MAX_PIECES:
            self._forget()
        split = [self.rule.pieces.findall(text) for text in texts]
        pieces = [piece for found in split for piece in found]
        numbers = list(map(self.codes.get, pieces))
        if None in numbers:
            self._add(dict.fromkeys(piece for piece, number in zip(pieces, numbers, strict=True) if number is None))
            numbers = list(map(self.codes.get, pieces))
        counts = np.fromiter(map(len, split), np.int64, len(split))
        self._texts, self._cut = texts, (np.array(numbers, np.int64), counts)
        return self._cut

    def _add(self, pieces: dict[str, None]) -> None:
        """Number new pieces, and their parts."""
        self.codes.update(zip(pieces, count(len(self.codes))))
        split = [[piece] for piece in pieces] if self.rule.parts is None else list(map(self.rule.parts.split, pieces))
        parts = [part for found in split for part in found]
        new = dict.fromkeys(part for part in parts if part not in self.parts)
        self.parts.update(zip(new, count(len(self.parts))))
        self.part_codes = np.append(self.part_codes, np.array(list(map(self.parts.get, parts)), np.int64))
        self.num_parts = np.append(self.num_parts, np.fromiter(map(len, split), np.int64, len(split)))


class _Tokens:
    """The tokens of numbered texts."""

    def __init__(self):
        self.starts = self.lengths = np.zeros(0, np.int64)
        self.ids, self.widths, self.is_spelled = np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, bool)

    def add(self, ids: np.ndarray, widths: np.ndarray, lengths: np.ndarray, is_spelled: np.ndarray) -> None:
        """Append texts: the ids of all, the bytes they cover, the tokens of each, whether these spell the text."""
        self.starts = np.append(self.starts, len(self.ids) + np.cumsum(lengths) - lengths)
        self.lengths, self.is_spelled = np.append(self.lengths, lengths), np.append(self.is_spelled, is_spelled)
        self.ids, self.widths = np.append(self.ids, ids), np.append(self.widths, widths)

    def join(self, codes: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return what `add` takes for texts that consist of these, `counts` each (at least one)."""
        lengths = self.lengths[codes]
        ends = np.cumsum(lengths)
        index = np.repeat(self.starts[codes] - ends + lengths, lengths) + np.arange(lengths.sum())
        first = np.cumsum(counts) - counts
        is_spelled = np.logical_and.reduceat(self.is_spelled[codes], first)
        return self.ids[index], self.widths[index], np.add.reduceat(lengths, first), is_spelled


class TextEncoder:
    """Tokenizes texts with one tokenizer, without special tokens; remembers the pieces that it has seen."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast):
        self.tokenizer = tokenizer
        self.table = token_bytes(tokenizer)
        self.pieces: Pieces | None = None
        """How texts are cut; None: not at all, every text goes through the tokenizer whole."""
        spellings = [piece.decode(errors="replace") for piece in self.table if piece]
        if any(t.lstrip or t.rstrip or t.single_word for t in tokenizer.added_tokens_decoder.values() if not t.special):
            return
        for rule in _rules():
            if not any(map(rule.across.search, spellings)) and self._is_exact(rule):
                return
        self.pieces = None

    def share_pieces(self, other: "TextEncoder") -> None:
        """Use the numbers of another encoder, if it cuts alike."""
        if self.pieces is not None and other.pieces is not None and self.pieces.rule == other.pieces.rule:
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
        ids, widths, counts, is_spelled = self._known.join(codes, num_pieces)
        if self.pieces.rule.adds_space:  # the tokenizer adds another one to a text that begins with a space
            is_spelled &= [not text[0].isspace() for text in texts]
        return (ids, widths, counts) if is_spelled.all() else self._encode_in_runs(texts, is_spelled)

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
        """Know no piece's tokens."""
        self._generations = (0, 0) if self.pieces is None else self.pieces.generations
        self._known, self._parts = _Tokens(), _Tokens()

    def _remember(self, pieces: Pieces) -> None:
        """Tokenize the parts that are new, and put the new pieces together."""
        if self._generations != pieces.generations:
            kept = self._parts if self._generations[1] == pieces.generations[1] else _Tokens()
            self._forget()
            self._parts = kept
        parts = list(islice(pieces.parts, len(self._parts.lengths), None))
        for start in range(0, len(parts), MAX_NEW):
            self._parts.add(*self._tokenize(parts[start : start + MAX_NEW], pieces.rule.adds_space))
        known = len(self._known.lengths)
        if known < len(pieces.num_parts):
            first = int(pieces.num_parts[:known].sum())
            self._known.add(*self._parts.join(pieces.part_codes[first:], pieces.num_parts[known:]))

    def _tokenize(self, parts: list[str], adds_space: bool) -> tuple[np.ndarray, ...]:
        """Return what `_Tokens.add` takes for some parts."""
        backend = self.tokenizer.backend_tokenizer
        backend.encode_special_tokens = True  # every call of the tokenizer itself resets this
        texts = [part.removeprefix(" ") for part in parts] if adds_space else parts
        encoding = backend.encode(texts, is_pretokenized=True, add_special_tokens=False)
        lengths = np.bincount(np.array(encoding.word_ids, np.int64), minlength=len(parts))
        starts = np.cumsum(lengths) - lengths
        spelled = [self.table[token_id] or b"" for token_id in encoding.ids]
        widths = np.fromiter(map(len, spelled), np.int32, len(spelled))
        is_spelled = [
            b"".join(spelled[start : start + length]) == (f" {text}" if adds_space else text).encode()
            for text, start, length in zip(texts, starts.tolist(), lengths.tolist(), strict=True)
        ]
        if adds_space:  # the first word of a text has no space
            widths[starts[[not part.startswith(" ") for part in parts] & (lengths > 0)]] -= 1
        return np.array(encoding.ids, np.int32), widths, lengths, np.array(is_spelled, bool)

    def _is_exact(self, rule: Rule) -> bool:
        """Cut by a rule from now on; return whether the samples have the tokens that they have whole."""
        self.pieces = Pieces(rule)
        self._forget()
        samples = _samples()
        codes, _ = self.pieces.cut(samples[:1])
        self._remember(self.pieces)
        if not self._known.is_spelled[codes].all():
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
        "Hello world, it's a test (of words) and I'LL do 12,345.67% of 1999.\nThe end.\nthe the END a1b2.c_d(e)f[g]",
        "na\u00efve caf\u00e9 \U0001f600 \u4e2d\u6587 \u3042 x\u00a0y \u3000z e\u0301 \u0301 a",
        "\tdef f(x):\n    return  x\n\n\nEnd.\n\nNext ...\n -- don't C++\r\nline   \n x\r\n\r\n<tag> [x] {y: z}\n",
        " one\n two  three   four \n\nfive ",
        *runs,
    ]
