"""One model's side of conversations: its template around the contents, its tokens, and the text that each token covers.

A conversation is a row of intervals: what the template opens with, then for every message its content, the end of the
turn, and what leads to the next content. Both models' tokens are laid on one line of places: a content has a place for
each of its UTF-8 bytes, everything else one place, at which all its tokens end.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import chain

import numpy as np
from transformers import PreTrainedTokenizerFast

from kdkit.alignment.encoding import TextEncoder
from kdkit.alignment.pieces import Pieces
from kdkit.alignment.templates import ChatTemplate, Message, Piece, width
from kdkit.alignment.tokenizers import after_special

OPENING, CONTENT, END, BETWEEN = range(4)
"""Kinds of intervals."""


@dataclass(frozen=True)
class Fitted:
    """A conversation as both models read it: without the spaces around contents that one of the templates strips."""

    messages: tuple[Message, ...]
    is_cut: bool = False
    """Something of it was left out to make it fit."""
    answer_is_cut: bool = False
    """Its last answer goes on, so no end of turn follows it."""
    document: int = 0
    """Its number among those that were given."""

    @cached_property
    def sizes(self) -> list[int]:
        """UTF-8 bytes of each content."""
        return [len(message.content.encode()) for message in self.messages]

    def without_spaces(self, stripped: Iterable[tuple[bool, ...] | None]) -> "Fitted":
        """Return the same without the spaces around contents that a template strips.

        Args:
            stripped: of each template; see `ChatTemplate.check`.
        """
        marks = [found for found in stripped if found is not None]
        if not marks:
            return self
        pairs = zip(self.messages, map(any, zip(*marks, strict=True)), strict=True)
        return replace(
            self, messages=tuple(replace(m, content=m.content.strip()) if strip else m for m, strip in pairs)
        )


@dataclass(frozen=True)
class SideTokens:
    """The tokens of one side, conversation after conversation, without the first one of each."""

    starts: np.ndarray
    """int64, `[num_conversations]`: the first tokens."""
    ids: np.ndarray
    """int32, `[num_tokens]`."""
    places: np.ndarray
    """int64, `[num_tokens]`: where each token ends on the common line, non-decreasing."""
    counts: np.ndarray
    """int64, `[num_conversations]`: tokens of each, its first one included."""
    losses: np.ndarray
    """int64, `[num_losses, 3]`: see `find_losses`; tokens are counted as in `ids`."""


@dataclass(frozen=True)
class Laid:
    """What one side's model reads of conversations, before its texts are tokenized."""

    codes: np.ndarray
    """int64, `[num_pieces]`: special tokens, and -1 for each text, conversation after conversation."""
    texts: list[str]
    """The texts."""
    counts: np.ndarray
    """int64, `[num_conversations]`: pieces of each."""
    widths: np.ndarray
    """int64, `[num_intervals]`: UTF-8 bytes of text, and 1 for a special token."""


class SharedCuts:
    """Cuts the texts of all sides: sides whose templates write the same texts have the same pieces."""

    def __init__(self, texts: Iterable[str]):
        """Prepare for such texts."""
        self._numbers = {text: number for number, text in enumerate(dict.fromkeys(texts))}
        self._cut: dict[int, Pieces | None] = {}

    def find(self, texts: list[str], encoder: TextEncoder) -> Pieces | None:
        """Return what the `cut` of an encoder makes of some of the texts."""
        if encoder.level not in self._cut:
            self._cut[encoder.level] = encoder.cut(list(self._numbers))
        pieces = self._cut[encoder.level]
        return pieces and pieces.take(np.array([self._numbers[text] for text in texts], np.int64))


class Side:
    """A tokenizer and its template."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, template: ChatTemplate, max_length: int):
        """Prepare one side.

        Args:
            max_length: tokens of a row at most.
        """
        self.tokenizer, self.template, self.max_length = tokenizer, template, max_length
        opening = template.begin(template.around(("user", "assistant"))[0])
        self.encoder = TextEncoder(tokenizer if isinstance(opening[0], str) else after_special(tokenizer))
        self._checked = False
        self._frames: dict[tuple[tuple[str, ...], bool], _Frame] = {}

    def pieces(self, fitted: Fitted) -> tuple[list[Piece], list[int]]:
        """Return what a model reads, and the width of each interval in it: bytes of text, and 1 for a special token.

        No two neighbours are texts, and none is empty.
        """
        roles = tuple(message.role for message in fitted.messages)
        opening, text, behind, widths = self._frame(roles, fitted.answer_is_cut)
        pieces = list(opening)
        for message, after in zip(fitted.messages, behind, strict=True):
            text += message.content + after.head
            if after.middle:
                if text:
                    pieces.append(text)
                pieces += after.middle
                text = after.tail
        if text:
            pieces.append(text)
        widths = widths.copy()
        widths[1::3] = fitted.sizes
        return pieces, widths

    def _frame(self, roles: tuple[str, ...], answer_is_cut: bool) -> "_Frame":
        """Return what stands around the contents of a conversation."""
        if (roles, answer_is_cut) not in self._frames:
            around = self.template.around(roles)
            opening = self.template.begin(around[0])
            behind, widths = [], [width(opening)]
            for number, stretch in enumerate(around[1:], start=1):
                is_last = number == len(roles)
                cut = self.template.split(stretch, is_last)
                goes_on = answer_is_cut and is_last
                behind.append(_Between.of((*(() if goes_on else cut.end), *cut.rest)))
                widths += (0, 0 if goes_on else cut.widths[0], cut.widths[1])
            first = _Between.of((-1, *opening))  # as if a special token stood before it
            self._frames[roles, answer_is_cut] = first.middle[1:], first.tail, behind, widths[:-1]
        return self._frames[roles, answer_is_cut]

    def lay(self, conversations: list[Fitted]) -> Laid:
        """Put what a model reads of conversations after each other."""
        pieces, widths = zip(*map(self.pieces, conversations), strict=True)
        joined = list(chain.from_iterable(pieces))
        codes = np.array([-1 if isinstance(piece, str) else piece for piece in joined], np.int64)
        texts: list[str] = [joined[place] for place in np.flatnonzero(codes < 0).tolist()]  # type: ignore[misc]
        if texts and not self._checked:
            self.encoder.check(max(texts[:64], key=len)[:10_000])
            self._checked = True
        return Laid(codes, texts, np.array(list(map(len, pieces))), np.fromiter(chain.from_iterable(widths), np.int64))

    def read(self, laid: Laid, cuts: SharedCuts, lines: np.ndarray, is_content: np.ndarray) -> SideTokens:
        """Tokenize conversations.

        Args:
            laid: what `lay` made of them.
            cuts: of its texts.
            lines: int64, `[num_intervals]`: where each interval ends on the common line.
            is_content: bool, `[num_intervals]`.
        """
        codes, texts = laid.codes, laid.texts
        is_text = codes < 0
        ids, covered, text_counts, losses = self.encoder.encode(texts, cuts.find(texts, self.encoder))
        counts, sizes = np.ones(len(codes), np.int64), np.ones(len(codes), np.int64)
        counts[is_text] = text_counts
        sizes[is_text] = [len(text.encode()) for text in texts]
        of_item = np.repeat(np.arange(len(codes)), counts)
        all_ids, within = codes[of_item], np.ones(len(of_item), np.int64)
        in_text = is_text[of_item]
        all_ids[in_text] = ids
        within[in_text] = covered.cumsum() - np.repeat(
            (sums := _sums(covered, text_counts)).cumsum() - sums, text_counts
        )
        ends = (sizes.cumsum() - sizes)[of_item] + within
        limits = laid.widths.cumsum()
        assert limits[-1] == sizes.sum()
        interval = np.searchsorted(limits, ends, side="left")
        places = lines[interval] - np.where(is_content[interval], limits[interval] - ends, 0)
        lengths = _sums(counts, laid.counts)
        first = lengths.cumsum() - lengths
        number = np.flatnonzero(in_text)  # of each token of text among all
        kept = np.ones(len(all_ids), bool)
        kept[first] = False
        moved = number[losses[:, 0]]
        losses = np.column_stack([np.cumsum(kept)[moved] - 1, losses[:, 1:]])[kept[moved]]
        return SideTokens(all_ids[first], all_ids[kept].astype(np.int32), places[kept], lengths, losses)

    def count(self, laid: Laid, cuts: SharedCuts) -> int:
        """Count the tokens of what `lay` made; see `read`."""
        texts = laid.texts
        of_text = len(self.encoder.encode(texts, cuts.find(texts, self.encoder))[0]) if texts else 0
        return len(laid.codes) - len(texts) + of_text


@lru_cache(maxsize=1024)
def interval_kinds(roles: tuple[str, ...], loss_on: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the kind of each interval of a conversation, and whether it is in the loss; both `[3 * len(roles)]`.

    With `loss_on` alone the prompt is one interval, so there are three.
    """
    if loss_on == "alone":
        return np.array([OPENING, CONTENT, END]), np.array([False, True, True])
    kinds = np.array([OPENING, *[CONTENT, END, BETWEEN] * len(roles)][:-1])
    chosen = {"answers": [role == "assistant" for role in roles], "all": [True] * len(roles)}
    wanted = chosen.get(loss_on) or [False] * (len(roles) - 1) + [True]
    is_counted = np.array([False, *chain.from_iterable((each, each, False) for each in wanted)][:-1])
    return kinds, is_counted


def _sums(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Sum neighbouring values, so many at a time."""
    sums = np.append(0, values.cumsum())
    stops = counts.cumsum()
    return sums[stops] - sums[stops - counts]


@dataclass(frozen=True)
class _Between:
    """What a template writes between two contents, with the texts that go on from one and into the other."""

    head: str
    """Text behind a content; all there is where no special token follows."""
    middle: list[Piece]
    """From the first special token to the last one."""
    tail: str
    """Text before the next content."""

    @classmethod
    def of(cls, pieces: Sequence[Piece]) -> "_Between":
        """Join neighbouring texts."""
        joined: list[Piece] = []
        texts = [""]
        for piece in pieces:
            if isinstance(piece, str):
                texts[-1] += piece
                continue
            joined += [texts[-1], piece]
            texts.append("")
        return cls(texts[0], [piece for piece in joined[1:] if piece != ""], texts[-1] if joined else "")


_Frame = tuple[list[Piece], str, list[_Between], list[int]]
"""What a template writes before the first content, the text last, and behind each; the widths of all intervals."""
