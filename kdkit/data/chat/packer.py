"""Windows of conversations: one conversation a row, each model's own template around the contents.

The contents are aligned byte by byte. What the templates write between two contents is one group of tokens, in no loss;
the tokens that end a turn are a pair. A window starts with the first token of the template in place of a start token.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import reduce
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np

from kdkit.alignment.bytes import VocabularyOverlap, align_ends
from kdkit.alignment.templates import ContentChangedError
from kdkit.data.chat.fit import fit
from kdkit.data.chat.privileged import ALONE, AnswerSide, PrivilegedPrompt
from kdkit.data.chat.sides import CONTENT, Fitted, SharedCuts, Side, SideTokens, interval_kinds
from kdkit.data.conversations import Conversation
from kdkit.data.packing import WindowFiles
from kdkit.data.streams import BATCH_CHARACTERS, Streams
from kdkit.data.text.documents import DocumentWriter
from kdkit.data.windows import Windows, assemble_windows
from kdkit.errors import UserError

LossOn = Literal["answers", "last", "all", "alone"]
CHANGED, NO_ROOM = "the template changes a content", "no room for an answer"
TOO_LONG = "longer than a sequence, data.max_length"


@dataclass
class ChatPacker:
    """Cuts conversations into windows for a student and its teachers, each with its tokenizer and template."""

    student: Side
    teachers: Sequence[Side]
    overlaps: Sequence[VocabularyOverlap]
    """The common vocabulary with each teacher; the ends of a turn are a pair in it."""
    loss_on: LossOn = "answers"
    skips: bool = False
    """Leave out conversations that cannot be rendered, instead of refusing them."""
    cuts: bool = True
    """Cut conversations that are too long, instead of leaving them out."""
    counts: Counter[str] = field(default_factory=Counter)
    """What was packed and cut so far; see `describe`."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Conversations that are in no window, by the reason."""

    documents: list[int] = field(default_factory=list)
    """Number of the conversation, as they were given, that each window holds."""

    def write(self, documents: Iterable[str], folders: Sequence[Path]) -> list[dict[str, Any]]:
        """Pack conversations (see `Conversation.to_json`) into a folder for every teacher, as the models read them.

        Returns:
            For each what `Windows.describe` says, and what `describe` does.

        Raises:
            UserError: a conversation that a template changes; none that fits.
        """
        self.counts.clear()
        self.left_out.clear()
        self.documents.clear()
        files = [WindowFiles(folder) for folder in folders]
        with ExitStack() as stack:
            writers = [stack.enter_context(DocumentWriter(folder / "conversations")) for folder in folders]
            for windows, kept in self.pack(documents):
                for file, part, writer in zip(files, windows, writers, strict=True):
                    file.append(part, 0)
                    for fitted in kept:
                        writer.add(Conversation(fitted.messages).to_json())
        return [file.close() | self.describe() for file in files]

    def describe(self) -> dict[str, Any]:
        """Return what was packed, cut and left out since the last `write` began.

        `conversations`, `answers` in the loss, `conversations_cut`, `turns_left_out`, `prompt_bytes_cut`,
        `answers_cut`, `conversations_left_out` by the reason.
        """
        names = "conversations", "answers", "conversations_cut", "turns_left_out", "prompt_bytes_cut", "answers_cut"
        return {name: self.counts[name] for name in names} | {"conversations_left_out": dict(self.left_out)}

    def pack(self, documents: Iterable[str]) -> Iterator[tuple[list[Windows], list[Fitted]]]:
        """Yield windows for every teacher, of about a megabyte of text at once, and the conversations that they hold.

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
            self.documents += [fitted.document for fitted in kept]
            yield windows, kept
        if cut:  # of the last, which hold the cut ones only
            self.left_out[NO_ROOM] += len(cut)
        if not number:
            raise UserError(
                f"data.max_length: expected room for a conversation in {self.student.max_length} tokens of the student "
                f"and {min(side.max_length for side in self.teachers)} of the teacher, got none that fits "
                f"({', '.join(f'{count:,}: {reason}' for reason, count in self.left_out.items())}); raise both: "
                f"data.max_length={2 * self.student.max_length} "
                f"teacher.max_length={2 * max(side.max_length for side in self.teachers)}"
            )

    @property
    def sides(self) -> list[Side]:
        """Whoever reads: the student, and every teacher that has another tokenizer object."""
        return [self.student, *(side for side in self.teachers if side.tokenizer is not self.student.tokenizer)]

    def _pack(self, shown: list[Fitted], number: int) -> tuple[list[Windows], list[Fitted], list[Fitted]]:
        """Make windows of conversations.

        Args:
            number: of the first conversation.

        Returns:
            The windows, the conversations in them, and shorter versions of those that are too long.
        """
        own = [None if self._reads_alike(side) else side.lay(shown) for side in self.teachers]
        laid = self.student.lay(shown)
        widths = [laid.widths, *(each.widths for each in own if each is not None)]
        line = _lay_out(shown, self.loss_on, np.sum(widths, axis=0) == 0)
        cuts = SharedCuts(chain(laid.texts, *(each.texts for each in own if each is not None)))
        student = self.student.read(laid, cuts, line.ends, line.kinds == CONTENT)
        teachers = [
            student if each is None else side.read(each, cuts, line.ends, line.kinds == CONTENT)
            for side, each in zip(self.teachers, own, strict=True)
        ]
        sides = [self.student, *self.teachers]
        over = np.array([each.counts for each in (student, *teachers)]).T - [side.max_length for side in sides]
        fits = (over <= 0).all(axis=1)
        groups = [align_ends(student.places, tokens.places) for tokens in teachers]
        counted = _agree(groups, [_find_counted(each, student, line) for each in groups])
        numbers, windows = number + np.cumsum(fits) - fits, []
        for side, tokens, overlap, each, is_counted in zip(
            self.teachers, teachers, self.overlaps, groups, counted, strict=True
        ):
            streams, of_group = _join(student, tokens, each, is_counted, line, numbers)
            stops = np.searchsorted(of_group, np.arange(len(shown)), side="right")
            bounds = np.column_stack([np.append(0, stops[:-1]), stops])[fits]
            starts = student.starts[fits], tokens.starts[fits]
            limits = self.student.max_length, side.max_length
            windows.append(assemble_windows(streams, bounds.tolist(), overlap, starts, limits, is_counted))
        kept = [fitted for fitted, has_room in zip(shown, fits, strict=True) if has_room]
        self.counts["conversations"] += len(kept)
        self.counts["answers"] += sum(_num_answers(fitted, self.loss_on) for fitted in kept)
        cut = [self._cut(shown[place], over[place].tolist()) for place in np.flatnonzero(~fits).tolist()]
        return windows, kept, [fitted for fitted in cut if fitted is not None]

    def _reads_alike(self, teacher: Side) -> bool:
        """Return whether a teacher reads what the student reads."""
        return teacher.tokenizer is self.student.tokenizer and self.loss_on != ALONE

    def _cut(self, fitted: Fitted, over: list[int]) -> Fitted | None:
        """Cut a conversation that is too long, by so many tokens on each side; None where that does not help."""
        if not self.cuts:
            self.left_out[TOO_LONG] += 1
            return None
        shorter = None if fitted.is_cut else fit(fitted, [self.student, *self.teachers], over, self.counts)
        if shorter is None:
            self.left_out[NO_ROOM] += 1
        return shorter

    def _show(self, batch: list[Fitted]) -> list[Fitted]:
        """Find out what of the contents both templates write: they as they are, or without the spaces around them."""
        if not batch:
            return []
        messages = [fitted.messages for fitted in batch]
        try:
            found = zip(*(side.template.check(messages) for side in self.sides), strict=True)
            return [fitted.without_spaces(each) for fitted, each in zip(batch, found, strict=True)]
        except (ContentChangedError, UserError) as error:
            if not self.skips:
                raise UserError(
                    f"{error}; give another template, or leave such conversations out: data.bad_rows=skip"
                ) from None
            if len(batch) == 1:
                self.left_out[CHANGED] += 1
                return []
        middle = len(batch) // 2
        return self._show(batch[:middle]) + self._show(batch[middle:])


def give_answers(packer: ChatPacker, privileged_prompt: str | None) -> ChatPacker:
    """Return what packs for teachers that are asked with the answer, see `AnswerSide`; the same where they are not."""
    if privileged_prompt is None:
        return packer
    student, *teachers = (
        AnswerSide(side.tokenizer, side.template, side.max_length) for side in (packer.student, *packer.teachers)
    )
    for teacher in teachers:
        teacher.privileged = PrivilegedPrompt(privileged_prompt)
    return replace(packer, student=student, teachers=teachers, loss_on=ALONE)


def describe_cuts(facts: dict[str, Any]) -> str:
    """Say in words what `ChatPacker.describe` counted; empty if nothing was cut or left out.

    Args:
        facts: with its entries.
    """
    parts = []
    if facts["conversations_cut"]:
        parts.append(f"{facts['conversations_cut']:,} of {facts['conversations']:,} were too long and cut in front")
        if facts["turns_left_out"]:
            parts.append(f"{facts['turns_left_out']:,} old turns left out")
        if facts["answers_cut"]:
            parts.append(f"{facts['answers_cut']:,} answers did not fit alone and lost their ends")
    parts += [f"{count:,} left out ({reason})" for reason, count in facts["conversations_left_out"].items()]
    return ", ".join(parts)


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


def _lay_out(shown: list[Fitted], loss_on: LossOn, is_empty: np.ndarray) -> _Line:
    """Lay the intervals of conversations out on one line.

    Args:
        is_empty: bool, `[num_intervals]`: where no side has anything. That keeps nothing out of the loss: a template
            may write nothing between two turns.
    """
    kinds, counted = zip(
        *(interval_kinds(tuple(m.role for m in fitted.messages), loss_on) for fitted in shown), strict=True
    )
    joined = np.concatenate(kinds)
    sizes = np.ones(len(joined), np.int64)
    first = -1 if loss_on == ALONE else 0
    sizes[joined == CONTENT] = list(chain.from_iterable(each.sizes[first:] for each in shown))
    is_counted = np.concatenate(counted) | is_empty
    return _Line(joined, sizes.cumsum(), is_counted, np.cumsum([len(each) for each in kinds]) - 1)


def _find_counted(groups: np.ndarray, student: SideTokens, line: _Line) -> np.ndarray:
    """Return the groups of which all is in the loss, bool, `[num_groups]`."""
    begins, ends, _ = _borders(groups, student, line)
    return line.sum_before(ends, ~line.is_counted) == line.sum_before(begins, ~line.is_counted)


def _agree(groups: list[np.ndarray], counted: list[np.ndarray]) -> list[np.ndarray]:
    """Let the student's tokens be in the loss beside every teacher or beside none.

    A stretch in which groups of all teachers end together counts if all groups in it do.

    Args:
        groups: of each teacher.
        counted: which of them are in the loss for this teacher.
    """
    edges = reduce(np.intersect1d, [each[:, 1] for each in groups])
    stretches = [np.searchsorted(edges, each[:, 1]) for each in groups]
    counts = np.ones(len(edges), bool)
    for of_group, is_counted in zip(stretches, counted, strict=True):
        counts[of_group[~is_counted]] = False
    return [counts[of_group] for of_group in stretches]


def _borders(groups: np.ndarray, student: SideTokens, line: _Line) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return where groups begin and end on the common line, and the conversation of each."""
    ends = student.places[groups[:, 1] - 1]
    borders = line.ends[line.last]
    of_group = np.searchsorted(borders, ends, side="left")
    # a window's first token is predicted by nobody, and is in no group
    return np.maximum(np.append(0, ends[:-1]), np.append(0, borders)[of_group]), ends, of_group


def _join(
    student: SideTokens,
    teacher: SideTokens,
    groups: np.ndarray,
    is_counted: np.ndarray,
    line: _Line,
    numbers: np.ndarray,
) -> tuple[Streams, np.ndarray]:
    """Put the tokens of both sides together.

    Args:
        groups: of the tokens.
        is_counted: which of them are in the loss.
        numbers: int64, `[num_conversations]`: what the documents are called.

    Returns:
        The streams, and the conversation of each group.
    """
    begins, ends, of_group = _borders(groups, student, line)
    is_text = line.is_counted & (line.kinds == CONTENT)
    covered = line.sum_before(ends, is_text) - line.sum_before(begins, is_text)
    losses = [
        side.losses[_counted_tokens(groups[:, 2 * n : 2 * n + 2], is_counted, len(side.ids))[side.losses[:, 0]]]
        for n, side in enumerate((student, teacher))
    ]
    return Streams(student.ids, teacher.ids, groups, covered * is_counted, numbers[of_group], *losses), of_group


def _counted_tokens(groups: np.ndarray, is_counted: np.ndarray, num_tokens: int) -> np.ndarray:
    """Return which tokens lie in groups that count, bool, `[num_tokens]`; `groups` are their first and last."""
    changes = np.zeros(num_tokens + 1, np.int64)
    np.add.at(changes, groups[is_counted, 0], 1)
    np.add.at(changes, groups[is_counted, 1], -1)
    return changes[:-1].cumsum() > 0


def _num_answers(fitted: Fitted, loss_on: LossOn) -> int:
    """Count the answers in the loss."""
    return 1 if loss_on in ("last", ALONE) else sum(message.role == "assistant" for message in fitted.messages)


def _batches(documents: Iterable[str]) -> Iterator[list[Fitted]]:
    """Gather conversations of about a megabyte."""
    batch: list[Fitted] = []
    size = 0
    for number, document in enumerate(documents):
        batch.append(Fitted(Conversation.from_json(document).messages, document=number))
        size += len(document)
        if size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
