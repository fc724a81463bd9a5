"""Two token streams of the same text, side by side, and the groups of tokens that cover the same bytes."""

from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass

import numpy as np

from kdkit.alignment.bytes import align_ends
from kdkit.alignment.encoding import TextEncoder

BATCH_CHARACTERS = 500_000
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

    def then(self, later: "Streams") -> "Streams":
        """Return these streams with others after them."""
        shift = np.repeat([len(self.student_ids), len(self.teacher_ids)], 2)
        pairs = zip(astuple(self), astuple(later), strict=True)
        students, teachers, _, num_bytes, documents = (np.concatenate(pair) for pair in pairs)
        groups = np.concatenate([self.groups, later.groups + shift])
        return Streams(students, teachers, groups, num_bytes, documents)

    def rest(self, group: int) -> "Streams":
        """Return what is left from a group on."""
        if group >= len(self.groups):
            return no_streams()
        student, teacher = self.groups[group, [0, 2]]
        groups = self.groups[group:] - np.repeat([student, teacher], 2)
        parts = self.student_ids[student:], self.teacher_ids[teacher:], groups
        return Streams(*parts, self.group_bytes[group:], self.documents[group:])


def no_streams() -> Streams:
    """Return streams without a token."""
    ids, numbers = np.zeros(0, np.int32), np.zeros(0, np.int64)
    return Streams(ids, ids, np.zeros((0, 4), np.int64), numbers, numbers)


def read_streams(
    documents: Iterable[str], encoders: tuple[TextEncoder, TextEncoder], end_ids: tuple[int, int]
) -> Iterator[Streams]:
    """Tokenize documents twice and yield the streams, about a megabyte at once; an end token follows each document.

    Documents of which a tokenizer leaves nothing are left out.

    Args:
        documents: valid texts (see `clean_text`).
        encoders: of the student and of the teacher.
        end_ids: tokens of both that follow a document.
    """
    number = 0
    for texts, ends_here in _batches(documents, all(encoder.pieces is not None for encoder in encoders)):
        if not number:
            for encoder in encoders:
                encoder.check(texts[0][:CHECKED_CHARACTERS])
        encoded = [encoder.encode(texts) for encoder in encoders]
        is_end = np.array(ends_here)
        kept = np.logical_and(*(counts > 0 for _, _, counts in encoded))
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
        for text, is_end in cut_long(document, BATCH_CHARACTERS) if may_cut else [(document, True)]:
            if text:
                texts.append(text)
                ends.append(is_end)
                size += len(text)
            if size >= BATCH_CHARACTERS:
                yield texts, ends
                texts, ends, size = [], [], 0
    if texts:
        yield texts, ends


def cut_long(document: str, size: int) -> Iterator[tuple[str, bool]]:
    """Yield pieces of a document of about a size, cut between two words, with whether it ends there."""
    start = 0
    while len(document) - start > size:
        stop = document.find(" ", start + size)
        while stop > 0 and (document[stop - 1].isspace() or document[stop + 1 : stop + 2].isspace()):
            stop = document.find(" ", stop + 1)
        if stop < 0 or stop + 1 == len(document):
            break
        yield document[start:stop], False
        start = stop
    yield document[start:], True


def _choose(kept: np.ndarray, ids: np.ndarray, widths: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, ...]:
    """Leave out the tokens of some texts."""
    tokens = np.repeat(kept, counts)
    return ids[tokens], widths[tokens], counts[kept]


def _align(encoded: list[tuple[np.ndarray, ...]], is_end: np.ndarray, end_ids: tuple[int, int], number: int) -> Streams:
    """Put end tokens after documents and group the tokens of both sides.

    An end token counts as one byte, and one more lies between documents, so that a token that covers nothing belongs
    to what follows it at the begin of a document, and to what it follows elsewhere.

    Args:
        encoded: see `TextEncoder.encode`, of both sides; each text has tokens.
        is_end: bool, `[num_texts]`: whether a document ends with the text.
        number: of the first document.
    """
    before = np.cumsum(is_end) - is_end
    ids, ends = [], []
    for (tokens, widths, counts), end_id in zip(encoded, end_ids, strict=True):
        places = np.cumsum(counts)[is_end]
        ids.append(np.insert(tokens, places, end_id))
        ends.append(np.cumsum(np.insert(widths, places, 1)) + np.repeat(before, counts + is_end))
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
    return Streams(*ids, groups, covered, number + np.cumsum(documents))


class StreamBuilder:
    """Two token streams in the making, text after text, from tokens whose bytes are known."""

    def __init__(self):
        self.num_groups = 0
        self._parts = [no_streams()]

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
        number = np.full(len(aligned), len(self._parts) - 1)
        ids = np.array(student_ids, np.int32), np.array(teacher_ids, np.int32)
        self._parts.append(Streams(*ids, aligned, covered, number))
        self.num_groups += len(aligned)

    def join(self) -> Streams:
        """Return what was added."""
        shifts = np.cumsum([[len(p.student_ids), len(p.teacher_ids)] for p in self._parts], axis=0)
        shifts = np.repeat(shifts, 2, axis=1)
        groups = [part.groups + shift for part, shift in zip(self._parts[1:], shifts[:-1], strict=True)]
        students, teachers, _, num_bytes, documents = map(np.concatenate, zip(*map(astuple, self._parts), strict=True))
        return Streams(students, teachers, np.concatenate([self._parts[0].groups, *groups]), num_bytes, documents)
