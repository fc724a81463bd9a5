"""Windows of conversations: one conversation a row, each model's own template around the contents.

The contents are aligned byte by byte. What the templates write between two contents is one group of tokens, in no loss;
the tokens that end a turn are a pair. A window starts with the first token of the template in place of a start token.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np

from kdkit.alignment.bytes import VocabularyOverlap, align_ends
from kdkit.alignment.templates import ContentChangedError
from kdkit.data.chat.fit import fit
from kdkit.data.chat.sides import CONTENT, Fitted, Shown, Side, SideTokens, interval_kinds, show
from kdkit.data.conversations import Conversation
from kdkit.data.documents import DocumentWriter
from kdkit.data.packing import write_windows
from kdkit.data.streams import BATCH_CHARACTERS, Streams
from kdkit.data.windows import Windows, assemble_windows
from kdkit.errors import UserError

LossOn = Literal["answers", "last", "all"]
CHANGED, NO_ROOM = "the template changes a content", "no room for an answer"


@dataclass
class ChatPacker:
    """Cuts conversations into windows for two tokenizers and their templates."""

    student: Side
    teacher: Side
    overlap: VocabularyOverlap
    """The common vocabulary; the ends of a turn are a pair in it."""
    loss_on: LossOn = "answers"
    skips: bool = False
    """Leave out conversations that cannot be rendered, instead of refusing them."""
    counts: Counter[str] = field(default_factory=Counter)
    """What was packed and cut so far; see `describe`."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Conversations that are in no window, by the reason."""

    def write(self, documents: Iterable[str], folder: Path) -> dict[str, Any]:
        """Pack conversations (see `Conversation.to_json`) into a folder, and write them as the models read them.

        Returns:
            What `Windows.describe` says, and what `describe` does.

        Raises:
            UserError: a conversation that a template changes; none that fits.
        """
        self.counts.clear()
        self.left_out.clear()
        with DocumentWriter(folder / "conversations") as writer:
            return write_windows(self._write_each(documents, writer), folder) | self.describe()

    def describe(self) -> dict[str, Any]:
        """Return what was packed, cut and left out since the last `write` began.

        `conversations`, `answers` in the loss, `conversations_cut`, `turns_left_out`, `prompt_bytes_cut`,
        `answers_cut`, `conversations_left_out` by the reason.
        """
        names = "conversations", "answers", "conversations_cut", "turns_left_out", "prompt_bytes_cut", "answers_cut"
        return {name: self.counts[name] for name in names} | {"conversations_left_out": dict(self.left_out)}

    def _write_each(self, documents: Iterable[str], writer: DocumentWriter) -> Iterator[tuple[Windows, int]]:
        for windows, kept in self.pack(documents):
            for fitted in kept:
                writer.add(Conversation(fitted.messages).to_json())
            yield windows, 0

    def pack(self, documents: Iterable[str]) -> Iterator[tuple[Windows, list[Fitted]]]:
        """Yield windows, those of about a megabyte of text at once, and the conversations that they hold, in order.

        Conversations that had to be cut follow a batch later.
        """
        number = 0
        cut: list[Fitted] = []
        for batch in chain(_batches(documents), [[]]):
            shown = self._show([*batch, *cut])
            if not shown:
                cut = []
                continue
            windows, kept, cut = self._pack(shown, number)
            number += len(kept)
            yield windows, kept
        if cut:  # of the last, which hold the cut ones only
            self.left_out[NO_ROOM] += len(cut)
        if not number:
            raise UserError(
                f"data.max_length: expected room for a conversation in {self.student.max_length} tokens of the student "
                f"and {self.teacher.max_length} of the teacher, got none that fits ({dict(self.left_out)}); raise it"
            )

    def _pack(self, shown: list[tuple[Fitted, Shown]], number: int) -> tuple[Windows, list[Fitted], list[Fitted]]:
        """Make windows of conversations.

        Args:
            number: of the first conversation.

        Returns:
            The windows, the conversations in them, and shorter versions of those that are too long.
        """
        line = _lay_out(shown, self.loss_on)
        student = self.student.read(shown, line.ends, line.kinds == CONTENT)
        is_one = self.student.tokenizer is self.teacher.tokenizer
        teacher = student if is_one else self.teacher.read(shown, line.ends, line.kinds == CONTENT)
        limits = self.student.max_length, self.teacher.max_length
        fits = (student.counts <= limits[0]) & (teacher.counts <= limits[1])
        streams, is_counted, of_group = _align(student, teacher, line, number + np.cumsum(fits) - fits)
        stops = np.searchsorted(of_group, np.arange(len(shown)), side="right")
        bounds = np.column_stack([np.append(0, stops[:-1]), stops])[fits]
        starts = student.starts[fits], teacher.starts[fits]
        windows = assemble_windows(streams, bounds.tolist(), self.overlap, starts, limits, is_counted)
        kept = [fitted for (fitted, _), has_room in zip(shown, fits, strict=True) if has_room]
        self.counts["conversations"] += len(kept)
        self.counts["answers"] += sum(_num_answers(fitted, self.loss_on) for fitted in kept)
        cut = [self._cut(*each) for each, has_room in zip(shown, fits, strict=True) if not has_room]
        return windows, kept, [fitted for fitted in cut if fitted is not None]

    def _cut(self, fitted: Fitted, shown: Shown) -> Fitted | None:
        """Cut a conversation that is too long; None where that does not help."""
        shorter = None if fitted.is_cut else fit(fitted, shown, (self.student, self.teacher), self.counts)
        if shorter is None:
            self.left_out[NO_ROOM] += 1
        return shorter

    def _show(self, batch: list[Fitted]) -> list[tuple[Fitted, Shown]]:
        """Find out what of the contents both templates write."""
        sides = [self.student] if self.student.tokenizer is self.teacher.tokenizer else [self.student, self.teacher]
        messages = [fitted.messages for fitted in batch]
        try:
            found = zip(*(side.template.check(messages) for side in sides), strict=True)
            return [(fitted, show(fitted, each)) for fitted, each in zip(batch, found, strict=True)] if batch else []
        except (ContentChangedError, UserError) as error:
            if not self.skips:
                raise UserError(f"{error}; leave such conversations out with data.bad_rows=skip") from None
            if len(batch) == 1:
                self.left_out[CHANGED] += 1
                return []
        middle = len(batch) // 2
        return self._show(batch[:middle]) + self._show(batch[middle:])


@dataclass(frozen=True)
class _Line:
    """The intervals of conversations, one after the other; see `kdkit.data.chat.sides`."""

    kinds: np.ndarray
    """int, `[num_intervals]`."""
    ends: np.ndarray
    """int64, `[num_intervals]`."""
    is_counted: np.ndarray
    """bool, `[num_intervals]`: whether it is in the loss."""
    last: np.ndarray
    """int64, `[num_conversations]`: number of the last interval of each."""

    def sum_before(self, places: np.ndarray, which: np.ndarray) -> np.ndarray:
        """Count the places of some intervals before each of some places.

        Args:
            which: bool, `[num_intervals]`.
        """
        sizes = np.diff(self.ends, prepend=0) * which
        interval = np.searchsorted(self.ends, places, side="left")
        return sizes.cumsum()[interval] - (self.ends[interval] - places) * which[interval]


def _lay_out(shown: list[tuple[Fitted, Shown]], loss_on: LossOn) -> _Line:
    """Lay the intervals of conversations out on one line."""
    kinds, counted = zip(
        *(interval_kinds(tuple(m.role for m in fitted.messages), loss_on) for fitted, _ in shown), strict=True
    )
    joined = np.concatenate(kinds)
    sizes = np.ones(len(joined), np.int64)
    sizes[joined == CONTENT] = list(chain.from_iterable(each.sizes for _, each in shown))
    return _Line(joined, sizes.cumsum(), np.concatenate(counted), np.cumsum([len(each) for each in kinds]) - 1)


def _align(
    student: SideTokens, teacher: SideTokens, line: _Line, numbers: np.ndarray
) -> tuple[Streams, np.ndarray, np.ndarray]:
    """Group the tokens of both sides.

    Args:
        numbers: int64, `[num_conversations]`: what the documents are called.

    Returns:
        The streams, which groups are in the loss, and the conversation of each group.
    """
    groups = align_ends(student.places, teacher.places)
    ends = student.places[groups[:, 1] - 1]
    borders = line.ends[line.last]
    of_group = np.searchsorted(borders, ends, side="left")
    # a window's first token is predicted by nobody, and is in no group
    begins = np.maximum(np.append(0, ends[:-1]), np.append(0, borders)[of_group])
    outside = ~line.is_counted
    is_counted = line.sum_before(ends, outside) == line.sum_before(begins, outside)
    is_text = line.is_counted & (line.kinds == CONTENT)
    covered = line.sum_before(ends, is_text) - line.sum_before(begins, is_text)
    losses = [
        side.losses[_counted_tokens(groups[:, 2 * n : 2 * n + 2], is_counted, len(side.ids))[side.losses[:, 0]]]
        for n, side in enumerate((student, teacher))
    ]
    streams = Streams(student.ids, teacher.ids, groups, covered * is_counted, numbers[of_group], *losses)
    return streams, is_counted, of_group


def _counted_tokens(groups: np.ndarray, is_counted: np.ndarray, num_tokens: int) -> np.ndarray:
    """Return which tokens lie in groups that count, bool, `[num_tokens]`; `groups` are their first and last."""
    changes = np.zeros(num_tokens + 1, np.int64)
    np.add.at(changes, groups[is_counted, 0], 1)
    np.add.at(changes, groups[is_counted, 1], -1)
    return changes[:-1].cumsum() > 0


def _num_answers(fitted: Fitted, loss_on: LossOn) -> int:
    """Count the answers in the loss."""
    return 1 if loss_on == "last" else sum(message.role == "assistant" for message in fitted.messages)


def _batches(documents: Iterable[str]) -> Iterator[list[Fitted]]:
    """Gather conversations of about a megabyte."""
    batch: list[Fitted] = []
    size = 0
    for document in documents:
        batch.append(Fitted(Conversation.from_json(document).messages))
        size += len(document)
        if size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
