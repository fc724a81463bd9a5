"""Two token streams of the same text, side by side, and the groups of tokens that cover the same bytes."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from kdkit.alignment.bytes import align_ends
from kdkit.alignment.encoding import Encoded, TextEncoder
from kdkit.alignment.fidelity import no_losses

BATCH_CHARACTERS = 1_000_000
"""Text that is tokenized at once; a longer document is cut where neither tokenizer can tell."""

CHECKED_CHARACTERS = 10_000
"""Beginning of the text at which the fast tokenization is compared with the slow one."""


@dataclass(frozen=True)
class Streams:
    """A stretch of both streams."""

    student_ids: np.ndarray
    """int32, `[student_tokens]`."""
    teacher_ids: np.ndarray
    """int32, `[teacher_tokens]`."""
    groups: np.ndarray
    """int64, `[num_groups, 4]`: indices into the streams; see `align_ends`."""
    group_bytes: np.ndarray
    """int64, `[num_groups]`: bytes of text in each group."""
    documents: np.ndarray
    """int64, `[num_groups]`: number of the document that each group is of."""
    student_losses: np.ndarray
    """int64, `[num_losses, 3]`: what the student's tokens do not spell, in their order; see `find_losses`."""
    teacher_losses: np.ndarray
    """The same for the teacher's."""

    def then(self, *later: "Streams") -> "Streams":
        """Return these streams with others after them."""
        parts, num_tokens = [self], np.array([len(self.student_ids), len(self.teacher_ids)])
        for each in later:
            parts.append(each._moved(*num_tokens))
            num_tokens += [len(each.student_ids), len(each.teacher_ids)]
        return Streams(*map(np.concatenate, zip(*(vars(part).values() for part in parts), strict=True)))

    def rest(self, group: int) -> "Streams":
        """Return what is left from a group on."""
        if group >= len(self.groups):
            return empty_streams()
        student, teacher = self.groups[group, [0, 2]]
        per_group = (array[group:] for array in (self.groups, self.group_bytes, self.documents))
        losses = self.student_losses, self.teacher_losses
        later = (found[found[:, 0] >= first] for found, first in zip(losses, (student, teacher), strict=True))
        return Streams(self.student_ids[student:], self.teacher_ids[teacher:], *per_group, *later)._moved(
            -student, -teacher
        )

    def _moved(self, student: int, teacher: int) -> "Streams":
        """Return the same with every index moved by a number of tokens."""
        return replace(
            self,
            groups=self.groups + np.repeat([student, teacher], 2),
            student_losses=self.student_losses + np.array([student, 0, 0]),
            teacher_losses=self.teacher_losses + np.array([teacher, 0, 0]),
        )


def empty_streams() -> Streams:
    """Return streams of no text."""
    ids, numbers, groups = np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros((0, 4), np.int64)
    return Streams(ids, ids, groups, numbers, numbers, no_losses(), no_losses())


def read_streams(
    documents: Iterable[str], encoders: tuple[TextEncoder, TextEncoder], end_ids: tuple[int, int]
) -> Iterator[Streams]:
    """Tokenize documents twice and yield the streams, about a megabyte at once; an end token follows each document.

    Documents of which a tokenizer leaves nothing are left out.

    Args:
        documents: valid texts (see `clean_text`).
        encoders: of the student and of the teacher, which may be the same.
        end_ids: tokens of both that follow a document.
    """
    number = 0
    student, teacher = encoders
    for texts, ends_here in _batches(documents, student.may_cut and teacher.may_cut):
        if not number:
            for encoder in encoders:
                encoder.check(texts[0][:CHECKED_CHARACTERS])
        pieces = student.cut(texts)
        encoded = [student.encode(texts, pieces)] * 2
        if teacher is not student:
            encoded[1] = teacher.encode(texts, pieces if teacher.level == student.level else None)
        is_end = np.array(ends_here)
        kept = np.logical_and(*(each[2] > 0 for each in encoded))
        if not kept.all():
            encoded = [_choose(kept, *each) for each in encoded]
            is_end = is_end[kept]
        if len(is_end):
            streams = _align(encoded, is_end, end_ids, number)
            number += int(is_end.sum())
            yield streams


def _batches(documents: Iterable[str], may_cut: bool) -> Iterator[tuple[list[str], list[bool]]]:
    """Gather documents, or pieces of long ones, with whether each is the end of its document."""
    texts: list[str] = []
    ends: list[bool] = []
    size = 0
    for document in documents:
        for text, is_end in _cut_long(document) if may_cut else [(document, True)]:
            if text:
                texts.append(text)
                ends.append(is_end)
                size += len(text)
            if size >= BATCH_CHARACTERS:
                yield texts, ends
                texts, ends, size = [], [], 0
    if texts:
        yield texts, ends


def _cut_long(document: str) -> Iterator[tuple[str, bool]]:
    """Yield the pieces of a document, cut between two words, with whether it ends there; see `TextEncoder`."""
    start = 0
    while len(document) - start > BATCH_CHARACTERS:
        stop = document.find(" ", start + BATCH_CHARACTERS)
        while stop > 0 and (document[stop - 1].isspace() or document[stop + 1 : stop + 2].isspace()):
            stop = document.find(" ", stop + 1)
        if stop < 0 or stop + 1 == len(document):
            break
        yield document[start:stop], False
        start = stop
    yield document[start:], True


def _choose(kept: np.ndarray, ids: np.ndarray, widths: np.ndarray, counts: np.ndarray, losses: np.ndarray) -> Encoded:
    """Leave out the tokens of some texts."""
    tokens = np.repeat(kept, counts)
    losses = losses[tokens[losses[:, 0]]]
    losses[:, 0] = np.cumsum(tokens)[losses[:, 0]] - 1
    return ids[tokens], widths[tokens], counts[kept], losses


def _align(encoded: list[Encoded], is_end: np.ndarray, end_ids: tuple[int, int], number: int) -> Streams:
    """Put end tokens after documents and group the tokens of both sides.

    An end token counts as one byte, and one more lies between documents, so that a token that covers nothing belongs
    to what follows it at the begin of a document, and to what it follows elsewhere.

    Args:
        encoded: see `TextEncoder.encode`, of both sides; each text has tokens.
        is_end: bool, `[num_texts]`: whether a document ends with the text.
        number: of the first document.
    """
    before = np.cumsum(is_end) - is_end
    ids, ends, lost = [], [], []
    for (tokens, widths, counts, losses), end_id in zip(encoded, end_ids, strict=True):
        places = np.cumsum(counts)[is_end]
        ids.append(np.insert(tokens, places, end_id))
        ends.append(np.cumsum(np.insert(widths, places, 1)) + np.repeat(before, counts + is_end))
        moved = losses[:, 0] + np.searchsorted(places, losses[:, 0], side="right")
        lost.append(np.column_stack([moved, losses[:, 1:]]))
    last = ends[0][(np.cumsum(encoded[0][2]) + before)[is_end]]  # where the end tokens end
    groups = align_ends(*ends, begins=np.append(0, last + 1))
    places = ends[0][groups[:, 1] - 1]
    covered = np.diff(places, prepend=0)
    ending = np.searchsorted(places, last)
    covered[ending] = 0
    first = ending + 1
    covered[first[first < len(covered)]] -= 1
    documents = np.zeros(len(groups), np.int64)
    documents[first[first < len(groups)]] = 1
    return Streams(*ids, groups, covered, number + np.cumsum(documents), *lost)


class StreamBuilder:
    """Two token streams in the making, text after text, from tokens whose bytes are known."""

    def __init__(self):
        self.num_groups = 0
        self._parts: list[Streams] = []

    def add_document(
        self,
        student_ids: list[int],
        student_ends: np.ndarray,
        teacher_ids: list[int],
        teacher_ends: np.ndarray,
        end_ids: tuple[int, int] | None,
    ) -> None:
        """Add the tokens of one text, aligned by the bytes at which they end.

        Args:
            student_ends: int64: see `encode_with_ends`.
            end_ids: tokens that follow the document in both streams; None: it goes on.
        """
        aligned = align_ends(student_ends, teacher_ends)
        covered = np.diff(student_ends[aligned[:, 1] - 1], prepend=0) if len(aligned) else np.zeros(0, np.int64)
        if not len(aligned) and (student_ids or end_ids is None):
            return
        if end_ids is not None:
            ending = [[len(student_ids), len(student_ids) + 1, len(teacher_ids), len(teacher_ids) + 1]]
            aligned, covered = np.concatenate([aligned, ending]), np.append(covered, 0)
            student_ids, teacher_ids = [*student_ids, end_ids[0]], [*teacher_ids, end_ids[1]]
        number = np.full(len(aligned), len(self._parts))
        ids = np.array(student_ids, np.int32), np.array(teacher_ids, np.int32)
        self._parts.append(Streams(*ids, aligned, covered, number, no_losses(), no_losses()))
        self.num_groups += len(aligned)

    def join(self) -> Streams:
        """Return what was added."""
        return empty_streams().then(*self._parts)
